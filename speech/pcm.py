"""Converts finished audio between numbers and bytes: float32 in ±1, int16, a WAV file."""

from __future__ import annotations

import numpy as np

from speech.mark import Mark
from speech.wav_header import wav_header

_FULL_SCALE = 32768


def to_pcm(samples: np.ndarray) -> np.ndarray:
    """Convert mono float32 (n,) in ±1 to int16 (n,); samples beyond ±1 are clipped.

    It scales by 2**15 and rounds to the nearest (libsndfile rounds down, which adds half a step of offset).

    Raises:
        ValueError: a sample is NaN or infinite.
    """
    if not np.isfinite(samples).all():
        raise ValueError("the audio has samples that are no numbers")
    scaled = np.rint(np.asarray(samples, np.float32) * np.float32(_FULL_SCALE))
    clipped: np.ndarray = scaled.clip(-_FULL_SCALE, _FULL_SCALE - 1)
    return clipped.astype("<i2")


def from_pcm(pcm: np.ndarray) -> np.ndarray:
    """Convert int16 (n,) to float32 (n,) in ±1; `to_pcm` of it gives the same int16 again."""
    return pcm.astype(np.float32) / np.float32(_FULL_SCALE)


def wav(pcm: np.ndarray, rate: int, mark: Mark | None) -> bytes:
    """Make a WAV file of int16 (n,) at `rate` Hz. `mark`: says that it is synthetic speech; None for a recording."""
    content = pcm.astype("<i2", copy=False).tobytes()
    return wav_header(rate, mark, len(content)) + content


def to_wav(samples: np.ndarray, rate: int, mark: Mark | None = None) -> bytes:
    """Make a 16-bit PCM WAV file of mono float32 (n,) in ±1. `mark`: says that it is synthetic speech."""
    return wav(to_pcm(samples), rate, mark)
