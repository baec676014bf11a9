"""The bank holds synthetic clips of random voices, each with the style it was spoken with.

Clip i depends only on the seed and i, so that any number of processes may share the work, and a bank can be stopped,
resumed and enlarged.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import soxr
import torch

from engines.embedded import acoustic, vocoder
from engines.embedded.mapper import ACOUSTIC, PROSODY
from engines.embedded.train.sentences import ENGLISH, MANDARIN, token_ids

RATE = 16_000  #: Hz of the stored clips, the speaker encoder's rate


class Synthesiser:
    """Kokoro's two networks alone, on the CPU.

    Args:
        bf16: compute the vocoder in bfloat16: faster, and without effect on the speaker encoder.
    """

    def __init__(self, threads: int = 1, bf16: bool | Literal["auto"] = "auto") -> None:
        torch.set_num_threads(threads)
        self._acoustic = acoustic.load()
        self._vocoder = vocoder.load("cpu", bf16, threads)

    def speak(
        self, tokens: list[int], style: np.ndarray, log_f0: float | None = None, pitch_shift: float = 0.0, seed: int = 0
    ) -> np.ndarray:
        """Speak phonemes in a style: mono float32 (n,) at 24 kHz.

        Args:
            tokens: phoneme ids without boundaries.
            style: (256,) float32.
            log_f0: ln of the median pitch in Hz to speak at; None keeps the style's own, moved by `pitch_shift`.
        """
        ids, lengths = acoustic.pad([tokens])
        styles = torch.from_numpy(np.asarray(style, dtype=np.float32))[None]
        target = None if log_f0 is None else torch.tensor([log_f0], dtype=torch.float32)
        drawn = self._acoustic(ids, lengths, styles, 1.0, target)
        voiced = drawn.pitch > acoustic.VOICED_HZ
        pitch = torch.where(voiced, drawn.pitch * float(np.exp(pitch_shift)), drawn.pitch)
        return self._vocoder(drawn.features, pitch, styles, seeds=[seed])[0].numpy()


def make_clip(
    index: int, seed: int, packs: np.ndarray, sentences: list[list[int]], synthesiser: Synthesiser
) -> dict[str, np.ndarray]:
    """Make clip `index` of the bank with this `seed`.

    The first clips are the stock voices as they are, one each. The others are blends of one to five voices. Most are
    pushed further from the mean than any stock voice, and half are moved in pitch: the engine moves the pitch too, so
    the regression must learn what remains of a voice then.

    Args:
        packs: (voices, 510, 256).

    Returns:
        `wave` int16 (n,) at 16 kHz, `style` and `mean` (256,), the mean pack's style for the same length of text.
    """
    random = np.random.default_rng([seed, index])
    voices = len(packs)
    if index < voices:
        weights = prosody_weights = np.eye(voices)[index]
        push, prosody_push, shift = 1.0, 1.0, 0.0
        sentence = index % len(ENGLISH)
    else:
        weights = prosody_weights = _blend(random, voices)
        if random.random() < 0.35:
            prosody_weights = _blend(random, voices)
        push, prosody_push = random.uniform(0.9, 1.8), random.uniform(0.9, 1.4)
        shift = random.uniform(-0.25, 0.25) if random.random() < 0.5 else 0.0
        sentence = int(random.integers(len(sentences)))
    tokens = sentences[sentence]
    styles = packs[:, len(tokens) - 1]
    mean = styles.mean(axis=0)
    style = mean.copy()
    style[ACOUSTIC] += push * (weights @ styles[:, ACOUSTIC] - mean[ACOUSTIC])
    style[PROSODY] += prosody_push * (prosody_weights @ styles[:, PROSODY] - mean[PROSODY])
    wave = synthesiser.speak(tokens, style, pitch_shift=shift, seed=index)
    heard = np.clip(soxr.resample(wave, vocoder.SAMPLE_RATE, RATE), -1, 1)
    return {"wave": (heard * 32767).astype(np.int16), "style": style.astype(np.float32), "mean": mean}


def _blend(random: np.random.Generator, voices: int) -> np.ndarray:
    """Draw weights (voices,) that sum to 1, with one to five of them above 0."""
    count = random.choice([1, 2, 3, 4, 5], p=[0.08, 0.27, 0.30, 0.20, 0.15])
    weights = np.zeros(voices)
    weights[random.choice(voices, count, replace=False)] = random.dirichlet(np.ones(count))
    return weights


def fill(folder: Path, packs: dict[str, np.ndarray], clips: int, seed: int, worker: int = 0, workers: int = 1) -> int:
    """Make the clips that `folder` lacks, of those with index % workers == worker; returns how many were made."""
    folder.mkdir(parents=True, exist_ok=True)
    stacked = np.stack(list(packs.values()))
    sentences = token_ids(ENGLISH + MANDARIN)
    synthesiser = Synthesiser()
    made = 0
    for index in range(worker, clips, workers):
        path = folder / f"{index:05d}.npz"
        if path.exists():
            continue
        clip = make_clip(index, seed, stacked, sentences, synthesiser)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, **cast(dict[str, Any], clip))
        partial.rename(path)
        made += 1
        if made % 25 == 0:
            print(f"worker {worker}: clip {index + 1} of {clips}", flush=True)
    return made
