"""A token bucket: a rate in the long run, and a burst after a pause."""

from __future__ import annotations

#: Floating-point sums end a hair below a whole token; without this a caller would wait for that hair.
_EPSILON = 1e-9


class TokenBucket:
    """A bucket that starts full. Times are seconds of any monotonic clock, given by the caller.

    Args:
        per_second: tokens that flow in each second.
        size: the most tokens that it holds.
        now: the time at the start.
    """

    def __init__(self, per_second: float, size: int, now: float) -> None:
        self._per_second = per_second
        self._size = size
        self._tokens = float(size)
        self._filled_at = now

    def configure(self, per_second: float, size: int, now: float) -> None:
        """Change rate and size. The tokens stay, as far as they fit: a new limit is no refill."""
        self._fill(now)
        self._per_second = per_second
        self._size = size
        self._tokens = min(self._tokens, float(size))

    def wait_s(self, now: float) -> float:
        """Seconds until a token is there; 0 if one is."""
        self._fill(now)
        missing = 1.0 - self._tokens
        return missing / self._per_second if missing > _EPSILON else 0.0

    def take(self, now: float) -> bool:
        """Take one token; False if there is none."""
        if self.wait_s(now) > 0:
            return False
        self._tokens = max(0.0, self._tokens - 1.0)
        return True

    def full(self, now: float) -> bool:
        """Tell whether the bucket is full again; it may then be dropped."""
        self._fill(now)
        return self._tokens >= self._size - _EPSILON

    def _fill(self, now: float) -> None:
        # A clock that stands still, or a call that comes late, takes nothing away.
        self._tokens = min(float(self._size), self._tokens + max(0.0, now - self._filled_at) * self._per_second)
        self._filled_at = max(self._filled_at, now)
