"""The ingress's client of the limiter: one call for each limited request, with a timeout of 250 ms.

While the limiter does not answer, each ingress replica counts for itself with the whole limits. A caller then gets up
to N times its limits from N replicas, and never more. Requests do not wait for a limiter that is known to be
unavailable. A heartbeat looks for it, and also renews the leases of requests under way.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import secrets
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from access.rate_limiter import LEASE_S, RateLimiter, Refusal
from access.settings import CallerLimits
from speech.errors import RateLimited

log = logging.getLogger(__name__)

CALL_TIMEOUT_S = 0.25
HEARTBEAT_S = LEASE_S / 5
#: The heartbeat's period while the limiter is unavailable.
RECONNECT_S = 0.5
#: A first call through Serve may take seconds.
HEARTBEAT_TIMEOUT_S = 5.0


class Limiter(Protocol):
    """The limiter (access/limiter.py), called from this process or through a handle."""

    def acquire(self, caller: str, limits: CallerLimits, lease: str) -> Awaitable[Refusal | None]: ...
    def release(self, caller: str, lease: str) -> Awaitable[None]: ...
    def renew(self, held: list[tuple[str, str]]) -> Awaitable[int]: ...


@dataclass(frozen=True)
class Lease:
    """A place among a caller's requests under way. Release it."""

    caller: str
    id: str


class RateLimitClient:
    """Counts requests at the limiter, or in this process while the limiter is unavailable. Use it on one event loop.

    Args:
        limiter: None: this replica is the only one, or no caller has limits.
        call_timeout_s: the longest wait for the limiter's answer.
        heartbeat_s: the period of the heartbeat while the limiter answers.
        reconnect_s: the period while it does not.
    """

    def __init__(
        self,
        limiter: Limiter | None,
        call_timeout_s: float = CALL_TIMEOUT_S,
        heartbeat_s: float = HEARTBEAT_S,
        reconnect_s: float = RECONNECT_S,
    ) -> None:
        self._limiter = limiter
        self._call_timeout_s = call_timeout_s
        self._heartbeat_s = heartbeat_s
        self._reconnect_s = reconnect_s
        self._local = RateLimiter(math.inf)
        self._held: set[Lease] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.available = False  #: the limiter answered the last call
        self.refused = 0  #: requests over a limit
        self.decided_locally = 0  #: requests counted here because the limiter was unavailable
        self.lost = 0  #: times the limiter became unavailable

    def start(self) -> None:
        """Start the heartbeat. Needs a running event loop."""
        if self._limiter is not None:
            self._spawn(self._heartbeat(self._limiter))

    async def acquire(self, caller: str, limits: CallerLimits) -> Lease:
        """Count one request of `caller` (an opaque id).

        Raises:
            RateLimited: the caller has reached a limit.
        """
        lease, refusal = await self._count(_new_lease(caller), limits)
        if refusal is not None:
            self.refused += 1
            raise _rate_limited(refusal, limits)
        if limits.concurrent is not None:
            self._held.add(lease)
            self._local.renew([(caller, lease.id)])
        return lease

    def release(self, lease: Lease) -> None:
        """Release the lease: at once here, and soon at the limiter. Never waits, so a cancelled request may call it."""
        if lease in self._held:
            self._held.discard(lease)
            self._forget(lease)

    async def _count(self, lease: Lease, limits: CallerLimits) -> tuple[Lease, Refusal | None]:
        if self.available and self._limiter is not None:
            try:
                async with asyncio.timeout(self._call_timeout_s):
                    return lease, await self._limiter.acquire(lease.caller, limits, lease.id)
            except asyncio.CancelledError:
                self._forget(lease)  # it may have been granted
                raise
            except Exception as error:  # whatever the reason, the limiter can't be asked now
                self._forget(lease)
                lease = _new_lease(lease.caller)  # a limiter lets nobody hold a lease that was released
                self._mark_unavailable(error)
        if self._limiter is not None:
            self.decided_locally += 1
        return lease, self._local.acquire(lease.caller, limits, lease.id)

    def _forget(self, lease: Lease) -> None:
        self._local.release(lease.caller, lease.id)
        if self.available and self._limiter is not None:
            self._spawn(self._release_at(self._limiter, lease))

    async def _release_at(self, limiter: Limiter, lease: Lease) -> None:
        try:
            async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                await limiter.release(lease.caller, lease.id)
        except Exception as error:
            self._mark_unavailable(error)  # the lease is not renewed, so it ends by itself

    async def _heartbeat(self, limiter: Limiter) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                    await limiter.renew([(lease.caller, lease.id) for lease in self._held])
                if not self.available:
                    self.available = True
                    log.info("the limiter answers: limits hold over all ingress replicas")
            except Exception as error:
                self._mark_unavailable(error)
            await asyncio.sleep(self._heartbeat_s if self.available else self._reconnect_s)

    def _mark_unavailable(self, error: Exception) -> None:
        if self.available:
            self.available = False
            self.lost += 1
            log.warning(
                "the limiter is unavailable (%s): until it answers, every ingress replica counts for itself",
                type(error).__name__,
            )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        # Serve cancels tasks that share a cancelled request's context.
        task = asyncio.get_running_loop().create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def counters(self) -> dict[str, int]:
        """The counters of this process, as `CosyVoice3Api.counters` shows them."""
        return {
            "refused": self.refused,
            "alone": self.decided_locally,
            "lost": self.lost,
            "under_way": len(self._held),
            "limiter_present": int(self.available),
        }


def _new_lease(caller: str) -> Lease:
    return Lease(caller, secrets.token_hex(8))


def _rate_limited(refusal: Refusal, limits: CallerLimits) -> RateLimited:
    if refusal.limit == "concurrent":
        return RateLimited(
            f"This caller's limit of {limits.concurrent} requests at a time is reached; wait for one of them to end.",
            code="too_many_at_once",
            retry_after_s=refusal.retry_after_s,
        )
    # Rounded up, so that a retry after the time in Retry-After succeeds.
    return RateLimited(
        f"This caller's limit of {limits.requests_per_minute:g} requests a minute is reached; try again "
        "after the time in Retry-After.",
        code="too_many_requests",
        retry_after_s=math.ceil(refusal.retry_after_s),
    )
