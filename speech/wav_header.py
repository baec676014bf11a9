"""The header of the WAV files that we make, with the mark of synthetic speech in front of the samples.

The mark is a text in a `LIST` chunk of type `INFO`, where RIFF has a file's metadata. It stands before the samples in
whole files too: a stream has no other place for it, and players read both alike.
"""

from __future__ import annotations

import struct

from speech.mark import FIELD, Mark

#: A length that is not known yet. FFmpeg writes it to a pipe, players read on to the end of the stream, and
#: `speech.audio.decode` takes it too. Some players would take 0 for an empty file.
UNKNOWN_SIZE = 0xFFFF_FFFF
_LARGEST = UNKNOWN_SIZE - 1


def wav_header(rate: int, mark: Mark | None, size: int | None = None) -> bytes:
    """Return everything that stands before the samples of a mono 16-bit file.

    Args:
        rate: Hz.
        mark: goes into the metadata; None for recordings, which are not synthetic.
        size: bytes of samples; None if they are not known yet.
    """
    body = b"WAVE" + _chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate, rate * 2, 2, 16)) + _info(mark)
    whole = UNKNOWN_SIZE if size is None else min(len(body) + 8 + size, _LARGEST)
    samples = UNKNOWN_SIZE if size is None else min(size, _LARGEST)
    return struct.pack("<4sI", b"RIFF", whole) + body + struct.pack("<4sI", b"data", samples)


def mark_of(wav: bytes) -> Mark | None:
    """Return the mark in a file that begins with a `wav_header`; None where there is none."""
    if wav[:4] != b"RIFF" or wav[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(wav):
        name, size = struct.unpack_from("<4sI", wav, at)
        if name == b"LIST" and wav[at + 8 : at + 16] == b"INFO" + FIELD.encode():
            (length,) = struct.unpack_from("<I", wav, at + 16)
            return Mark.parse(wav[at + 20 : at + 20 + length].rstrip(b"\0").decode("utf-8", "replace"))
        if name == b"data":
            return None
        at += 8 + size + size % 2
    return None


def _info(mark: Mark | None) -> bytes:
    if mark is None:
        return b""
    return _chunk(b"LIST", b"INFO" + _chunk(FIELD.encode(), mark.value().encode() + b"\0"))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content + b"\0" * (len(content) % 2)
