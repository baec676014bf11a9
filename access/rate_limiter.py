"""The rate limiter: a token bucket for each caller's rate, and leases for its requests under way.

The library `limits` counts requests in windows, and has no leases: a caller's concurrent requests could not be
counted, and those of an ingress replica that died would stay counted for ever. So this is written here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from access.settings import CallerLimits
from access.token_bucket import TokenBucket
from speech.errors import RETRY_AFTER_PLACE_S

LEASE_S = 15.0
_SWEEP_EVERY_S = 60.0


@dataclass(frozen=True)
class Refusal:
    """The limit that a request would exceed, and the seconds after which a retry may succeed."""

    limit: Literal["rate", "concurrent"]
    retry_after_s: float


class RateLimiter:
    """Counts the requests of all callers. Use it from one thread.

    Args:
        lease_s: seconds after which a lease ends that is not renewed: its ingress replica has died.
        clock: any monotonic clock, in seconds.
    """

    def __init__(self, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._leases: dict[str, dict[str, float]] = {}  #: caller -> lease -> the time at which it ends
        self._released: dict[str, float] = {}  #: lease -> the time until which nothing may bring it back
        self._swept = clock()

    def acquire(self, caller: str, limits: CallerLimits, lease: str) -> Refusal | None:
        """Count one request of `caller`, and hold `lease` if its concurrent requests are limited.

        A refused request takes no token: waiting for a place costs the caller nothing.

        Returns:
            None if the request may go on.
        """
        now = self._clock()
        self._sweep(now)
        bucket = self._bucket(caller, limits, now)
        if bucket is not None and (wait := bucket.wait_s(now)) > 0:
            return Refusal("rate", wait)
        if limits.concurrent is not None and self.under_way(caller) >= limits.concurrent:
            return Refusal("concurrent", RETRY_AFTER_PLACE_S)  # the end of a request under way can't be known
        if bucket is not None:
            bucket.take(now)
        if limits.concurrent is not None:
            self.renew([(caller, lease)])
        return None

    def release(self, caller: str, lease: str) -> None:
        """Release a lease. An unknown lease is no error: it may have ended by itself.

        Calls may overtake each other on their way here. So an acquire or a renewal that was sent before the release and
        comes after it does not hold the lease again.
        """
        if math.isfinite(self._lease_s):
            self._released[lease] = self._clock() + self._lease_s
        leases = self._leases.get(caller, {})
        leases.pop(lease, None)
        if not leases:
            self._leases.pop(caller, None)

    def renew(self, held: Iterable[tuple[str, str]]) -> None:
        """Renew (caller, lease) pairs. Unknown ones are added: so a new limiter learns which requests are under way."""
        ends = self._clock() + self._lease_s
        for caller, lease in held:
            if lease not in self._released:
                self._leases.setdefault(caller, {})[lease] = ends

    def under_way(self, caller: str) -> int:
        """The number of the caller's leases that have not ended."""
        now = self._clock()
        leases = self._leases.get(caller, {})
        for lease in [lease for lease, ends in leases.items() if ends <= now]:
            del leases[lease]
        return len(leases)

    def callers(self) -> int:
        """The number of callers with a bucket or a lease."""
        return len(self._buckets.keys() | self._leases.keys())

    def _bucket(self, caller: str, limits: CallerLimits, now: float) -> TokenBucket | None:
        if limits.requests_per_minute is None:
            self._buckets.pop(caller, None)
            return None
        rate = limits.requests_per_minute / 60, limits.most_at_once
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self._buckets[caller] = TokenBucket(*rate, now)
        bucket.configure(*rate, now)
        return bucket

    def _sweep(self, now: float) -> None:
        """Drop idle callers; otherwise anonymous callers would fill the memory."""
        if now - self._swept < _SWEEP_EVERY_S:
            return
        self._swept = now
        for caller in [caller for caller, bucket in self._buckets.items() if bucket.full(now)]:
            del self._buckets[caller]
        for caller in [caller for caller in self._leases if self.under_way(caller) == 0]:
            self._leases.pop(caller, None)
        for lease in [lease for lease, until in self._released.items() if until <= now]:
            del self._released[lease]
