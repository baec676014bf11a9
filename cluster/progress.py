"""Progress as plain lines, the same on a terminal and in a log: one line a step, with the seconds since the start."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """`progress("text")` prints `[  3.2 s] text`. A quiet one keeps silent (tests, fixtures)."""

    def __init__(self, stream: TextIO | None = None, quiet: bool = False) -> None:
        self._stream = stream
        self._quiet = quiet
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        if self._quiet:
            return
        stream = self._stream or sys.stdout
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=stream, flush=True)
