"""Consecutive failures in, decisions out.

One check that fails is told and nothing more. After `failures` in a row there is something to be done: where another
engine stands by, traffic goes there first, because that helps at once; then, and where there is none, the replica at
fault is restarted, as often as the budget allows: where somebody is known to be at fault. A graph that is slow as a
whole is not made quicker by restarts. Traffic goes back after `successes` in a row on the first engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from watchdog.budget import Budget
from watchdog.canary import NOTHING_SAID, CanaryResult
from watchdog.settings import WatchdogSettings

PRIMARY, FALLBACK = "primary", "fallback"


@dataclass(frozen=True)
class CheckFailed:
    checked: CanaryResult
    failures: int  #: in a row, with this one


@dataclass(frozen=True)
class Restart:
    service: str
    cause: str
    failures: int
    since_ns: int  #: when the first of these checks began


@dataclass(frozen=True)
class Withheld:
    """A restart that the budget does not allow; told once until something changes."""

    service: str
    cause: str
    failures: int
    since_ns: int


@dataclass(frozen=True)
class Switch:
    line: str
    cause: str
    failures: int
    since_ns: int  #: to the fallback: the first failure; back: since when it has been in use


Decision = CheckFailed | Restart | Withheld | Switch


class Policy:
    """`fallback`: whether another engine stands by."""

    def __init__(self, settings: WatchdogSettings, budget: Budget, fallback: bool = False) -> None:
        self._settings = settings
        self._budget = budget
        self.fallback = fallback
        self.line = PRIMARY
        self.failures = 0
        self._successes = 0
        self._since_ns = 0
        self._switched_ns = 0
        self._withheld: set[str] = set()

    @property
    def suspicious(self) -> bool:
        """Something failed lately: look again soon."""
        return self.failures > 0 or self.line == FALLBACK

    def take(self, checked: CanaryResult, suspect: str | None, settled: bool, now: float) -> list[Decision]:
        """A canary on the first engine. `suspect`: the service that isn't ready, where one isn't; `settled`: whether
        Serve is not at work already on the one at fault; `now`: the budget's clock."""
        if checked.outcome in NOTHING_SAID:
            return []
        if checked.ok:
            return self._good(checked)
        self._successes = 0
        if self.failures == 0:
            self._since_ns = checked.began_ns
        self.failures += 1
        decisions: list[Decision] = [CheckFailed(checked, self.failures)]
        if self.failures % self._settings.failures:
            return decisions
        cause = f"canary_{checked.outcome}"
        if self.fallback and self.line == PRIMARY:
            self.line, self._switched_ns = FALLBACK, checked.ended_ns
            return [*decisions, Switch(FALLBACK, cause, self.failures, self._since_ns)]
        service = checked.service or suspect
        if self._settings.on_failure == "restart" and service is not None and settled:
            decisions += self._restart(service, cause, now)
        return decisions

    def _good(self, checked: CanaryResult) -> list[Decision]:
        self.failures = 0
        self._withheld.clear()
        if self.line == PRIMARY:
            return []
        self._successes += 1
        if self._successes < self._settings.successes:
            return []
        self.line, self._successes = PRIMARY, 0
        return [Switch(PRIMARY, "recovered", 0, self._switched_ns)]

    def _restart(self, service: str, cause: str, now: float) -> list[Decision]:
        if self._budget.allows(service, now):
            self._budget.spend(service, now)
            self._withheld.discard(service)
            return [Restart(service, cause, self.failures, self._since_ns)]
        if service in self._withheld:
            return []
        self._withheld.add(service)
        return [Withheld(service, cause, self.failures, self._since_ns)]
