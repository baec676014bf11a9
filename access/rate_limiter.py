"""What callers have taken: a bucket each for their rate, and the leases of their requests under way."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from access.settings import CallerLimits
from access.token_bucket import TokenBucket

LEASE_S = 15.0
_SWEEP_EVERY_S = 60.0
#: Nobody knows when a request under way will end.
_RETRY_CONCURRENT_S = 1.0


@dataclass(frozen=True)
class Refusal:
    limit: Literal["rate", "concurrent"]
    retry_after_s: float


class RateLimiter:
    """Use from one thread. A lease that nobody renews for `lease_s` is free again: its ingress has died."""

    def __init__(self, lease_s: float = LEASE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}
        self._leases: dict[str, dict[str, float]] = {}  #: caller -> lease -> when it ends
        self._swept = clock()

    def enter(self, caller: str, limits: CallerLimits, lease: str) -> Refusal | None:
        """Take one request of `caller`'s; None where it may go on, and then holds `lease` if it has to.

        A refused request takes nothing: whoever waits for a place loses no tokens over it.
        """
        now = self._clock()
        self._sweep(now)
        bucket = self._bucket(caller, limits, now)
        if bucket is not None and (wait := bucket.wait_s(now)) > 0:
            return Refusal("rate", wait)
        if limits.concurrent is not None and self.under_way(caller) >= limits.concurrent:
            return Refusal("concurrent", _RETRY_CONCURRENT_S)
        if bucket is not None:
            bucket.take(now)
        if limits.concurrent is not None:
            self.renew([(caller, lease)])
        return None

    def leave(self, caller: str, lease: str) -> None:
        """Give a lease back; one that is not held is no error, since the clock may have been faster."""
        leases = self._leases.get(caller, {})
        leases.pop(lease, None)
        if not leases:
            self._leases.pop(caller, None)

    def renew(self, held: Iterable[tuple[str, str]]) -> None:
        """(caller, lease) pairs that are still in use. Unknown ones are taken up: a new ledger learns what is under
        way from those who hold it."""
        ends = self._clock() + self._lease_s
        for caller, lease in held:
            self._leases.setdefault(caller, {})[lease] = ends

    def under_way(self, caller: str) -> int:
        now = self._clock()
        leases = self._leases.get(caller, {})
        for lease in [lease for lease, ends in leases.items() if ends <= now]:
            del leases[lease]
        return len(leases)

    def known(self) -> int:
        """Callers with anything in here."""
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
        """Forget who has taken nothing for long, or a default limit for strangers would fill the memory."""
        if now - self._swept < _SWEEP_EVERY_S:
            return
        self._swept = now
        for caller in [caller for caller, bucket in self._buckets.items() if bucket.full(now)]:
            del self._buckets[caller]
        for caller in [caller for caller in self._leases if self.under_way(caller) == 0]:
            self._leases.pop(caller, None)
