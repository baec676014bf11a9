"""Keeps the runs under way by the page that began them, so that stopping or leaving a page cancels its request.

Gradio stops asking a cancelled run for more, and leaves it to the garbage collector to close it: some day.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")
_ROUND_S = 0.05


class UnderWay:
    def __init__(self) -> None:
        self._runs: dict[str, Generator] = {}

    def watch(self, page: str, run: Generator[Item]) -> Iterator[Item]:
        """Pass the items of `run` on, and know it from now on as the run that `page` waits for."""
        self._runs[page] = run
        try:
            while self._runs.get(page) is run:
                try:
                    item = next(run)
                except StopIteration:
                    return
                except ValueError:  # `end` is closing it just now
                    if self._runs.get(page) is run:
                        raise
                    return
                if self._runs.get(page) is run:  # else ended while it was asked for this one
                    yield item
        finally:
            with suppress(ValueError):  # then it is being closed by `end`
                run.close()
            if self._runs.get(page) is run:
                del self._runs[page]

    def end(self, page: str) -> None:
        """Close the run that `page` waits for, if there is one; return at once."""
        run = self._runs.pop(page, None)
        if run is not None:
            threading.Thread(target=_close, args=(run,), name="end-of-a-run", daemon=True).start()


def _close(run: Generator) -> None:
    while True:
        try:
            run.close()
            return
        except ValueError:  # it is just being asked for its next event, in another thread
            time.sleep(_ROUND_S)
