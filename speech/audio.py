"""A reference clip: decode once, refuse early, resample.

Every check runs at the earliest point that can know: size on the bytes, sample rate and length on the header, speech
on the samples. A few hundred bytes may announce hours of audio, so no more samples are decoded than a valid clip has.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from speech.errors import InvalidInput
from speech.limits import CLIP_DURATION, CLIP_SECONDS, CLIP_SIZE, MIN_CLIP_RATE
from speech.limits import MAX_CLIP_BYTES as MAX_BYTES

MIN_RATE = MIN_CLIP_RATE
MAX_RATE = 384_000
MAX_CHANNELS = 8
MIN_SPEECH_S = 1.0  #: less speech than this says too little about a voice
SILENCE_DBFS = -55.0  #: a frame below this level is silence, however quiet the rest of the clip is
_FRAME_S = 0.02


@dataclass(frozen=True)
class Clip:
    """A decoded clip: mono float32 (n,) in ±1 at its own `rate` in Hz."""

    samples: np.ndarray
    rate: int
    format: str  #: libsndfile's name of the container, lower case: wav, flac, ogg, mp3 …
    channels: int
    clipped_ratio: float  #: share of samples at full scale, 0 … 1

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class Header:
    """What a file says of itself, whether or not it is accepted."""

    rate: int  #: Hz
    format: str
    seconds: float


def describe(data: bytes) -> Header | None:
    """The header alone, for the trace of a clip that may be refused; None where there is none to read."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            return Header(file.samplerate, file.format.lower(), file.frames / file.samplerate)
    except soundfile.LibsndfileError:
        return None


def decode(data: bytes, *, seconds: tuple[float, float] = CLIP_SECONDS) -> Clip:
    """Decode an upload in any container libsndfile reads (wav, flac, ogg, mp3 …).

    Raises InvalidInput (param `prompt_audio`) for what is empty, too large, not audio, truncated, below 16 kHz,
    shorter or longer than `seconds`, or without enough speech.
    """
    check_size(len(data))
    header, samples = _read(data, seconds)
    shortest, longest = seconds
    length = len(samples) / header.samplerate
    if length > longest:
        raise _too_long(longest)
    if length < shortest:
        raise _refuse(
            f"The reference clip is {length:.1f} s long; it must be {shortest:g} to {longest:g} s.", "clip_too_short"
        )
    if not np.isfinite(samples).all():
        raise _refuse(
            "The reference clip holds values that are not numbers; export it again as 16-bit PCM.", "not_finite"
        )
    mono = samples.mean(axis=1, dtype=np.float32)
    speech = speech_seconds(mono, header.samplerate)
    if speech < MIN_SPEECH_S:
        raise _refuse(
            f"The reference clip holds {speech:.1f} s of sound above silence; at least {MIN_SPEECH_S:g} s "
            "of speech is needed. Record again, closer to the microphone.",
            "no_speech",
        )
    return Clip(
        mono, header.samplerate, header.format.lower(), header.channels, float((np.abs(samples) >= 0.999).mean())
    )


def check_size(size: int) -> None:
    """Raise InvalidInput for an empty or oversized upload of `size` bytes."""
    if size == 0:
        raise _refuse("The reference clip is empty: the file has no bytes.", "clip_empty")
    if size > MAX_BYTES:
        raise _refuse(
            f"The reference clip is larger than {CLIP_SIZE}; {CLIP_DURATION} of audio is enough.",
            "clip_too_large",
        )


def _read(data: bytes, seconds: tuple[float, float]) -> tuple[soundfile.SoundFile, np.ndarray]:
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        raise _refuse(
            "The reference clip can't be read as audio: it is damaged, or not one of wav, flac, ogg, mp3.", "not_audio"
        ) from error
    with file:
        _check_header(file, seconds[1])
        announced = file.frames
        try:
            samples = file.read(int(seconds[1] * file.samplerate) + 1, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _truncated() from error
    if _riff_is_truncated(data) or len(samples) < min(announced, int(seconds[1] * file.samplerate)):
        raise _truncated()
    return file, samples


def _truncated() -> InvalidInput:
    return _refuse(
        "The reference clip is truncated or damaged: its header announces more audio than can be read from "
        "it. Upload it again.",
        "clip_truncated",
    )


def _check_header(file: soundfile.SoundFile, longest: float) -> None:
    if file.samplerate < MIN_RATE:
        raise _refuse(
            f"Audio sample rate {file.samplerate}Hz, minimum required {MIN_RATE}Hz. Record or export the clip again at "
            f"{MIN_RATE}Hz or more.",
            "sample_rate_too_low",
        )
    if file.samplerate > MAX_RATE or file.channels > MAX_CHANNELS:
        raise _refuse(
            f"The reference clip has {file.channels} channels at {file.samplerate} Hz; at most "
            f"{MAX_CHANNELS} channels and {MAX_RATE} Hz are read.",
            "format_out_of_range",
        )
    # Containers without a length report a huge number; those are measured after reading instead.
    if longest < file.frames / file.samplerate < 2**40:
        raise _too_long(longest)


def _too_long(longest: float) -> InvalidInput:
    return _refuse(f"The reference clip is longer than {longest:g} s; cut it to its clearest part.", "clip_too_long")


def _riff_is_truncated(data: bytes) -> bool:
    """libsndfile plays what is left of a cut WAV file without a word; its `data` chunk knows better."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return False
    at = 12
    while at + 8 <= len(data):
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            # 0 and 0xFFFFFFFF are what writers to a pipe leave, who never learn the length.
            return bool(0 < size < 0xFFFF_FF00 and at + 8 + size > len(data))
        at += 8 + size + (size & 1)
    return False


def speech_seconds(mono: np.ndarray, rate: int) -> float:
    """Seconds whose 20 ms frames lie above silence and within 35 dB of the clip's loud parts.

    An energy measure: it tells sound from silence, not speech from music.
    """
    size = int(rate * _FRAME_S)
    frames = mono[: len(mono) // size * size].reshape(-1, size)
    level = 10 * np.log10((frames.astype(np.float64) ** 2).mean(axis=1) + 1e-12)
    loud = np.percentile(level, 95)
    return float((level > max(SILENCE_DBFS, loud - 35.0)).sum() * _FRAME_S)


def resampled(samples: np.ndarray, rate: int, targets: Iterable[int]) -> dict[int, np.ndarray]:
    """Views of mono float32 `samples` at each target rate in Hz, each straight from the original (soxr, HQ)."""
    return {target: samples if target == rate else soxr.resample(samples, rate, target) for target in targets}


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="prompt_audio", code=code)
