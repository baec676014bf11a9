"""Dynamic batching for one compute thread.

`@serve.batch` closes a batch on its timer while the previous one still computes, so under load batches stay small and
the last request waits longest. This batcher looks at the compute thread instead:

- The thread is idle and one request comes: it starts at once. A lone request never waits for company.
- The thread has just become free: the batcher takes the whole backlog, up to `max_batch_size`, most urgent first
  (`CallContext.order_ns`). The second piece of a stream whose first piece is being heard goes before a request that
  has just come; a piece whose listener has enough to hear goes after it.
- The batch is not full: the batcher lingers for one more request only while that pays. It pays while delaying the n
  that wait by the usual gap between arrivals costs less than a batch of its own would cost the newcomer
  (`n * gap < compute time`), and never beyond `batch_wait_ms` after the oldest arrived.

A request that is cancelled while waiting leaves. One that is cancelled while computing is dropped; the rest go on. If
`compute` raises for a batch, each of its requests is computed again alone, so that a bad one fails alone.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from deployments.scaling.work_log import WorkLog
from deployments.settings import BATCHING
from deployments.stages.compute_queue import Batched

#: Giving memory back takes some tens of milliseconds, and the next batches as long again to get it anew.
TIDY_EVERY_S = 30.0

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W")


class _Request(Generic[T, R]):
    """A request in the queue, and where its caller waits for the outcome."""

    __slots__ = ("item", "future", "arrived_ns", "due_ns")

    def __init__(self, item: T, future: asyncio.Future[Batched[R | Exception]], arrived_ns: int, due_ns: float) -> None:
        self.item = item
        self.future = future
        self.arrived_ns = arrived_ns
        self.due_ns = due_ns


def _urgency(request: _Request[T, R]) -> tuple[float, int]:
    return request.due_ns, request.arrived_ns


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Batcher(Generic[T, R]):
    """A `ComputeQueue` that runs `compute(items) -> results` on whole batches.

    Args:
        compute: called in a thread of the batcher's own, never twice at once. Returns one result per item, in order.
            An exception *in a result's place* fails that request alone; an exception raised fails the batch.
        max_batch_size: most requests in a batch; see the module.
        batch_wait_ms: longest wait for one more request; see the module.
        clock: ns since the epoch, for tests.
        stopwatch: seconds, for tests; it does not jump when the clock is set.
        wait: tells whether an event is set within so many seconds; for tests.
        prepare_thread: called once in the compute thread, before its first batch.
        tidy: called in the compute thread after a batch, when its results are out, at most every TIDY_EVERY_S.

    Attributes:
        executor: of the compute thread.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        max_batch_size: int = BATCHING.max_batch_size,
        batch_wait_ms: float = BATCHING.batch_wait_ms,
        clock: Callable[[], int] = time.time_ns,
        stopwatch: Callable[[], float] = time.monotonic,
        wait: Callable[[asyncio.Event, float], Awaitable[bool]] = _is_set_within,
        prepare_thread: Callable[[], None] | None = None,
        tidy: Callable[[], None] | None = None,
    ) -> None:
        self._compute = compute
        self._tidy = tidy
        self._tidied_s = stopwatch()
        self._clock = clock
        self._wait = wait
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=prepare_thread)
        self._waiting: deque[_Request[T, R]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._arrival = asyncio.Event()
        self._gap_ns = float("inf")
        self._last_arrival_ns: int | None = None
        self._last_compute_ns = 0
        self._stopwatch = stopwatch
        self._running_since_s: float | None = None
        self._computing = 0
        self._work = WorkLog()
        self.configure(max_batch_size=max_batch_size, batch_wait_ms=batch_wait_ms)

    def configure(self, *, max_batch_size: int | None = None, batch_wait_ms: float | None = None) -> None:
        """Change settings live; a batch under way keeps its own. Raises ValueError on a value out of range."""
        if max_batch_size is not None:
            if max_batch_size < 1:
                raise ValueError(f"max_batch_size must be at least 1, not {max_batch_size}")
            self.max_batch_size = max_batch_size
        if batch_wait_ms is not None:
            if batch_wait_ms < 0:
                raise ValueError(f"batch_wait_ms must not be negative, not {batch_wait_ms}")
            self.batch_wait_ms = batch_wait_ms

    def running_s(self) -> float:
        """Return the seconds for which the present batch has been computing; 0 when idle."""
        started = self._running_since_s
        return 0.0 if started is None else self._stopwatch() - started

    async def submit(self, item: T, due_ns: float = float("inf")) -> Batched[R | Exception]:
        """Add a request and wait for its outcome. One that failed has its exception as `value`: it had a batch too.

        Args:
            item: what to compute.
            due_ns: when the result is needed; those needed sooner go first.
        """
        request = _Request[T, R](item, asyncio.get_running_loop().create_future(), self._clock(), due_ns)
        self._note_arrival(request.arrived_ns)
        self._work.arrive()
        self._waiting.append(request)
        self._arrival.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await request.future

    def work_stats(self) -> dict[str, float]:
        """Return what this queue has done, for the scaling policy."""
        return self._work.stats(waiting=self._drop_cancelled(), computing=self._computing, batch=self.max_batch_size)

    def in_thread(self, work: Callable[[], W]) -> W:
        """Run `work` in the compute thread and wait for it; for what must have run there before the first batch."""
        return self.executor.submit(work).result()

    def close(self) -> None:
        """Take no more requests; those that wait are dropped."""
        self.executor.shutdown(wait=False, cancel_futures=True)

    def _note_arrival(self, now_ns: int) -> None:
        if self._last_arrival_ns is not None:
            gap = now_ns - self._last_arrival_ns
            self._gap_ns = gap if self._gap_ns == float("inf") else 0.7 * self._gap_ns + 0.3 * gap
        self._last_arrival_ns = now_ns

    async def _run(self) -> None:
        lingering = False  # the first batch after idling starts at once
        while self._drop_cancelled():
            if lingering:
                await self._linger()
            if batch := self._most_urgent():
                await self._compute_batch(batch)
            lingering = True

    def _most_urgent(self) -> list[_Request[T, R]]:
        """Take the next batch out of the queue, in the order in which they are due and then of arrivals."""
        if self._drop_cancelled() <= self.max_batch_size:
            batch = sorted(self._waiting, key=_urgency)
            self._waiting.clear()
            return batch
        batch = heapq.nsmallest(self.max_batch_size, self._waiting, key=_urgency)
        chosen = set(map(id, batch))
        self._waiting = deque(request for request in self._waiting if id(request) not in chosen)
        return batch

    def _drop_cancelled(self) -> int:
        self._waiting = deque(request for request in self._waiting if not request.future.done())
        return len(self._waiting)

    async def _linger(self) -> None:
        while 0 < (count := self._drop_cancelled()) < self.max_batch_size:
            left_ns = self._waiting[0].arrived_ns + self.batch_wait_ms * 1e6 - self._clock()
            if left_ns <= 0 or count * self._gap_ns >= self._last_compute_ns:
                return
            self._arrival.clear()
            # Twice the usual gap without an arrival: the rush is over.
            if not await self._wait(self._arrival, min(left_ns, 2 * self._gap_ns) / 1e9):
                return

    async def _compute_batch(self, batch: list[_Request[T, R]]) -> None:
        batch_id = secrets.token_hex(8)
        items = [request.item for request in batch]
        dequeued = started = self._clock()
        self._running_since_s = self._stopwatch()
        results: Sequence[R | Exception]
        self._computing = len(batch)
        try:
            started, results, ended = await asyncio.get_running_loop().run_in_executor(
                self.executor, self._timed, items
            )
            if len(results) != len(items):
                raise RuntimeError(f"compute returned {len(results)} results for {len(items)} members")
        except Exception as error:
            ended, results = self._clock(), [error] * len(batch)
        finally:
            self._running_since_s = None
            self._computing = 0
            self._work.finish(len(batch))
        self._last_compute_ns = ended - started
        self._work.step(len(batch), (ended - started) / 1e9)
        self._work.wait(sum(started - request.arrived_ns for request in batch) / 1e9)
        for request, result in zip(batch, results, strict=True):
            if request.future.done():
                continue  # cancelled while computing
            request.future.set_result(
                Batched(result, batch_id, len(batch), request.arrived_ns, dequeued, started, ended)
            )
        if self._tidy is not None and self._stopwatch() - self._tidied_s >= TIDY_EVERY_S:
            self._tidied_s = self._stopwatch()
            self.executor.submit(self._tidy)

    def _timed(self, items: list[T]) -> tuple[int, Sequence[R | Exception], int]:
        """Compute a batch, clocked in the compute thread: a busy event loop must not count as compute."""
        started = self._clock()
        results: Sequence[R | Exception]
        try:
            results = self._compute(items)
        except Exception:
            if len(items) == 1:
                raise
            # A model that raises does not say for which request: each alone, so that only the bad one fails.
            results = [self._alone(item) for item in items]
        return started, results, self._clock()

    def _alone(self, item: T) -> R | Exception:
        try:
            [result] = self._compute([item])
            return result
        except Exception as error:
            return error
