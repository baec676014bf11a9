"""Standard output that outlives its reader: `make status | head -3` ends without a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TextIO


class Output:
    """A text stream that drops what is written once its reader has closed the pipe.

    The command goes on, so that its exit status is its own, and so that `up | head` leaves nothing half started.

    Args:
        stream: The stream to write to, a real file.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def _drop(self) -> None:
        """Send all that follows nowhere, what is still buffered included."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextmanager
def outliving_its_reader() -> Iterator[None]:
    """Make standard output an `Output` for as long as the context lasts, and flush it at the end."""
    output = Output(sys.stdout)
    try:
        with redirect_stdout(output):
            yield
    finally:
        output.flush()
