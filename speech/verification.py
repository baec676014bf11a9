"""Reads the mark of synthetic speech out of a file, whoever made the file.

    found = read(data)
    found.mark, found.samples, found.rate

FFmpeg reads the metadata of all containers alike, in the process that decodes clips (`speech.decoder`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speech import wav_sizes
from speech.decoder import DECODER, DecoderFailed
from speech.errors import InvalidInput
from speech.limits import CLIP_FORMATS, MAX_CLIP_BYTES
from speech.mark import FIELD, Mark
from speech.recording import container_of, format_of

MAX_BYTES = MAX_CLIP_BYTES  #: of a file; marks in metadata stand at its beginning
HEARD_S = 60.0  #: a watermark is looked for in so many seconds at most
WATERMARK_FOUND = 0.5  #: of its detector's confidence
_MAX_VALUES = 30_000_000  #: values (samples times channels) that are kept, and that are counted


@dataclass(frozen=True)
class MarkedFile:
    """A file that was looked at.

    Attributes:
        format: the container, lower case: wav, flac, ogg, mp3, m4a …
        seconds: its length; a lower bound if it is very long.
        mark: the mark in its metadata, if there is one.
        samples: mono float32 (n,) in ±1: the first `HEARD_S` of it.
        rate: Hz.
    """

    format: str
    seconds: float
    mark: Mark | None
    samples: np.ndarray
    rate: int


def read(data: bytes) -> MarkedFile:
    """Read a file of at most `MAX_BYTES`, or the beginning of one.

    Raises:
        InvalidInput: (param `file`) it is empty, larger, or can't be read as audio.
    """
    if not data:
        raise _refuse("The file is empty: it has no bytes. Send the audio itself.", "file_empty")
    if len(data) > MAX_BYTES:
        raise too_large()
    container = container_of(data)
    if wav_sizes.is_wav(data):
        data, container = wav_sizes.sized(data, MAX_BYTES).data, "wav"
    if container is None:
        raise _not_audio()
    try:
        found = DECODER.decode(
            data, container, keep_s=HEARD_S, keep_values=_MAX_VALUES, count_values=_MAX_VALUES, tag=FIELD
        )
    except DecoderFailed as failure:
        raise _explained(failure) from failure
    mono = found.samples.mean(axis=1, dtype=np.float32)
    return MarkedFile(format_of(data, container), found.frames / found.rate, Mark.parse(found.tag), mono, found.rate)


def watermark(sure: float | None) -> dict[str, bool | float] | None:
    """Return what a report says of the watermark.

    Args:
        sure: how sure the detector is, 0 to 1; None if none was looked for.
    """
    return None if sure is None else {"found": sure >= WATERMARK_FOUND, "confidence": round(sure, 4)}


def too_large() -> InvalidInput:
    """Return the error for a file of more than `MAX_BYTES`."""
    return _refuse(
        f"The file is larger than {MAX_BYTES // 10**6} MB. Send its beginning alone: marks in metadata stand there "
        f"(head -c {MAX_BYTES // 10**6}MB FILE).",
        "file_too_large",
    )


def _not_audio() -> InvalidInput:
    return _refuse(
        f"The file can't be read as audio: it is damaged, or not one of {CLIP_FORMATS}. Raw PCM has no place for a "
        "mark; the answer that brought it had the mark in its header X-AIGC.",
        "not_audio",
    )


def _explained(failure: DecoderFailed) -> InvalidInput:
    if failure.reason in ("killed", "memory"):
        return _refuse(
            "The file takes more time or memory to decode than any recording of this size does. Save it again, for "
            "example as 16-bit wav.",
            "file_takes_too_long",
        )
    if failure.reason == "no_track":
        return _refuse("The file has no sound track, only pictures or data. Send one with sound.", "no_sound_track")
    if failure.reason == "streams":
        return _refuse("The file holds too many tracks. Send one with a single sound track.", "too_many_tracks")
    if failure.reason == "codec":
        return _refuse(
            "The file's sound is encoded in a way that is not read here; AAC, Opus, Vorbis, MP3, FLAC, ALAC and PCM "
            "are. Save it again, for example as wav: its metadata must go along.",
            "codec_unsupported",
        )
    return _not_audio()


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="file", code=code)
