"""Admits requests to the graph: a limit on requests in flight, a short queue before it, and draining.

Serve's own limits answer before the ingress sees the request, and so without a trace; this one refuses inside it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from deployments.scaling.work_log import WorkLog
from deployments.settings import Limits
from speech.errors import RETRY_AFTER_RESTART_S, Overloaded


class Admission:
    """The admission of one ingress replica. Use it on one event loop.

    Attributes:
        in_flight: requests inside the graph.
        waiting: requests that wait to enter it.
        draining: no request enters any more that came since `drain`.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.max_in_flight)
        self.in_flight = 0
        self.waiting = 0
        self._draining_since_ns: int | None = None
        self._work = WorkLog()
        self._cpu_s = time.process_time()

    def work_stats(self) -> dict[str, float]:
        """Return what this replica has done, for the scaling policy.

        A request costs an ingress its share of one event loop: the CPU time of the process, by request.
        """
        return self._work.stats(
            waiting=self.waiting,
            computing=self.in_flight,
            limit=self._limits.max_in_flight,
            cpu_s=time.process_time() - self._cpu_s,
        )

    @property
    def draining(self) -> bool:
        """`drain` was called."""
        return self._draining_since_ns is not None

    def drain(self) -> None:
        """Refuse the requests that come from now on."""
        if self._draining_since_ns is None:
            self._draining_since_ns = time.time_ns()

    @asynccontextmanager
    async def enter(self, came_ns: int) -> AsyncIterator[None]:
        """Hold a slot in the graph. A request may enter again and again.

        Args:
            came_ns: when the request came, ns since the epoch.

        Raises:
            Overloaded: the queue is full, the wait took too long, or the request came since `drain`.
        """
        if self._draining_since_ns is not None and came_ns > self._draining_since_ns:
            raise Overloaded(
                "The service is stopping and takes no new requests; try again in a moment.",
                code="draining",
                retry_after_s=RETRY_AFTER_RESTART_S,
            )
        self._work.arrive()
        arrived_s = time.monotonic()
        await self._acquire()
        self._work.wait(time.monotonic() - arrived_s)
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._work.finish()
            self._slots.release()

    async def _acquire(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        if self.waiting >= self._limits.max_waiting:
            raise self._full("queue_full")
        self.waiting += 1
        try:
            async with asyncio.timeout(self._limits.max_wait_s):
                await self._slots.acquire()
        except TimeoutError:
            raise self._full("queue_timeout") from None
        finally:
            self.waiting -= 1

    def _full(self, code: str) -> Overloaded:
        return Overloaded(
            f"The service is at its limit of {self._limits.max_in_flight} requests in flight; try again "
            "after the time in Retry-After.",
            code=code,
            retry_after_s=max(1, round(self._limits.max_wait_s / 2)),
        )
