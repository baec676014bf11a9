"""Ctrl-C, SIGTERM and a closed terminal, all as one exception, so that everything is stopped on the same path."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: A terminal sends Ctrl-C to `make` and to us, and `make` may pass on its own: that is one wish, not two.
_SAME_WISH_S = 1.0


class Interrupted(BaseException):
    """A signal asks the launcher to stop. It is no Exception, so that no `except Exception` swallows it."""


class _Held:
    """Tells whether signals wait now, and whether one does."""

    active = False
    waits = False


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the end of what must not be cut in two, and raise Interrupted there."""
    _Held.active, _Held.waits = True, False
    try:
        yield
    finally:
        _Held.active = False
        if _Held.waits:
            raise Interrupted


class Interruptions:
    """Raises Interrupted for the first signal, and for every later one that is a second wish."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self.count = 0

    def install(self) -> Interruptions:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        return self

    def ignore(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number, frame) -> None:
        now = time.monotonic()
        if now - self._last < _SAME_WISH_S:
            return
        self._last = now
        self.count += 1
        if _Held.active:
            _Held.waits = True
        else:
            raise Interrupted
