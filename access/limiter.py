"""limiter: the service that counts callers' requests for all ingress replicas.

It has one replica, and is deployed only if callers may have limits. It stores nothing: after a restart the buckets are
full, and the leases come back with the ingress replicas' next renewal.
"""

from __future__ import annotations

from access.rate_limiter import LEASE_S, RateLimiter, Refusal
from access.settings import CallerLimits


class Limiter:
    """A `RateLimiter` as a Serve deployment."""

    service = "limiter"

    def __init__(self) -> None:
        self._limiter = RateLimiter(LEASE_S)

    async def acquire(self, caller: str, limits: CallerLimits, lease: str) -> Refusal | None:
        """Count one request; see `RateLimiter.acquire`."""
        return self._limiter.acquire(caller, limits, lease)

    async def release(self, caller: str, lease: str) -> None:
        """Release a lease; see `RateLimiter.release`."""
        self._limiter.release(caller, lease)

    async def renew(self, held: list[tuple[str, str]]) -> int:
        """Renew leases, and return the number of known callers: an answer also says that the limiter is available."""
        self._limiter.renew(held)
        return self._limiter.callers()
