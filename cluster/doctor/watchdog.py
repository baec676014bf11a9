"""The watchdog's actions: failed checks, replicas it replaced or restarted, traffic it switched."""

from __future__ import annotations

from collections import Counter

from cluster.doctor.evidence import FEWEST, Evidence
from cluster.doctor.finding import Finding, Severity
from cluster.doctor.traces import Span
from tracing import vocabulary

CAUSE, SERVICE, LINE, NODE = "watchdog.cause", "watchdog.service", "watchdog.line", "watchdog.node.address"
_ACTIONS = {
    "CHECK_FAILED": "checks failed",
    "REPLICA_REPLACED": "replicas were replaced",
    "REPLICA_RESTARTED": "replicas were restarted",
    "TRAFFIC_SWITCHED": "times traffic was switched",
    "RESTART_WITHHELD": "restarts were withheld",
    "NODE_LOST": "nodes were lost",
    "CAPACITY_RESTORED": "lost nodes were made up for",
}


def watchdog(evidence: Evidence) -> list[Finding]:
    """Return one finding about all actions of the watchdog, or none where it did nothing."""
    spans = sorted(
        (
            span
            for trace in evidence.read.watchdog
            for span in trace.spans
            if span.service == vocabulary.WATCHDOG and span.name in _ACTIONS
        ),
        key=lambda span: span.start_ms,
    )
    if not spans:
        return []
    names = Counter(span.name for span in spans)
    by_cause = Counter(
        (span.name, span.tags.get(NODE) or span.tags.get(SERVICE, "unknown"), span.tags.get(CAUSE, "unknown"))
        for span in spans
    )
    line = next((span.tags.get(LINE) for span in reversed(spans) if span.name == "TRAFFIC_SWITCHED"), None)
    on_fallback = line == "fallback"
    withheld = names["RESTART_WITHHELD"]
    rare = set(names) == {"CHECK_FAILED"} and len(spans) < FEWEST
    severity: Severity = "act" if on_fallback or withheld else "fine" if rare else "look"
    actions = ", ".join(
        f"{number} {_ACTIONS[name] if number > 1 else _one(name)}" for name, number in names.most_common()
    )
    return [
        Finding(
            "watchdog",
            severity,
            f"the watchdog: {actions}{'; traffic is on the fallback line' if on_fallback else ''}",
            [f"{name}: {where}, {cause}: {number}" for (name, where, cause), number in by_cause.most_common()],
            advice=_advice(on_fallback, withheld, spans),
            traces=evidence.window.link(service=vocabulary.WATCHDOG),
            figures={
                "actions": dict(names),
                "on_fallback": on_fallback,
                "services": dict(Counter(span.tags.get(SERVICE, "unknown") for span in spans)),
            },
        )
    ]


def _one(name: str) -> str:
    return (
        _ACTIONS[name]
        .replace("checks", "check")
        .replace("replicas were", "replica was")
        .replace("nodes were", "node was")
        .replace("times", "time")
        .replace("restarts were", "restart was")
    )


def _advice(on_fallback: bool, withheld: int, spans: list[Span]) -> str | None:
    services = ", ".join(sorted({span.tags.get(SERVICE, "") for span in spans} - {""})) or "the stages"
    if withheld:
        return f"It has used up its restarts. Look at the log of {services}, and repair it by hand."
    return (
        f"Look at the log of {services}. The watchdog switches back by itself once its canaries succeed."
        if on_fallback
        else None
    )
