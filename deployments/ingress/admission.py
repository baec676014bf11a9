"""Who may enter the graph: a limit on requests in flight, a short queue before it, and a door that can be closed.

Serve's own limits answer before the ingress sees the request, and so without a trace; this one refuses inside it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from deployments.settings import Limits
from speech.errors import Overloaded


class Admission:
    """One ingress replica's door. Use on one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._slots = asyncio.Semaphore(limits.max_in_flight)
        self.in_flight = 0
        self.waiting = 0
        self.draining = False

    @asynccontextmanager
    async def enter(self):
        """Hold a place in the graph. Raises Overloaded when the queue is full, waits too long, or when draining."""
        if self.draining:
            raise Overloaded(
                "The service is stopping and takes no new requests; try again in a moment.",
                code="draining",
                retry_after_s=5,
            )
        await self._acquire()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
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
