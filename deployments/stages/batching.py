"""Dynamic batching for one compute thread.

`@serve.batch` closes a batch on its timer while the previous one still computes, so under load batches stay small and
the last request waits longest. This batcher looks at the compute thread instead:

- idle and alone: start at once, a lone request never waits for company;
- compute has just become free: take the whole backlog, up to `max_batch_size`, those first whose deadline is nearest:
  the second piece of a stream whose first is being heard goes before a request that has just come;
- the backlog is not full: linger for one more member only while that pays, that is while delaying the n that wait by
  the usual gap between arrivals costs less than the batch the newcomer would otherwise need for itself
  (`n * gap < compute time`), and never beyond `batch_wait_ms` after the oldest arrived.

A member that is cancelled while waiting leaves; one that is cancelled while computing is dropped, the rest go on. Where
`compute` raises for a batch, its members are computed again one by one, so that a bad one fails alone.
"""

from __future__ import annotations

import asyncio
import heapq
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Batched(Generic[R]):
    """One member's result and what its span says of the batch. Times in ns since the epoch.

    `batch_id` and `size` are None for who was refused before anything was computed for him (`continuous.py`).
    """

    value: R
    batch_id: str | None
    size: int | None
    arrived_ns: int
    started_ns: int
    ended_ns: int

    @property
    def wait_ms(self) -> float:
        return (self.started_ns - self.arrived_ns) / 1e6

    @property
    def compute_ms(self) -> float:
        return (self.ended_ns - self.started_ns) / 1e6


class _Member(Generic[T]):
    __slots__ = ("item", "future", "arrived_ns", "deadline_ns")

    def __init__(self, item: T, future: asyncio.Future, arrived_ns: int, deadline_ns: float) -> None:
        self.item = item
        self.future = future
        self.arrived_ns = arrived_ns
        self.deadline_ns = deadline_ns


def _urgency(member: _Member) -> tuple[float, int]:
    return member.deadline_ns, member.arrived_ns


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


class Batcher(Generic[T, R]):
    """Runs `compute(items) -> results` for whoever calls `submit(item)`, many at a time.

    Args:
        compute: called in a thread of the batcher's own, never twice at once. Returns one result per item, in order;
            an exception *in a result's place* fails that member alone, an exception raised fails the batch.
        max_batch_size, batch_wait_ms: see the module; both may be changed at any time by `configure`.
        clock, wait: ns since the epoch, and "is the event set within so many seconds?"; injected by tests.
        prepare_thread: called once in the compute thread, before its first batch.

    Attributes:
        executor: of the compute thread.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[T]], Sequence[R | Exception]],
        *,
        max_batch_size: int = 8,
        batch_wait_ms: float = 200.0,
        clock: Callable[[], int] = time.time_ns,
        wait: Callable[[asyncio.Event, float], Awaitable[bool]] = _is_set_within,
        prepare_thread: Callable[[], None] | None = None,
    ) -> None:
        self._compute = compute
        self._clock = clock
        self._wait = wait
        self.executor = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=prepare_thread)
        self._waiting: deque[_Member[T]] = deque()
        self._runner: asyncio.Task | None = None
        self._arrival = asyncio.Event()
        self._gap_ns = float("inf")
        self._last_arrival_ns: int | None = None
        self._last_compute_ns = 0
        self._running_since_ns: int | None = None
        self.configure(max_batch_size=max_batch_size, batch_wait_ms=batch_wait_ms)

    def configure(self, *, max_batch_size: int | None = None, batch_wait_ms: float | None = None) -> None:
        """Change settings live; a batch under way keeps its own. ValueError on nonsense."""
        if max_batch_size is not None:
            if max_batch_size < 1:
                raise ValueError(f"max_batch_size must be at least 1, not {max_batch_size}")
            self.max_batch_size = max_batch_size
        if batch_wait_ms is not None:
            if batch_wait_ms < 0:
                raise ValueError(f"batch_wait_ms must not be negative, not {batch_wait_ms}")
            self.batch_wait_ms = batch_wait_ms

    @property
    def backlog(self) -> int:
        return sum(not member.future.done() for member in self._waiting)

    def running_s(self) -> float:
        """How long the batch that computes now has been computing; 0 when idle."""
        started = self._running_since_ns
        return 0.0 if started is None else (self._clock() - started) / 1e9

    async def submit(self, item: T, deadline_ns: float = float("inf")) -> Batched[R]:
        """Wait for a batch and its result. Raises what `compute` gave for this member."""
        done = await self.settle(item, deadline_ns)
        if isinstance(done.value, Exception):
            raise done.value
        return done

    async def settle(self, item: T, deadline_ns: float = float("inf")) -> Batched[R | Exception]:
        """Like `submit`, but a member that failed has its exception as `value`: it too has a batch to tell of.

        `deadline_ns`: when its request must be answered; nobody is thrown out for it here.
        """
        member = _Member(item, asyncio.get_running_loop().create_future(), self._clock(), deadline_ns)
        self._note_arrival(member.arrived_ns)
        self._waiting.append(member)
        self._arrival.set()
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())
        return await member.future

    def in_thread(self, work: Callable[[], T]) -> T:
        """Run `work` in the compute thread and wait for it; for what must have run there before the first batch."""
        return self.executor.submit(work).result()

    def close(self) -> None:
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
            if members := self._most_urgent():
                await self._compute_batch(members)
            lingering = True

    def _most_urgent(self) -> list[_Member[T]]:
        """The next batch, taken out of those who wait: in the order of their deadlines, and then of their arrivals."""
        if self._drop_cancelled() <= self.max_batch_size:
            members = sorted(self._waiting, key=_urgency)
            self._waiting.clear()
            return members
        members = heapq.nsmallest(self.max_batch_size, self._waiting, key=_urgency)
        chosen = set(map(id, members))
        self._waiting = deque(member for member in self._waiting if id(member) not in chosen)
        return members

    def _drop_cancelled(self) -> int:
        self._waiting = deque(member for member in self._waiting if not member.future.done())
        return len(self._waiting)

    async def _linger(self) -> None:
        while 0 < (count := self._drop_cancelled()) < self.max_batch_size:
            left_ns = self._waiting[0].arrived_ns + self.batch_wait_ms * 1e6 - self._clock()
            if left_ns <= 0 or count * self._gap_ns >= self._last_compute_ns:
                return
            self._arrival.clear()
            # Twice the usual gap without anybody: the rush is over.
            if not await self._wait(self._arrival, min(left_ns, 2 * self._gap_ns) / 1e9):
                return

    async def _compute_batch(self, members: list[_Member[T]]) -> None:
        batch_id = secrets.token_hex(8)
        items = [member.item for member in members]
        started = self._running_since_ns = self._clock()
        try:
            started, results, ended = await asyncio.get_running_loop().run_in_executor(
                self.executor, self._timed, items
            )
            if len(results) != len(items):
                raise RuntimeError(f"compute returned {len(results)} results for {len(items)} members")
        except Exception as error:
            ended, results = self._clock(), [error] * len(members)
        finally:
            self._running_since_ns = None
        self._last_compute_ns = ended - started
        for member, result in zip(members, results, strict=True):
            if member.future.done():
                continue  # cancelled while computing
            member.future.set_result(Batched(result, batch_id, len(members), member.arrived_ns, started, ended))

    def _timed(self, items: list[T]):
        """Clocked in the compute thread: a busy event loop must not count as compute."""
        started = self._clock()
        try:
            results = self._compute(items)
        except Exception:
            if len(items) == 1:
                raise
            # A model that raises does not say for which member: each alone, so that only the bad one fails.
            results = [self._alone(item) for item in items]
        return started, results, self._clock()

    def _alone(self, item: T) -> R | Exception:
        try:
            [result] = self._compute([item])
            return result
        except Exception as error:
            return error
