"""Turns the audio that has arrived into a file that other programs open."""

from __future__ import annotations

import struct

from speech.mark import Mark
from speech.wav_header import wav_header


def finished(content: bytes, response_format: str) -> bytes:
    """Return the file as it is kept. A streamed WAV file could not know its length at the beginning; now it can."""
    return _with_lengths(content) if response_format == "wav" else content


def _with_lengths(wav: bytes) -> bytes:
    if wav[:4] != b"RIFF" or wav[8:12] != b"WAVE":
        return wav
    position = 12
    while position + 8 <= len(wav):
        (size,) = struct.unpack_from("<I", wav, position + 4)
        if wav[position : position + 4] == b"data":
            there = min(len(wav) - position - 8, 0xFFFFFFFF)
            head = wav[:4] + struct.pack("<I", min(len(wav) - 8, 0xFFFFFFFF)) + wav[8 : position + 4]
            return head + struct.pack("<I", there) + wav[position + 8 :]
        position += 8 + size + size % 2
    return wav


def wav(pcm: bytes, rate: int, mark: Mark | None) -> bytes:
    """Return 16-bit little-endian mono PCM as a WAV file, with the mark that the API gave to the speech."""
    return wav_header(rate, mark, len(pcm)) + pcm
