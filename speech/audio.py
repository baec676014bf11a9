"""Decodes a reference clip once, checks it, and resamples it.

`read` returns the decoded recording, for the trace of a clip that may be refused. `checked` makes it a clip, or raises
an error with its fault. Lengths are counted on decoded samples, and never taken from a header.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import soxr

from speech import recording
from speech.errors import InvalidInput
from speech.limits import CLIP_DURATION, CLIP_SECONDS, CLIP_SIZE, MAX_CLIP_BYTES, MIN_CLIP_RATE
from speech.recording import Recording

MIN_SPEECH_S = 1.0  #: less speech than this is too little to know a voice by
SILENCE_DBFS = -55.0  #: a frame below this level is silence, however quiet the rest of the clip is
_FRAME_S = 0.02
_CANCELLED = 0.05  #: share of the energy that unrelated channels would leave in their mix


@dataclass(frozen=True)
class Clip:
    """A decoded clip: mono float32 (n,) in ±1 at its own `rate` in Hz."""

    samples: np.ndarray
    rate: int
    format: str  #: the container, lower case: wav, flac, ogg, mp3, m4a …
    channels: int
    clipped_ratio: float  #: share of samples at full scale, 0 … 1

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def read(data: bytes, *, seconds: tuple[float, float] = CLIP_SECONDS) -> Recording:
    """Read an upload, accepted or not: wav, flac, ogg, mp3, m4a, mp4, webm, aac.

    Args:
        data: the file.
        seconds: the shortest and the longest clip that is accepted; no more is kept.

    Raises:
        InvalidInput: (param `prompt_audio`) it is empty, too large, or can't be decoded (see `recording.read`).
    """
    check_size(len(data))
    return recording.read(data, seconds[1])


def checked(found: Recording, *, seconds: tuple[float, float] = CLIP_SECONDS) -> Clip:
    """Return the clip in a recording.

    Raises:
        InvalidInput: (param `prompt_audio`) it is below 16 kHz, truncated, shorter or longer than `seconds`, holds
            NaN or infinity, channels that cancel each other out, or too little speech.
    """
    shortest, longest = seconds
    if found.rate < MIN_CLIP_RATE:
        raise _refuse(
            f"Audio sample rate {found.rate}Hz, minimum required {MIN_CLIP_RATE}Hz. Record or export the clip again at "
            f"{MIN_CLIP_RATE}Hz or more.",
            "sample_rate_too_low",
        )
    if found.frames > longest * found.rate:
        raise _refuse(f"The reference clip is longer than {longest:g} s; cut it to its clearest part.", "clip_too_long")
    if found.cut:
        raise recording.truncated()
    if found.seconds < shortest:
        raise _refuse(
            f"The reference clip is {found.seconds:.1f} s long; it must be {shortest:g} to {longest:g} s.",
            "clip_too_short",
        )
    samples = found.samples
    if not np.isfinite(samples).all():
        raise _refuse(
            "The reference clip holds values that are not numbers; export it again as 16-bit PCM.", "not_finite"
        )
    # numpy takes its slowest way for a mean over an axis of one.
    mono = samples[:, 0] if found.channels == 1 else samples.mean(axis=1, dtype=np.float32)
    if _cancels_out(samples, mono):
        raise _refuse(
            "The reference clip's channels cancel each other out: one is the other turned upside down, so that nothing "
            "is left when they are mixed. Export one channel alone, as mono.",
            "channels_cancel_out",
        )
    speech = speech_seconds(mono, found.rate)
    if speech < MIN_SPEECH_S:
        raise _refuse(
            f"The reference clip holds {speech:.1f} s of sound above silence; at least {MIN_SPEECH_S:g} s "
            "of speech is needed. Record again, closer to the microphone.",
            "no_speech",
        )
    return Clip(mono, found.rate, found.format, found.channels, float((np.abs(samples) >= 0.999).mean()))


def decode(data: bytes, *, seconds: tuple[float, float] = CLIP_SECONDS) -> Clip:
    """Return the clip in an upload, by `read` and then `checked`; raises their errors."""
    return checked(read(data, seconds=seconds), seconds=seconds)


def _cancels_out(samples: np.ndarray, mono: np.ndarray) -> bool:
    """Return True if the mix of (n, channels) holds much less than the channels do.

    Unrelated channels, or a single channel with sound, leave 1 / channels**2 of their summed energy in the mix; equal
    channels leave more.
    """
    channels = samples.shape[1]
    if channels == 1:
        return False
    energy = float(np.square(samples, dtype=np.float32).sum(dtype=np.float64))
    mixed = float(np.square(mono).sum(dtype=np.float64))
    return energy > 0 and mixed * channels**2 < _CANCELLED * energy


def check_size(size: int) -> None:
    """Raise InvalidInput for an empty or oversized upload of `size` bytes."""
    if size == 0:
        raise _refuse("The reference clip is empty: the file has no bytes.", "clip_empty")
    if size > MAX_CLIP_BYTES:
        raise _refuse(
            f"The reference clip is larger than {CLIP_SIZE}; {CLIP_DURATION} of audio is enough.",
            "clip_too_large",
        )


def speech_seconds(mono: np.ndarray, rate: int) -> float:
    """Measure the seconds of 20 ms frames that lie above silence and within 35 dB of the clip's loud parts.

    This measures energy: it tells sound from silence, not speech from music.
    """
    size = int(rate * _FRAME_S)
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    level = 10 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-12)
    loud = np.percentile(level, 95)
    return float((level > max(SILENCE_DBFS, loud - 35.0)).sum() * _FRAME_S)


def resampled(samples: np.ndarray, rate: int, targets: Iterable[int]) -> dict[int, np.ndarray]:
    """Resample mono float32 `samples` to each target rate in Hz, directly from the original (soxr, HQ)."""
    return {target: samples if target == rate else soxr.resample(samples, rate, target) for target in targets}


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="prompt_audio", code=code)
