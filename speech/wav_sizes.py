"""Corrects the sizes in a WAV file's headers to those of its bytes.

Recorders that write to a pipe never learn the length and write any placeholder: 0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000,
0x80000000, the size of one buffer, or in RF64 and BW64 nothing at all. This module has no list of such values: a size
that the file can't have, or after which no further chunk begins, is a placeholder, and the samples go on to the end.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_KINDS = (b"RIFF", b"RF64", b"BW64")
_MOST_CHUNKS = 1000  #: a file of 20 MB may hold millions of empty ones; recorders and editors write some dozen
#: Chunks that may follow the samples (RIFF, EBU 3285, iXML, and those of editors).
_BEHIND = frozenset(
    (
        *(b"LIST", b"INFO", b"fact", b"cue ", b"plst", b"labl", b"note", b"ltxt", b"smpl", b"inst", b"acid", b"bext"),
        *(b"iXML", b"_PMX", b"axml", b"chna", b"umid", b"PEAK", b"JUNK", b"junk", b"PAD ", b"FLLR", b"id3 ", b"ID3 "),
        *(b"afsp", b"DISP", b"strc", b"cart", b"levl", b"AFAn", b"minf", b"elm1", b"regn", b"link", b"r64m", b"SAUR"),
    )
)


@dataclass(frozen=True)
class Sized:
    """A WAV file with right sizes.

    Attributes:
        data: the file; the same object if nothing had to be changed.
        missing: bytes of samples that the header announces, plausibly, and that are not there.
    """

    data: bytes
    missing: int = 0


def is_wav(data: bytes) -> bool:
    return data[:4] in _KINDS and data[8:12] == b"WAVE"


def sized(data: bytes, largest: int) -> Sized:
    """Return the WAV file in `data` with its actual sizes.

    Args:
        data: the file; `is_wav`.
        largest: the most bytes of an upload; a larger size is a placeholder.
    """
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            break
        name, size = struct.unpack_from("<4sI", data, at)
        if name == b"data":
            return _sized_at(data, at, size, largest)
        if data[:4] != b"RIFF" and name == b"ds64" and size > largest:
            size = 28  # a placeholder here too; the fixed part of the chunk
        at += 8 + size + (size & 1)
    return Sized(data)


def _sized_at(data: bytes, at: int, size: int, largest: int) -> Sized:
    """Correct the data chunk that begins at `at` and announces `size` bytes."""
    there = len(data) - at - 8
    if data[:4] != b"RIFF" and size == 0xFFFF_FFFF:
        size = _size_of_ds64(data)
    missing = 0
    if size == 0 or size > largest or not _ends(data, at + 8 + size):
        size = there
    elif size > there:
        missing, size = size - there, there
    fixed = bytearray(data)
    fixed[:4] = b"RIFF"
    struct.pack_into("<I", fixed, 4, len(data) - 8)
    struct.pack_into("<I", fixed, at + 4, size)
    if data[12:16] == b"ds64":
        fixed[12:16] = b"JUNK"
        struct.pack_into("<I", fixed, 16, min(struct.unpack_from("<I", data, 16)[0], 28))
    return Sized(data if fixed == data else bytes(fixed), missing)


def _size_of_ds64(data: bytes) -> int:
    """Return the 64-bit size of the samples that RF64 keeps in its first chunk; 0 if there is none."""
    return struct.unpack_from("<Q", data, 28)[0] if data[12:16] == b"ds64" and len(data) >= 36 else 0


def _ends(data: bytes, end: int) -> bool:
    """Return True if samples may end at `end`: the file ends too, is cut off before, or known chunks follow."""
    if end >= len(data) - 1:
        return True
    rests = (data[end + (end & 1) :], data[end:])  # some writers leave the byte of padding out
    return any(
        not rest.strip(b"\0") or rest[:3] == b"TAG" or rest[:4] in _BEHIND or _chunks_fill(rest) for rest in rests
    )


def _chunks_fill(rest: bytes) -> bool:
    """Return True if `rest` is nothing but chunks of any name."""
    at = 0
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(rest):
            break
        name, size = struct.unpack_from("<4sI", rest, at)
        if not all(32 <= char < 127 for char in name):
            return False
        at += 8 + size + (size & 1)
    return len(rest) <= at <= len(rest) + 1  # the last one may lack its byte of padding
