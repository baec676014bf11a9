"""Decides what to do about failed canaries.

One failed canary is reported, and nothing else happens. After `failures` in a row the policy acts. If a fallback
engine runs, traffic goes there first, because that helps at once. After the next `failures` in a row, or if there is no
fallback, it restarts the replica at fault, as often as the budget allows. It does so only if a service is known to be
at fault: restarts do not make a graph quicker that is slow as a whole. After `successes` good canaries in a row on the
primary engine, traffic goes back to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tracing.vocabulary import FALLBACK, PRIMARY
from watchdog.budget import Budget
from watchdog.canary import INCONCLUSIVE, CanaryResult


@dataclass(frozen=True)
class CheckFailed:
    """A canary failed: report it."""

    result: CanaryResult
    failures: int  #: in a row, with this one


@dataclass(frozen=True)
class Restart:
    """Restart the service's replica at fault."""

    service: str
    cause: str
    failures: int
    since_ns: int  #: when the first of these canaries began


@dataclass(frozen=True)
class RestartWithheld:
    """The budget does not allow a restart. Decided once until something changes."""

    service: str
    cause: str
    failures: int
    since_ns: int


@dataclass(frozen=True)
class Switch:
    """Send traffic to another engine."""

    engine: str  #: PRIMARY or FALLBACK
    cause: str
    failures: int
    since_ns: int  #: to the fallback: the first failure; back: since when the fallback has been in use


Decision: TypeAlias = CheckFailed | Restart | RestartWithheld | Switch


class Policy:
    """Turns results of canaries into decisions.

    Args:
        budget: Limits restarts.
        failures: Failed canaries in a row before the policy acts.
        successes: Good canaries in a row on the primary engine before traffic goes back to it.
        may_restart: False only reports, and switches traffic.
        fallback_ready: A fallback engine runs. Set it as that changes.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        failures: int,
        successes: int,
        may_restart: bool = True,
        fallback_ready: bool = False,
    ) -> None:
        self._budget = budget
        self._failures_to_act = failures
        self._successes_to_return = successes
        self._may_restart = may_restart
        self.fallback_ready = fallback_ready
        self.engine = PRIMARY  #: which one traffic goes to
        self.failures = 0  #: failed canaries in a row
        self._successes = 0
        self._since_ns = 0
        self._switched_ns = 0
        self._withheld: set[str] = set()

    @property
    def suspicious(self) -> bool:
        """True if something failed lately, so that the next canary should come soon."""
        return self.failures > 0 or self.engine == FALLBACK

    def observe(self, result: CanaryResult, suspect: str | None, settled: bool, now: float) -> list[Decision]:
        """Decide by one more canary on the primary engine.

        Args:
            result: The canary's.
            suspect: The one service that isn't ready, for a result that names no service.
            settled: Serve is not already starting or stopping a replica of the service at fault.
            now: The budget's clock.

        Returns:
            What to do, in order.
        """
        if result.outcome in INCONCLUSIVE:
            return []
        if result.ok:
            return self._observe_success()
        self._successes = 0
        if self.failures == 0:
            self._since_ns = result.began_ns
        self.failures += 1
        decisions: list[Decision] = [CheckFailed(result, self.failures)]
        if self.failures % self._failures_to_act:
            return decisions
        cause = f"canary_{result.outcome}"
        if self.fallback_ready and self.engine == PRIMARY:
            self.engine, self._switched_ns = FALLBACK, result.ended_ns
            return [*decisions, Switch(FALLBACK, cause, self.failures, self._since_ns)]
        service = result.service or suspect
        if self._may_restart and service is not None and settled:
            decisions += self._restart(service, cause, now)
        return decisions

    def _observe_success(self) -> list[Decision]:
        self.failures = 0
        self._withheld.clear()
        if self.engine == PRIMARY:
            return []
        self._successes += 1
        if self._successes < self._successes_to_return:
            return []
        self.engine, self._successes = PRIMARY, 0
        return [Switch(PRIMARY, "recovered", 0, self._switched_ns)]

    def _restart(self, service: str, cause: str, now: float) -> list[Decision]:
        if self._budget.allows(service, now):
            self._budget.spend(service, now)
            self._withheld.discard(service)
            return [Restart(service, cause, self.failures, self._since_ns)]
        if service in self._withheld:
            return []
        self._withheld.add(service)
        return [RestartWithheld(service, cause, self.failures, self._since_ns)]
