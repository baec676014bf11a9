"""Decodes recordings and counts their samples: no length in a header is trusted.

    recording = read(data, longest_s=15.0)
    recording.rate, recording.seconds

libsndfile reads wav (and aiff, caf, au) here. Compressed formats (flac, ogg, mp3, m4a, mp4, webm, aac) have larger
parsers and guessed lengths, so they go to a process beside this one (`speech.decoder`). Either way no more is kept than
a valid clip has, so a few bytes that unfold into hours cost little.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass

import numpy as np
import soundfile

from speech import wav_sizes
from speech.decoder import DECODER, DecoderFailed
from speech.errors import InvalidInput
from speech.limits import CLIP_FORMATS, MAX_CLIP_BYTES

MAX_RATE = 384_000
MAX_CHANNELS = 8
_COUNTED = 30_000_000  #: values (samples times channels) after which counting ends: the exact number is not needed
_DEADLINE_S = 8.0  #: deadline of libsndfile; 20 MB of any usual recording take a twentieth of it
#: Less than this may be missing at the end: a cut last packet, or a last frame of FLAC that lost a byte.
_MISSING_S, _MISSING_SHARE = 0.5, 0.05
_FIRST = {b"\x1aE\xdf\xa3": "matroska", b"fLaC": "flac", b"OggS": "ogg"}
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"pnot")
_ANNOUNCE = ("mov", "flac")  #: containers that hold their length; for others FFmpeg makes an estimate
_MOST_TAGS = 16  #: in front of mp3; a file of 20 MB may hold millions of empty ones
_UNKNOWN_S = 1e8
_UNKNOWN = 2**40  #: samples; libsndfile returns more if a container doesn't hold its length
_BITS = {"PCM_U8": 8, "PCM_S8": 8, "ULAW": 8, "ALAW": 8, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 64}
#: FFmpeg's container for files that libsndfile can't read (mp3 in a WAV file, AAC in caf), by a file's first bytes.
_SECOND = {b"RIFF": "wav", b"caff": "caf", b"FORM": "aiff"}


@dataclass(frozen=True)
class Recording:
    """A file's audio.

    Attributes:
        samples: the first of them, float32 (n, channels) in ±1: at most the requested seconds and one sample.
        rate: Hz.
        format: the container, lower case: wav, flac, ogg, mp3, m4a, webm …
        frames: the counted samples of a channel; a lower bound if there are very many.
        cut: True if more than a little is missing of the length in the file's header.
    """

    samples: np.ndarray
    rate: int
    format: str
    frames: int
    cut: bool = False

    @property
    def channels(self) -> int:
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def read(data: bytes, longest_s: float) -> Recording:
    """Decode a file, and count its samples.

    Args:
        data: the file, of at most MAX_CLIP_BYTES.
        longest_s: the most seconds of samples that are kept.

    Raises:
        InvalidInput: (param `prompt_audio`) `not_audio`, `no_sound_track`, `codec_unsupported`,
            `format_out_of_range`, `clip_truncated` if no sound is left, `clip_takes_too_long`.
    """
    if container := _foreign(data):
        return _by_ffmpeg(data, container, longest_s)
    missing = 0
    if wav_sizes.is_wav(data):
        sized = wav_sizes.sized(data, MAX_CLIP_BYTES)
        data, missing = sized.data, sized.missing
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        if second := _SECOND.get(data[:4]):
            return _by_ffmpeg(data, second, longest_s)
        raise _not_audio() from error
    with file:
        return _by_libsndfile(file, longest_s, missing)


def container_of(data: bytes) -> str | None:
    """Return FFmpeg's name of the container, by a file's first bytes; None if it is no audio that is read here."""
    return _foreign(data) or _SECOND.get(data[:4])


def _foreign(data: bytes) -> str | None:
    """Return FFmpeg's name of the container if libsndfile can't read or can't count the file, else None."""
    if first := _FIRST.get(data[:4]):
        return first
    if data[4:8] in _BOXES:
        return "mov"
    at = 0
    for _ in range(_MOST_TAGS):
        if data[at : at + 3] != b"ID3" or at + 10 > len(data):
            break
        size = 0  # of a tag in front, in 7 bits a byte
        for byte in data[at + 6 : at + 10]:
            size = size << 7 | byte & 0x7F
        at += 10 + size
    if len(data) < at + 2 or data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
        return "mp3" if at else None
    return "aac" if data[at + 1] & 0xF6 == 0xF0 else "mp3"


def _by_libsndfile(file: soundfile.SoundFile, longest_s: float, missing: int) -> Recording:
    """Read a file by libsndfile. `missing` is the number of bytes that the header announces but the file lacks."""
    rate, channels = file.samplerate, file.channels
    _check_range(rate, channels)
    keep, kept, frames = int(longest_s * rate) + 1, [], 0
    block = np.empty((max(rate, 4096), channels), np.float32)
    ends = time.monotonic() + _DEADLINE_S
    while frames * channels < _COUNTED:
        if time.monotonic() > ends:
            raise _takes_too_long()
        try:
            # `out` is given in place of a number: soundfile would otherwise stop at the end by the header.
            heard = file.read(dtype="float32", always_2d=True, out=block)
        except soundfile.LibsndfileError:
            break  # samples up to the damage count; the check below decides if they are enough
        if not len(heard):
            break
        if frames < keep:
            kept.append(heard[: keep - frames].copy())
        frames += len(heard)
    if missing:
        lacking = missing * 8 // (channels * _BITS.get(file.subtype, 16))
    else:
        lacking = file.frames - frames if file.frames < _UNKNOWN and frames * channels < _COUNTED else 0
    cut = _is_much(lacking / rate, frames / rate)
    if cut and not frames:
        raise truncated()
    samples = np.concatenate(kept) if kept else np.empty((0, channels), np.float32)
    return Recording(samples, rate, file.format.lower(), frames, cut)


def _by_ffmpeg(data: bytes, container: str, longest_s: float) -> Recording:
    most = int(longest_s * MAX_RATE) * MAX_CHANNELS
    try:
        found = DECODER.decode(data, container, keep_s=longest_s, keep_values=most, count_values=_COUNTED)
    except DecoderFailed as failure:
        raise _explained(failure, data, container) from failure
    _check_range(found.rate, found.samples.shape[1])
    lacking_s = 0.0
    if container in _ANNOUNCE and found.whole and (found.announced_s or 0.0) < _UNKNOWN_S:
        lacking_s = (found.announced_s or 0.0) - found.frames / found.rate
    cut = _is_much(lacking_s, found.frames / found.rate)
    return Recording(found.samples, found.rate, format_of(data, container), found.frames, cut)


def _is_much(lacking_s: float, heard_s: float) -> bool:
    return lacking_s > max(_MISSING_S, _MISSING_SHARE * heard_s)


def format_of(data: bytes, container: str) -> str:
    """Return the format as people call it: m4a, webm, wav …"""
    if container == "mov":
        brand = data[8:12].strip().lower().decode("ascii", "replace")
        return {"m4a": "m4a", "m4b": "m4a", "qt": "mov"}.get(brand, "3gp" if brand.startswith("3g") else "mp4")
    if container == "matroska":
        return "webm" if b"webm" in data[:64] else "matroska"
    return container


def _check_range(rate: int, channels: int) -> None:
    if rate > MAX_RATE or channels > MAX_CHANNELS:
        raise _refuse(
            f"The reference clip has {channels} channels at {rate} Hz; at most {MAX_CHANNELS} channels and "
            f"{MAX_RATE} Hz are read.",
            "format_out_of_range",
        )


def truncated() -> InvalidInput:
    return _refuse(
        "The reference clip is truncated or damaged: its header announces more audio than can be read from it. Upload "
        "it again.",
        "clip_truncated",
    )


def _not_audio() -> InvalidInput:
    return _refuse(
        f"The reference clip can't be read as audio: it is damaged, or not one of {CLIP_FORMATS}.",
        "not_audio",
    )


def _takes_too_long() -> InvalidInput:
    return _refuse(
        "The reference clip takes more time or memory to decode than any recording of this size does. Save it again, "
        "for example as 16-bit wav.",
        "clip_takes_too_long",
    )


def _explained(failure: DecoderFailed, data: bytes, container: str) -> InvalidInput:
    if failure.reason in ("killed", "memory"):
        return _takes_too_long()
    if failure.reason == "no_track":
        return _refuse(
            "The reference clip's file has no sound track, only pictures or data. Send a recording of the voice.",
            "no_sound_track",
        )
    if failure.reason == "codec":
        return _refuse(
            "The reference clip's sound is encoded in a way that is not read here; AAC, Opus, Vorbis, MP3, FLAC, ALAC "
            "and PCM are. Save it again, for example as wav.",
            "codec_unsupported",
        )
    if failure.reason == "streams":
        return _refuse(
            "The reference clip's file holds too many tracks. Send one recording of the voice.", "format_out_of_range"
        )
    if container == "mov" and b"moov" not in data:  # a recorder writes it last
        return truncated()
    return _not_audio()


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="prompt_audio", code=code)
