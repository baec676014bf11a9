"""One drill: a fault makes its alert fire, the runbook's steps show the cause, the repair makes the alert end."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from cluster.monitoring import Thresholds
from tests.drills.alerts import CheckFailed
from tests.drills.environment import Environment
from tests.drills.faults import ALL, Fault

#: in place of the production rules' 5 minutes: a drill takes a minute or two
THRESHOLDS = Thresholds(window_s=30, hold_s=5, slow_s=1.0, every_s=5)
FIRES_WITHIN_S, ENDS_WITHIN_S = 150.0, 240.0


@dataclass(frozen=True)
class DrillResult:
    """A row of the table in docs/runbook.md. Times in seconds; `ended_s` is None where the fault stays."""

    date: str
    alert: str
    description: str
    fired_s: float
    value: str
    stage: str
    summary: str
    observed: str
    fired_beside: list[str]
    remedy: str
    ended_s: float | None

    def row(self) -> str:
        """Format the result as a row of the runbook's table."""
        ended = f"{self.remedy}: gone after {self.ended_s:.0f} s" if self.ended_s else self.remedy
        beside = ", ".join(self.fired_beside) or "–"
        return (
            f"| {self.alert} | {self.description} | {self.fired_s:.0f} s, “{self.value}” | "
            f"{self.observed} | {beside} | {ended} |"
        )

    def as_dict(self) -> dict:
        return asdict(self)


def drill(fault: Fault, environment: Environment) -> DrillResult:
    """Act a fault out, from the first sign to the end of its alert.

    Raises:
        CheckFailed: The alert does not fire or end in time, or a step of the runbook shows something else.
    """
    if fault.needs_quiet:
        environment.alerts.wait_until_gone(None, ENDS_WITHIN_S)
    began = time.monotonic()
    fault.inject(environment)
    try:
        while fault.alert not in (firing := environment.alerts.firing()):
            if time.monotonic() - began > FIRES_WITHIN_S:
                raise CheckFailed(
                    f"{fault.alert} does not fire within {FIRES_WITHIN_S:.0f} s; firing: {sorted(firing) or 'none'}"
                )
            fault.repeat(environment)
            time.sleep(0.5)
        fired_s, alert = time.monotonic() - began, firing[fault.alert]
        observed = fault.inspect(environment, alert)
        beside = sorted(environment.alerts.firing().keys() - {fault.alert})
    finally:
        repaired = time.monotonic()
        fault.repair(environment)
    ended_s = None
    if fault.clears:
        environment.alerts.wait_until_gone({fault.alert}, ENDS_WITHIN_S)
        ended_s = round(time.monotonic() - repaired, 1)
    return DrillResult(
        date=datetime.now(UTC).date().isoformat(),
        alert=fault.alert,
        description=fault.description,
        fired_s=round(fired_s, 1),
        value=alert.notes["value"],
        stage=alert.notes["stage"],
        summary=alert.notes["summary"],
        observed=observed,
        fired_beside=beside,
        remedy=fault.remedy,
        ended_s=ended_s,
    )


def merged(results: list[DrillResult], earlier: list[DrillResult]) -> list[DrillResult]:
    """Put the results in the order of ALL; earlier ones stay for faults that were not tried this time."""
    order = {(fault.alert, fault.description): index for index, fault in enumerate(ALL)}
    by_fault = {(one.alert, one.description): one for one in (*earlier, *results)}
    return [by_fault[key] for key in sorted(by_fault.keys() & order.keys(), key=order.__getitem__)]
