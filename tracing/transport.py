"""Ways out of the process. A transport takes redacted, encoded traces and sends them, or raises."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

#: What encoding raises for a line that is no trace, as a machine that lost power may leave in a spool.
NO_TRACE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class Rejected(Exception):
    """The receiver will never take this batch as it is: something in it is bad, or it is too large."""


class Unavailable(Exception):
    """The receiver does not take the batch now.

    Args:
        why: The cause, in our own words.
        answered: True for a server that answers with errors (5xx), False for one that doesn't answer.
        retry_after_s: The pause that it asks for, or 0.
    """

    def __init__(self, why: str, *, answered: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.why = why
        self.answered = answered
        self.retry_after_s = retry_after_s


class Transport(Protocol):
    """Sends batches. One thread calls it."""

    name: str

    def send(self, traces: Sequence[bytes]) -> int | None:
        """Send traces and return once the receiver has them.

        Args:
            traces: JSON lists of spans, without newlines.

        Returns:
            How many spans of the batch the receiver refused for good, where it says so. Not to be sent again.

        Raises:
            Rejected: The receiver will never take this batch.
            Unavailable: The receiver does not take it now. No other error is raised.
        """

    def close(self) -> list[bytes] | None:
        """Close, and return the traces that the receiver took and may not have stored."""


@runtime_checkable
class Unconfirmed(Protocol):
    """Is implemented by a transport that does not know whether the receiver stored what it took."""

    def unconfirmed(self) -> list[bytes]:
        """Return these traces. Any thread may call it, also while `send` hangs."""


class FileTransport:
    """Appends traces to a JSON-lines file that several processes may share.

    Args:
        path: The file. Its folder is made if it is missing.
        limit_bytes: Above it the file is renamed to `<file>.1`, which replaces an older one.
    """

    name = "file"

    def __init__(self, path: Path, limit_bytes: int = 256 * 2**20) -> None:
        self._path = path
        self._limit = limit_bytes

    def send(self, traces: Sequence[bytes]) -> None:
        """As `Transport.send`."""
        data = b"".join(trace + b"\n" for trace in traces)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            while not self._written(data):
                pass  # the file was renamed, by this process or by another
        except OSError as error:
            raise Unavailable(error.strerror or type(error).__name__) from None

    def _written(self, data: bytes) -> bool:
        """Append to the file; False: it was full, or another process has renamed it meanwhile."""
        with open(self._path, "ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            start = os.fstat(file.fileno()).st_size
            if not self._is_current(file):
                return False
            if start >= max(1, self._limit):  # under the lock, or two processes would rename it one after the other
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
                return False
            if file.write(data) != len(data):  # a full disk: leave no half line behind
                file.truncate(start)
                raise Unavailable("disk full")
        return True

    def _is_current(self, file: io.FileIO) -> bool:
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Do nothing: the file is open only while it is written."""


def join(traces: Sequence[bytes]) -> bytes:
    """Join several JSON lists into one, without parsing them."""
    return b"[" + b",".join(trace[1:-1] for trace in traces) + b"]"
