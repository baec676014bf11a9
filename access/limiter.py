"""limiter: what callers have taken, counted in one place for all ingress replicas.

A service of its own, one replica, deployed where there may be limits. It keeps nothing: after a restart buckets are
full, and leases come back with the ingresses' next renewal.
"""

from __future__ import annotations

from access.rate_limiter import LEASE_S, RateLimiter, Refusal
from access.settings import CallerLimits


class Limiter:
    service = "limiter"

    def __init__(self) -> None:
        self._ledger = RateLimiter(LEASE_S)

    async def enter(self, caller: str, limits: CallerLimits, lease: str) -> Refusal | None:
        return self._ledger.enter(caller, limits, lease)

    async def leave(self, caller: str, lease: str) -> None:
        self._ledger.leave(caller, lease)

    async def renew(self, held: list[tuple[str, str]]) -> int:
        """Returns how many callers are known, which also says that the limiter answers."""
        self._ledger.renew(held)
        return self._ledger.known()
