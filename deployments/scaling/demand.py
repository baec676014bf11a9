"""How many requests come, and where that is going: counts by the second, and what is read out of them."""

from __future__ import annotations

import math
from collections import defaultdict

FAST_S = 4  #: a burst is believed after so many seconds
SLOW_S = 30  #: the usual rate is the mean of so many
PART_S = 15  #: a ramp must hold over four of these
CHANCE = 2.0  #: standard deviations of a count that chance may explain
KEPT_S = 4 * PART_S + 5


class Arrivals:
    """Requests by the second."""

    def __init__(self) -> None:
        self._bins: defaultdict[int, float] = defaultdict(float)
        self._from_s: float | None = None

    def add(self, count: float, since_s: float, until_s: float) -> None:
        """Spread requests evenly over the time in which they came."""
        if count < 0 or until_s <= since_s:
            return
        begin_s = max(since_s, until_s - KEPT_S)  # of a clock that was set forward by years, not every second
        self._from_s = begin_s if self._from_s is None else min(self._from_s, begin_s)
        for second in range(math.floor(begin_s), math.ceil(until_s)):
            share = min(until_s, second + 1) - max(begin_s, second)
            self._bins[second] += count * share / (until_s - since_s)
        oldest = math.floor(until_s) - KEPT_S
        if len(self._bins) > 2 * KEPT_S:
            self._bins = defaultdict(float, {at: n for at, n in self._bins.items() if at >= oldest})

    def rate(self, until_s: float, seconds: int) -> float:
        """Return the mean requests a second over the whole seconds before a moment."""
        end = math.floor(until_s)
        begin = end - seconds if self._from_s is None else max(end - seconds, math.floor(self._from_s))
        if begin >= end:
            return 0.0
        return sum(self._bins.get(second, 0.0) for second in range(begin, end)) / max(end - begin, FAST_S)

    def usual(self, until_s: float) -> float:
        """Return the rate to reckon with: the slow mean, or the fast one where chance does not explain it."""
        slow, fast = self.rate(until_s, SLOW_S), self.rate(until_s, FAST_S)
        return max(slow, fast - CHANCE * math.sqrt(fast / FAST_S))

    def ahead(self, until_s: float, lead_s: float) -> float:
        """Return the rate that a steady climb comes to in `lead_s`; 0 if there is no steady climb.

        Steady means that each of four parts of the last minute has more than the one before. A jump has not: two of
        their three differences at most are its own.
        """
        end = math.floor(until_s)
        if self._from_s is None or end - 4 * PART_S < self._from_s:
            return 0.0
        parts = [self.rate(end - back * PART_S, PART_S) for back in (3, 2, 1, 0)]
        slope = min(later - earlier for earlier, later in zip(parts, parts[1:], strict=False)) / PART_S
        return parts[-1] + slope * (lead_s + PART_S / 2) if slope > 0 else 0.0
