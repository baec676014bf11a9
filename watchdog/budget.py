"""No restart storms: a service may be restarted so often in a while, and not twice in quick succession."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

JITTER = 0.2  #: share of a pause by which it varies, so that several graphs on a machine don't restart in step


class Budget:
    """`at_most` restarts of each service in `within_s` seconds; after the n-th of them `backoff_s * 2**(n-1)` of peace.

    Times are seconds of any clock that only moves forward.
    """

    def __init__(
        self, at_most: int, within_s: float, backoff_s: float, vary: Callable[[], float] = random.random
    ) -> None:
        self._at_most = at_most
        self._within_s = within_s
        self._backoff_s = backoff_s
        self._vary = vary
        self._spent: dict[str, list[float]] = defaultdict(list)
        self._not_before: dict[str, float] = {}

    def allows(self, service: str, now: float) -> bool:
        spent = self._recent(service, now)
        return len(spent) < self._at_most and now >= self._not_before.get(service, float("-inf"))

    def spend(self, service: str, now: float) -> None:
        spent = self._recent(service, now)
        spent.append(now)
        pause = self._backoff_s * 2 ** (len(spent) - 1)
        self._not_before[service] = now + pause * (1 + JITTER * (2 * self._vary() - 1))

    def _recent(self, service: str, now: float) -> list[float]:
        self._spent[service] = [at for at in self._spent[service] if now - at < self._within_s]
        return self._spent[service]
