"""The ingress's side of the limiter: one question a request, 250 ms at most, and what happens when nobody answers.

While the limiter is away, this replica counts for itself, with the whole limits: over N replicas a caller then gets up
to N times as much, and never all he wants. Requests don't wait for a limiter that is known to be away: a heartbeat
looks for it, which also renews the leases of requests under way.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import secrets
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from access.rate_limiter import LEASE_S, RateLimiter, Refusal
from access.settings import CallerLimits
from speech.errors import RateLimited

log = logging.getLogger("ray.serve")

ANSWER_WITHIN_S = 0.25
HEARTBEAT_S = LEASE_S / 5
#: More often while it is away; and a first call through Serve may take seconds.
LOOK_EVERY_S = 0.5
HEARTBEAT_WITHIN_S = 5.0


class Limiter(Protocol):
    """access/limiter.py, from wherever it is."""

    def enter(self, caller: str, limits: CallerLimits, lease: str) -> Awaitable[Refusal | None]: ...
    def leave(self, caller: str, lease: str) -> Awaitable[None]: ...
    def renew(self, held: list[tuple[str, str]]) -> Awaitable[int]: ...


@dataclass(frozen=True)
class Lease:
    """A place among a caller's requests under way. Give it back."""

    caller: str
    id: str


class RateLimitClient:
    """Use on one event loop. `limiter` None: this replica is the only one, or there is nothing to limit."""

    def __init__(
        self,
        limiter: Limiter | None,
        answer_within_s: float = ANSWER_WITHIN_S,
        heartbeat_s: float = HEARTBEAT_S,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._limiter = limiter
        self._answer_within_s = answer_within_s
        self._heartbeat_s = heartbeat_s
        self._look_every_s = look_every_s
        self._here = RateLimiter(math.inf)
        self._held: set[Lease] = set()
        self._tasks: set[asyncio.Task] = set()
        self.present = False  #: whether the limiter answered last
        self.refused = 0  #: requests over a limit
        self.alone = 0  #: decided here because the limiter was away
        self.lost = 0  #: times it went away

    def start(self) -> None:
        """Look for the limiter from now on. Needs a running loop."""
        if self._limiter is not None:
            self._spawn(self._beat())

    async def enter(self, caller: str, limits: CallerLimits) -> Lease:
        """Take one request of the caller's, who is known by any word. Raises RateLimited where that is too many."""
        lease = Lease(caller, secrets.token_hex(8))
        refusal = await self._ask(lease, limits)
        if refusal is not None:
            self.refused += 1
            raise _too_many(refusal, limits)
        if limits.concurrent is not None:
            self._held.add(lease)
            self._here.renew([(caller, lease.id)])
        return lease

    def leave(self, lease: Lease) -> None:
        """At once here, and soon there. Never waits, so it may be called while a request is being cancelled."""
        if lease in self._held:
            self._held.discard(lease)
            self._forget(lease)

    async def _ask(self, lease: Lease, limits: CallerLimits) -> Refusal | None:
        if self.present:
            try:
                async with asyncio.timeout(self._answer_within_s):
                    return await self._limiter.enter(lease.caller, limits, lease.id)
            except asyncio.CancelledError:
                self._forget(lease)  # it may have been granted
                raise
            except Exception as error:  # whatever the reason, it can't be asked now
                self._forget(lease)
                self._gone(error)
        if self._limiter is not None:
            self.alone += 1
        return self._here.enter(lease.caller, limits, lease.id)

    def _forget(self, lease: Lease) -> None:
        self._here.leave(lease.caller, lease.id)
        if self.present:
            self._spawn(self._give_back(lease))

    async def _give_back(self, lease: Lease) -> None:
        try:
            async with asyncio.timeout(HEARTBEAT_WITHIN_S):
                await self._limiter.leave(lease.caller, lease.id)
        except Exception as error:
            self._gone(error)  # nobody renews the lease, so it ends by itself

    async def _beat(self) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_WITHIN_S):
                    await self._limiter.renew([(lease.caller, lease.id) for lease in self._held])
                if not self.present:
                    self.present = True
                    log.info("the limiter answers: limits hold over all ingress replicas")
            except Exception as error:
                self._gone(error)
            await asyncio.sleep(self._heartbeat_s if self.present else self._look_every_s)

    def _gone(self, error: Exception) -> None:
        if self.present:
            self.present = False
            self.lost += 1
            log.warning(
                "the limiter is away (%s): until it is back, every ingress replica counts for itself",
                type(error).__name__,
            )

    def _spawn(self, work) -> None:
        # Serve cancels what shares a cancelled request's context.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def counters(self) -> dict[str, int]:
        return {
            "refused": self.refused,
            "alone": self.alone,
            "lost": self.lost,
            "under_way": len(self._held),
            "limiter_present": int(self.present),
        }


def _too_many(refusal: Refusal, limits: CallerLimits) -> RateLimited:
    if refusal.limit == "concurrent":
        return RateLimited(
            f"This caller's limit of {limits.concurrent} requests at a time is reached; wait for one of them to end.",
            code="too_many_at_once",
            retry_after_s=refusal.retry_after_s,
        )
    # Rounded up: whoever comes back at the time said gets through.
    return RateLimited(
        f"This caller's limit of {limits.requests_per_minute:g} requests a minute is reached; try again "
        "after the time in Retry-After.",
        code="too_many_requests",
        retry_after_s=math.ceil(refusal.retry_after_s),
    )
