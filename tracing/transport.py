"""Ways out of the process. A transport takes traces that are already redacted and encoded, and sends or raises."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Rejected(Exception):
    """The receiver will never take this batch as it is: something in it is bad, or there is too much of it."""


class Unavailable(Exception):
    """Not now. `answered` tells a server that answers with errors (5xx) from one that doesn't answer."""

    def __init__(self, why: str, *, answered: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.answered = answered


class Transport(Protocol):
    """Sends batches; called by one thread.

    `send` gets traces as JSON lists of spans (bytes, no newline) and returns once the receiver has them.

    Raises:
        Rejected, Unavailable: and nothing else.
    """

    name: str

    def send(self, traces: Sequence[bytes]) -> None: ...

    def close(self) -> list[bytes] | None:
        """Returns traces that the receiver took and, as far as is known, could not store."""


class FileTransport:
    """Appends traces to a JSON-lines file that several processes may share. Rotated once, to `<file>.1`."""

    name = "file"

    def __init__(self, path: Path, limit_bytes: int = 256 * 2**20) -> None:
        self._path = path
        self._limit = limit_bytes

    def send(self, traces: Sequence[bytes]) -> None:
        data = b"".join(trace + b"\n" for trace in traces)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._rotate_if_full()
            with open(self._path, "ab", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                start = os.fstat(file.fileno()).st_size
                if file.write(data) != len(data):  # a full disk: leave no half line behind
                    file.truncate(start)
                    raise Unavailable("disk full")
        except OSError as error:
            raise Unavailable(error.strerror or type(error).__name__) from None

    def _rotate_if_full(self) -> None:
        if self._path.exists() and self._path.stat().st_size >= self._limit:
            os.replace(self._path, self._path.with_name(self._path.name + ".1"))

    def close(self) -> None:
        pass


def join(traces: Sequence[bytes]) -> bytes:
    """Several JSON lists as one, without parsing them."""
    return b"[" + b",".join(trace[1:-1] for trace in traces) + b"]"
