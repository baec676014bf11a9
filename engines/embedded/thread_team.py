"""Threads that compute parts of the same arrays side by side, and wait for each other only where they must.

Torch's own threads (OpenMP) share each single operation and meet at its end: 2,500 times for five seconds of speech. A
thread that the system takes off its core for a moment holds the other one up each time, so two models on two cores
lose much of both. A team's threads take their own part through many operations, one thread to an operation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

Meet = Callable[[], object]  #: waits until all parts have come as far


class ThreadTeam:
    """Runs work in as many parts as it has threads.

    Torch's number of threads is each thread's own: 1 in these, `size` in the one that makes the team.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        if size > 1:
            ready = threading.Barrier(size + 1)
            self._pool = ThreadPoolExecutor(size, "team", _compute_alone)
            for _ in range(size):
                self._pool.submit(ready.wait)
            ready.wait()
            torch.set_num_threads(size)  # also what later threads begin with

    def run(self, parts: int, work: Callable[[int, Meet], None]) -> None:
        """Call `work(part, meet)` for each part, at most `size` of them, at once. `meet()` waits for all parts.

        Raises:
            Exception: what a part has raised; the others are let go where they wait.
        """
        if parts == 1:
            work(0, _alone)
            return
        together = threading.Barrier(parts)

        def one(part: int) -> None:
            try:
                with torch.inference_mode():
                    work(part, together.wait)
            except BaseException:
                together.abort()
                raise

        errors = [future.exception() for future in [self._pool.submit(one, part) for part in range(parts)]]
        causes = [error for error in errors if error is not None]
        for error in causes:
            if not isinstance(error, threading.BrokenBarrierError):
                raise error
        if causes:
            raise causes[0]


def _compute_alone() -> None:
    """Let this thread compute each operation by itself."""
    torch.get_num_threads()  # the first call in a thread sets its number to the process's, so it comes before ours
    torch.set_num_threads(1)


def _alone() -> None:
    """Wait for no other part: there is none."""
