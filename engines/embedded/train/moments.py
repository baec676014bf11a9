"""Fits the predictor of the vocoder's moments (`engines.embedded.moments`) on speech of random voices.

Sound i depends only on the seed and i, so that any number of processes may share the work. The voices are drawn from
the mapper's own space, so that they are like those that the engine will meet. The map is ridge regression on numbers
that are scaled so that each group of them counts the same, cut down to the coordinates that matter.
"""

from __future__ import annotations

import hashlib
import io
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np

from engines.contract import Mel, Utterance, Voice
from engines.embedded import vocoder
from engines.embedded.istftnet_cpu import CpuVocoder
from engines.embedded.mapper import ACOUSTIC_LIMIT, PROSODY_LIMIT, StyleMapper
from engines.embedded.moments import CHANNELS, DATA, MomentPredictor, as_numbers, whole
from engines.embedded.stages import EmbeddedAcousticModel, sound_of
from engines.embedded.train.sentences import TEXTS
from speech.errors import SpeechError

RANK = 64
RIDGE = 0.05  #: of what the known numbers of a sound measure together
_LENGTH_WEIGHT = 0.3
_LANGUAGES = (0.72, 0.18, 0.1)  #: shares of those in TEXTS
#: Sounds whose voices are as far from the mean as those of the bank. The voices of those that follow go further,
#: as real speakers do: without them the speech of some came out 3 dB too loud.
_NEAR, _FURTHER = 900, 1.5


class Sounds:
    """Makes the sounds that the predictor is fitted to."""

    def __init__(self) -> None:
        self._acoustic = EmbeddedAcousticModel(precision="float32")
        network = vocoder.load("cpu", bf16=False)
        assert isinstance(network, CpuVocoder)
        self._vocoder = network
        self._mapper = StyleMapper.load()

    def observe(self, index: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Make sound `index`; returns the numbers that are known (n,) and those that are to be expected (m,)."""
        chance = random.Random(f"{seed} {index}")
        spread = 1.0 if index < _NEAR else _FURTHER
        made: list[Mel | SpeechError] = []
        while not made or isinstance(made[0], SpeechError):  # a part of a sentence may be unspeakable
            made = self._acoustic.generate([(_utterance(chance), self._voice(chance, spread))])
        [mel] = made
        assert isinstance(mel, Mel)
        sound = sound_of(self._vocoder, mel.arrays)
        _, measured = whole(self._vocoder, sound)
        return as_numbers(self._vocoder.known(sound), sound.style, sound.columns), measured.row

    def _voice(self, chance: random.Random, spread: float) -> Voice:
        drawn = np.random.default_rng(chance.getrandbits(32))
        halves = []
        for axes, limit in (
            (self._mapper.acoustic_axes, ACOUSTIC_LIMIT),
            (self._mapper.prosody_axes, PROSODY_LIMIT),
        ):
            halves.append(np.clip(spread * drawn.standard_normal(len(axes)), -limit, limit) @ axes)
        log_f0 = np.log(np.array([chance.uniform(80, 280)], np.float32))
        return Voice({"style_offset": np.concatenate(halves).astype(np.float32), "log_f0": log_f0})


def _utterance(chance: random.Random) -> Utterance:
    """Draw a clause, a sentence or two, since the engine says pieces of all lengths."""
    [dialect] = chance.choices(list(TEXTS), _LANGUAGES)
    text = chance.choice(TEXTS[dialect])
    kind = chance.random()
    if kind < 0.5 and " " in text:
        words = text.rstrip(".?!").split()
        count = chance.randint(2, 7)
        start = chance.randint(0, max(0, len(words) - count))
        text = " ".join(words[start : start + count]).rstrip(",") + chance.choice(",.?")
    elif kind > 0.8:
        text = f"{text} {chance.choice(TEXTS[dialect])}"
    return Utterance(text, dialect, speed=chance.choice((0.8, 1.0, 1.0, 1.0, 1.25)), seed=chance.getrandbits(31))


def fill(folder: Path, count: int, seed: int, worker: int = 0, workers: int = 1) -> int:
    """Make the sounds that `folder` lacks, of those with index % workers == worker; returns how many were made."""
    folder.mkdir(parents=True, exist_ok=True)
    sounds, made = Sounds(), 0
    for index in range(worker, count, workers):
        path = folder / f"{index:05d}.npz"
        if not path.exists():
            known, wanted = sounds.observe(index, seed)
            partial = path.with_suffix(".partial")
            with open(partial, "wb") as file:
                np.savez(file, known=known, wanted=wanted)
            partial.rename(path)
            made += 1
    return made


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read all sounds of a folder: what is known of them (s, n), and what is to be expected (s, m)."""
    loaded = [np.load(path) for path in sorted(folder.glob("*.npz"))]
    return np.stack([one["known"] for one in loaded]), np.stack([one["wanted"] for one in loaded])


def fit(known: np.ndarray, wanted: np.ndarray, rank: int = RANK, ridge: float = RIDGE) -> MomentPredictor:
    """Fit the predictor to sounds: what is known of them (s, n), and what is to be expected (s, m)."""
    mean, scale = known.mean(0), (known.std(0) + 1e-6) * _group_sizes(known.shape[1])
    rows = ((known - mean) / scale).astype(np.float64)
    centre = wanted.mean(0)
    dual = np.linalg.solve(rows @ rows.T + ridge * np.eye(len(rows)), (wanted - centre).astype(np.float64))
    # What the fit says of its own sounds has the directions that matter. A moment is measured in deviations.
    said = rows @ (rows.T @ dual)
    left, sizes, right = np.linalg.svd(said, full_matrices=False)
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    basis = (rows.T @ dual) @ right.T / sizes
    coordinates = rows @ basis
    return MomentPredictor(
        **{
            name: np.asarray(value, np.float32)
            for name, value in {
                "known_mean": mean,
                "known_scale": scale,
                "basis": basis,
                "limits": np.abs(coordinates).max(0),
                "weights": sizes[:, None] * right,
                "mean": centre,
            }.items()
        }
    )


def _group_sizes(numbers: int) -> np.ndarray:
    """Return what each number (n,) is divided by, so that each group of them counts as one."""
    sizes = [2 * 256, 2 * 256, 2 * 128]
    sizes.append(numbers - 1 - sum(sizes))  # the style
    return np.concatenate([np.full(size, size**0.5) for size in sizes] + [[1 / _LENGTH_WEIGHT]])


def save(predictor: MomentPredictor, path: Path = DATA) -> str:
    """Write the predictor and its checksum, as half floats where these do; returns the SHA-256."""
    assert len(predictor.mean) == 2 * sum(CHANNELS) + 1
    kept = {
        name: array.astype(np.float16 if array.ndim == 2 else np.float32) for name, array in asdict(predictor).items()
    }
    packed = io.BytesIO()
    np.savez_compressed(packed, **kept)
    path.write_bytes(packed.getvalue())
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
    return digest
