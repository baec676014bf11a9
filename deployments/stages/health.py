"""Checks that a replica still computes, beyond the event loop that answers `check_health`.

Serve's own check only proves that the process's event loop turns. Models compute in other threads, where a wedged
device or driver keeps a call for ever. So three things are checked:

- Every ten seconds the compute thread computes something small (`engines.contract.Probed`) between two batches. The
  result is compared with the one from when the replica was loaded: a device that raises, or gives something else, is
  broken.
- A thread that hangs is told from one that works: a thread that has had work for `stuck_after_s`, and used no CPU all
  that time, is stuck. However busy the machine is, a thread that could run gets its share of that time, so other work
  on the machine makes no replica look ill.
- A single batch or step has a limit, `wedged_after_s`, for work that spins without an end (as a thread does that waits
  for a hung CUDA kernel).

Nothing of it holds up the event loop. Serve replaces a replica after three checks in a row that raise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from concurrent.futures import Executor, Future
from threading import Thread

import numpy as np

from deployments import ray_internals
from deployments.arrays import Array

PROBE_EVERY_S = 10.0  #: tens of milliseconds of CPU each, on a CPU; after one that failed, at every check
WAIT_S = 0.5  #: how long a check waits for its own probe; one that comes later is the next check's
PROGRESS_S = 0.001  #: of CPU time: less than this is none
_TOLERANCE = 0.02  #: of the first probe's largest value: low precision may round, a broken device is far off


class Unhealthy(RuntimeError):
    """Says why Serve should replace this replica."""


class ComputeHealth:
    """Judges the compute threads of one replica.

    Args:
        service: the service's name, for messages.
        executor: the executor whose threads compute.
        probe: runs in such a thread, also now; None for a model without one: then only `running_s` is judged.
        running_s: returns the seconds for which the present batch or step has been computing, 0 when idle.
        stuck_after_s: seconds of work without any CPU time after which the replica is unhealthy.
        wedged_after_s: seconds of one batch or step after which the replica is unhealthy.
        cpu_s: returns the CPU seconds of those threads so far; for tests.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        service: str,
        executor: Executor,
        probe: Callable[[], Array] | None,
        running_s: Callable[[], float],
        *,
        stuck_after_s: float,
        wedged_after_s: float,
        cpu_s: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._service = service
        self._executor = executor
        self._probe = probe
        self._running_s = running_s
        self._stuck_after_s = stuck_after_s
        self._wedged_after_s = wedged_after_s
        self._cpu_s = cpu_s or (lambda: cpu_seconds(ray_internals.executor_threads(executor)))
        self._clock = clock
        self._pending: Future[Array] | None = None
        self._next_probe = clock()
        self._progress: tuple[float, float] | None = None  # when CPU time was last seen to grow, and it; None: no work
        # With a limit: Serve waits for a constructor for ever, and tries again when it raises.
        self._expected = executor.submit(probe).result(timeout=wedged_after_s) if probe else None

    async def check(self) -> None:
        """Raise Unhealthy if the replica no longer computes as it should."""
        running = self._running_s()
        if running > self._wedged_after_s:
            raise Unhealthy(f"{self._service}: one batch or step has been computing for {running:.0f} s")
        if self._probe is not None:
            await self._run_probe(self._probe)
        if self._pending is None and self._running_s() == 0:
            self._progress = None
        else:
            self._look_for_progress()

    async def _run_probe(self, probe: Callable[[], Array]) -> None:
        if self._pending is None and self._clock() >= self._next_probe:
            self._pending = self._executor.submit(probe)
        if self._pending is None:
            return
        await _wait_briefly(self._pending)
        if self._pending.done():
            finished, self._pending = self._pending, None
            self._next_probe = self._clock()  # where it fails, the next check probes again
            self._judge(finished)
            self._next_probe += PROBE_EVERY_S

    def _judge(self, finished: Future[Array]) -> None:
        try:
            result = finished.result()
        except Exception as error:
            # The type alone: a driver's message may quote anything.
            name = type(error).__name__
            raise Unhealthy(f"{self._service}: the device failed at something small ({name})") from error
        expected = self._expected
        assert expected is not None, "a probe that is judged has run before"
        if result.shape != expected.shape or not np.allclose(
            result, expected, rtol=0, atol=_TOLERANCE * float(np.abs(expected).max())
        ):
            raise Unhealthy(f"{self._service}: the device no longer computes what it did when the replica was loaded")

    def _look_for_progress(self) -> None:
        now, cpu = self._clock(), self._cpu_s()
        since, before = self._progress or (now, float("-inf"))
        if cpu - before >= PROGRESS_S:
            self._progress = (now, cpu)
        elif now - since > self._stuck_after_s:
            raise Unhealthy(
                f"{self._service}: the thread that computes has had work for {now - since:.0f} s and has not moved"
            )


async def _wait_briefly(future: Future[Array]) -> None:
    """Wait for a future for at most `WAIT_S`; its result is not touched."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
    try:
        await asyncio.wait_for(done.wait(), WAIT_S)
    except TimeoutError:
        pass


def cpu_seconds(threads: Collection[Thread]) -> float:
    """Return the CPU seconds of those threads of this process that still live."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in tuple(threads)
        if thread.is_alive() and thread.ident is not None
    )
