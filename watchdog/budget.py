"""Limits restarts: at most so many of a service within a time, with a growing pause after each."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

JITTER = 0.2  #: share of a pause by which it varies, so that several graphs on a machine don't restart in step


class Budget:
    """Counts the restarts of each service. Times are seconds of any clock that only moves forward.

    Args:
        at_most: Restarts of one service within `within_s`.
        within_s: Seconds.
        backoff_s: The pause after the first restart. It doubles with each further one within `within_s`.
        chance: A number in [0, 1), for the jitter.
    """

    def __init__(
        self, at_most: int, within_s: float, backoff_s: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._at_most = at_most
        self._within_s = within_s
        self._backoff_s = backoff_s
        self._chance = chance
        self._restarts: dict[str, list[float]] = defaultdict(list)
        self._not_before: dict[str, float] = {}

    def allows(self, service: str, now: float) -> bool:
        """Tell if the service may be restarted now."""
        restarts = self._recent(service, now)
        return len(restarts) < self._at_most and now >= self._not_before.get(service, float("-inf"))

    def spend(self, service: str, now: float) -> None:
        """Note a restart."""
        restarts = self._recent(service, now)
        restarts.append(now)
        pause = self._backoff_s * 2 ** (len(restarts) - 1)
        self._not_before[service] = now + pause * (1 + JITTER * (2 * self._chance() - 1))

    def _recent(self, service: str, now: float) -> list[float]:
        self._restarts[service] = [at for at in self._restarts[service] if now - at < self._within_s]
        return self._restarts[service]
