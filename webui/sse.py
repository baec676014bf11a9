"""Reads server-sent events out of bytes, as the HTML standard has them (https://html.spec.whatwg.org, 9.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

#: An event is a few hundred kilobytes of audio at most; a server that never ends one is not kept in memory.
MOST_BYTES = 64 * 1024 * 1024


def events(chunks: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    """Yield (name, data) of each event that is whole. Raises ValueError where one is larger than any of ours."""
    name = "message"
    data: list[str] = []
    for line in _lines(chunks):
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Split by LF or CRLF alone: JSON may hold the other characters that Python takes for a line's end."""
    rest: list[bytes] = []
    size = 0
    for chunk in chunks:
        *whole, last = chunk.split(b"\n")
        for part in whole:
            yield b"".join([*rest, part]).removesuffix(b"\r").decode()
            rest, size = [], 0
        rest.append(last)
        size += len(last)
        if size > MOST_BYTES:
            raise ValueError("an event without an end")
