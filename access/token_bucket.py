"""A token bucket: so many requests a second in the long run, and so many at once after a pause."""

from __future__ import annotations

#: Floating point adds up to a hair less than a whole token; without it a caller would wait for that hair.
_HAIR = 1e-9


class TokenBucket:
    """Full at first. Times are seconds of any monotonic clock, given by the caller."""

    def __init__(self, per_second: float, size: int, now: float) -> None:
        self._per_second = per_second
        self._size = size
        self._tokens = float(size)
        self._at = now

    def configure(self, per_second: float, size: int, now: float) -> None:
        """Other limits from now on. What is in the bucket stays, as far as it fits: a new limit is no refill."""
        self._fill(now)
        self._per_second = per_second
        self._size = size
        self._tokens = min(self._tokens, float(size))

    def wait_s(self, now: float) -> float:
        """Seconds until a token is there; 0 where one is."""
        self._fill(now)
        missing = 1.0 - self._tokens
        return missing / self._per_second if missing > _HAIR else 0.0

    def take(self, now: float) -> bool:
        """One token, where one is there."""
        if self.wait_s(now) > 0:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True

    def full(self, now: float) -> bool:
        """As good as new: it may be forgotten."""
        self._fill(now)
        return self._tokens >= self._size - _HAIR

    def _fill(self, now: float) -> None:
        # A clock that stands still or a call that comes late takes nothing away.
        self._tokens = min(float(self._size), self._tokens + max(0.0, now - self._at) * self._per_second)
        self._at = max(self._at, now)
