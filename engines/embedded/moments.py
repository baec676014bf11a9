"""Expects the moments of the vocoder's norms, and the loudness, so that a sound can be computed from its beginning.

The vocoder normalises each of 48 layers by its mean and variance over the whole sound. So no sample is known before all
of it is computed. But what these will be can be told beforehand: they follow from the style, and from the moments of
what the blocks are given, which take 4 % of the time. A linear map of low rank expects the 48 means and
logarithms of deviations, and what is known of the voice corrects it. `python -m engines.embedded.train moments` fits
the map; docs/speed.md has what it costs in sound.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engines.embedded import loudness, vocoder
from engines.embedded.finish import speech_in
from engines.embedded.istftnet_cpu import CpuVocoder, Sound
from engines.embedded.norm_moments import Moments
from engines.embedded.packages import carried

DATA = Path(__file__).with_name("moments.npz")
CHANNELS = (256,) * 24 + (128,) * 24  #: of the norms, in the order of their computation
_SIZES = [size for size in CHANNELS for _ in range(2)]  #: of a row's groups: mean, deviation, mean, ...
#: The inputs of these norms are themselves among what the blocks are given.
EXACT = {0: 1, 24: 2}
LEARNED_FROM = 4  #: sounds of a voice
_REPAIR = (
    "Restore engines/embedded/moments.npz and moments.npz.sha256 from the repository (git checkout), or make both "
    "again with: python -m engines.embedded.train moments"
)


def _seconds(sizes: Sequence[int]) -> np.ndarray:
    """Mark the numbers of every second one of the groups that lie in a row, bool (n,)."""
    return np.repeat(np.arange(len(sizes)) % 2 == 1, sizes)


_DEVIATIONS = _seconds(_SIZES)


@dataclass(frozen=True)
class Expected:
    """Holds what is expected of a whole sound, or what was measured of it."""

    moments: list[Moments]  #: of the 48 norms' inputs
    lufs: float  #: loudness before it is levelled

    @property
    def row(self) -> np.ndarray:
        """Means and logarithms of deviations of norm after norm, and the loudness, float32 (18433,)."""
        return np.concatenate([means_and_deviations(self.moments), [np.float32(self.lufs)]]).astype(np.float32)

    @classmethod
    def of(cls, row: np.ndarray, columns: int) -> Expected:
        """Take a row apart.

        Args:
            row: as `row` has it, of any float type.
            columns: of the sound.
        """
        numbers = row[:-1].astype(np.float32)
        numbers[_DEVIATIONS] = np.exp(2 * numbers[_DEVIATIONS])  # all at once: a call takes longer than its numbers
        pairs = torch.from_numpy(numbers).split(_SIZES)
        moments = [(columns, mean, variance) for mean, variance in zip(pairs[::2], pairs[1::2], strict=True)]
        return cls(moments, float(row[-1]))


def whole(network: CpuVocoder, sound: Sound) -> tuple[np.ndarray, Expected]:
    """Compute a whole sound; returns its waveform (n,), and what should have been expected of it."""
    moments: list[Moments] = []
    waveform = network.part(sound, slice(0, sound.columns), measured=moments).numpy()
    speech = waveform[speech_in(waveform, vocoder.SAMPLE_RATE)]
    return waveform, Expected(moments, loudness.measure(speech, vocoder.SAMPLE_RATE).lufs)


@dataclass(frozen=True)
class MomentPredictor:
    """The fitted map of rank r, from n numbers that are known to the m that are expected. All arrays float32."""

    known_mean: np.ndarray  #: (n,)
    known_scale: np.ndarray  #: (n,) what each is divided by
    basis: np.ndarray  #: (n, r)
    limits: np.ndarray  #: (r,) coordinates beyond those of the fit's own sounds are drawn back to here
    weights: np.ndarray  #: (r, m)
    mean: np.ndarray  #: (m,)

    @classmethod
    def load(cls, path: Path = DATA) -> MomentPredictor:
        """Read the data that the project carries. Raises WeightsError if it is missing or damaged."""
        return cls(**carried(path, "The map of the vocoder's moments", _REPAIR))

    def expect(self, known: list[Moments], style: Tensor, columns: int) -> Expected:
        """Expect what a whole sound will have.

        Args:
            known: of `CpuVocoder.known`.
            style: (128,).
            columns: of the sound.
        """
        numbers = (as_numbers(known, style, columns) - self.known_mean) / self.known_scale
        coordinates = np.clip(numbers @ self.basis, -self.limits, self.limits)
        expected = Expected.of(coordinates @ self.weights + self.mean, columns)
        for norm, place in EXACT.items():
            expected.moments[norm] = known[place]
        return expected


class VoiceMemory:
    """Remembers what voices' own sounds have shown: by how much the expectation is off for them.

    The errors are nearly the same in all sounds of a voice, so a voice's first one, which is made whole, corrects those
    that follow, and the next whole ones make that exact. 74 kB for a voice.

    Args:
        voices: to remember; the one that was not used for the longest time is forgotten.
    """

    def __init__(self, voices: int = 256) -> None:
        self._voices = voices
        self._off: OrderedDict[bytes, tuple[int, np.ndarray]] = OrderedDict()

    def knows(self, voice: bytes) -> bool:
        """Tell whether the voice has been heard."""
        return voice in self._off

    def wants(self, voice: bytes) -> bool:
        """Tell whether a known voice is not known well: another sound would teach more."""
        return voice in self._off and self._off[voice][0] < LEARNED_FROM

    def learn(self, voice: bytes, expected: Expected, measured: Expected) -> None:
        """Take in a sound that was made whole."""
        found = measured.row - expected.row
        count, off = self._off.pop(voice, (0, np.zeros_like(found)))
        self._off[voice] = count + 1, off + (found - off) / (count + 1)
        if len(self._off) > self._voices:
            self._off.popitem(last=False)

    def corrected(self, voice: bytes, expected: Expected) -> Expected:
        """Return what is expected of a sound of this voice, which is known."""
        self._off.move_to_end(voice)
        _, off = self._off[voice]
        return Expected.of(expected.row + off, expected.moments[0][0])


def as_numbers(known: list[Moments], style: Tensor, columns: int) -> np.ndarray:
    """Put what is known of a sound into a row (n,): means and logarithms of deviations, style, length."""
    return np.concatenate([means_and_deviations(known), style.numpy(), [np.float32(np.log(columns))]]).astype(
        np.float32
    )


def means_and_deviations(moments: Sequence[Moments]) -> np.ndarray:
    """Return in a row the mean and the logarithm of the deviation of each, (C,) and (C,)."""
    sizes = [len(mean) for _, mean, _ in moments for _ in range(2)]
    numbers = torch.cat([part for _, mean, variance in moments for part in (mean, variance)]).numpy()
    deviations = _seconds(sizes)
    numbers[deviations] = 0.5 * np.log(numbers[deviations] + 1e-8)
    return numbers
