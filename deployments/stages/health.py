"""Does a replica still compute? What `check_health` looks at, beyond the event loop that answers it.

Serve's own check only proves that the process's event loop turns. Models compute in other threads, where a wedged
device or driver keeps a call for ever. So

- every ten seconds something small is computed (`engines.contract.Probed`) by the very thread that computes for
  requests, between two batches, and compared with what came out when the replica had just been loaded: a device that
  raises, or gives something else, is broken;
- a thread that hangs is told from one that works: who has had work for `stuck_after_s` and used no CPU all that time
  is stuck. However busy the machine is, a thread that could run gets its share of that time, so other work on the
  machine makes nobody look ill;
- a single batch or step has a limit, `wedged_after_s`, for what spins without an end (as a thread does that waits for a
  hung CUDA kernel).

Nothing of it holds up the event loop. Serve replaces a replica after three checks in a row that raise.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from threading import Thread

import numpy as np

PROBE_EVERY_S = 10.0  #: tens of milliseconds of CPU each, on a CPU; after one that failed, at every check
WAIT_S = 0.5  #: how long a check waits for its own probe; one that comes later is the next check's
PROGRESS_S = 0.001  #: of CPU time: less than this is none
_TOLERANCE = 0.02  #: of the first probe's largest value: low precision may round, a broken device is far off


class Unhealthy(RuntimeError):
    """Why Serve should replace this replica."""


class ComputeHealth:
    """One replica's.

    Args:
        service: for messages.
        executor: whose threads compute.
        probe: run in there, also now; None where there is nothing to probe with: then only `running_s` is judged.
        running_s: how long the present batch or step has been computing, 0 when idle.
        stuck_after_s, wedged_after_s: see the module.
        cpu_s, clock: CPU seconds of those threads so far, and seconds; injected by tests.
    """

    def __init__(
        self,
        service: str,
        executor: Executor,
        probe: Callable[[], np.ndarray] | None,
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
        self._cpu_s = cpu_s or (lambda: cpu_seconds(getattr(executor, "_threads", ())))
        self._clock = clock
        self._pending: Future | None = None
        self._next_probe = clock()
        self._progress: tuple[float, float] | None = None  # when CPU time was last seen to grow, and it; None: no work
        # With a limit: Serve waits for a constructor for ever, and tries again when it raises.
        self._expected = executor.submit(probe).result(timeout=wedged_after_s) if probe else None

    async def check(self) -> None:
        """Raises Unhealthy."""
        running = self._running_s()
        if running > self._wedged_after_s:
            raise Unhealthy(f"{self._service}: one batch or step has been computing for {running:.0f} s")
        if self._probe is not None:
            await self._ask()
        if self._pending is None and self._running_s() == 0:
            self._progress = None
        else:
            self._look_for_progress()

    async def _ask(self) -> None:
        if self._pending is None and self._clock() >= self._next_probe:
            self._pending = self._executor.submit(self._probe)
        if self._pending is None:
            return
        await _settled(self._pending)
        if self._pending.done():
            done, self._pending = self._pending, None
            self._next_probe = self._clock()  # where it fails, the next check asks again
            self._judge(done)
            self._next_probe += PROBE_EVERY_S

    def _judge(self, done: Future) -> None:
        try:
            found = done.result()
        except Exception as error:
            # The type alone: a driver's message may quote anything.
            name = type(error).__name__
            raise Unhealthy(f"{self._service}: the device failed at something small ({name})") from error
        expected = self._expected
        if found.shape != expected.shape or not np.allclose(
            found, expected, rtol=0, atol=_TOLERANCE * float(np.abs(expected).max())
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


async def _settled(future: Future) -> None:
    """Wait for it, but not for long; its result is not touched."""
    loop, settled = asyncio.get_running_loop(), asyncio.Event()
    future.add_done_callback(lambda _: loop.call_soon_threadsafe(settled.set))
    try:
        await asyncio.wait_for(settled.wait(), WAIT_S)
    except TimeoutError:
        pass


def cpu_seconds(threads: Sequence[Thread]) -> float:
    """CPU time of these threads of this process, of those that still live."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident)) for thread in tuple(threads) if thread.is_alive()
    )
