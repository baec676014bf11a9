"""Requests without a dialect of their own, and requests that the fallback engine served."""

from __future__ import annotations

from collections import Counter, defaultdict

from cluster.doctor.errors import short
from cluster.doctor.evidence import FEWEST, Evidence
from cluster.doctor.figures import percent, plural
from cluster.doctor.finding import Finding
from cluster.doctor.traces import Trace
from tracing import vocabulary

#: Where the dialect of a request came from that named none. A stored voice's own is the intended way.
_SOURCES = {
    "key": "the dialect of their API key",
    "config": "the dialect that the config names for all",
    "voice": "the dialect of their stored voice",
}


def fallback(evidence: Evidence) -> list[Finding]:
    """Return a finding for each source of dialects but the request, and one for the fallback engine."""
    findings = []
    by_source: dict[str, list[Trace]] = defaultdict(list)
    for trace in evidence.requests:
        source = trace.tag(vocabulary.REQUEST_DIALECT_SOURCE)
        if source in _SOURCES:
            by_source[source].append(trace)
    for source, traces in sorted(by_source.items(), key=lambda item: -len(item[1])):
        findings.append(_dialect(source, traces, evidence))
    if by_fallback := [trace for trace in evidence.requests if trace.tag(vocabulary.REQUEST_FALLBACK) == "true"]:
        findings.append(_engine(by_fallback, evidence))
    if not findings and evidence.requests:
        findings = [
            Finding("fallback", "fine", "every kept request named its dialect, and the graph's own engine served it")
        ]
    return findings


def _dialect(source: str, traces: list[Trace], evidence: Evidence) -> Finding:
    weights = _weights(traces)
    about = sum(weights.values())
    callers = list(weights.items())[:5]
    user, most = next(iter(weights.items()))
    whose = f", {percent(most / about)} of them from {short(user)}" if len(weights) > 1 else f", all from {short(user)}"
    spoken = Counter(trace.tag(vocabulary.REQUEST_DIALECT) or "unknown" for trace in traces)
    return Finding(
        "fallback",
        "fine" if source == "voice" or len(traces) < FEWEST else "look",
        f"{_about(traces, about)} named no dialect and used {_SOURCES[source]}{whose}",
        [
            f"{len(traces)} of them are kept",
            "spoken in " + ", ".join(name for name, _ in spoken.most_common(5)),
            *(f"{short(user)}: {_about(traces, weight)}" for user, weight in callers),
        ],
        advice=None
        if source == "voice"
        else "If they mean another dialect, they must send `dialect`; a key without a dialect of its own requires it.",
        traces=evidence.window.link(f"{vocabulary.REQUEST_DIALECT_SOURCE}={source}", traces=len(traces)),
        figures={
            "source": source,
            "kept": len(traces),
            "requests": round(about),
            "callers": {user or "unknown": round(weight) for user, weight in callers},
        },
    )


def _engine(traces: list[Trace], evidence: Evidence) -> Finding:
    about = sum(trace.weight for trace in traces)
    last = max(evidence.requests, key=lambda trace: trace.request.start_ms)
    still = last.tag(vocabulary.REQUEST_FALLBACK) == "true"
    models = sorted(
        {model for trace in traces for span in trace.stages if (model := span.tags.get(vocabulary.MODEL_NAME))}
    )
    return Finding(
        "fallback",
        "act" if still and len(traces) >= FEWEST else "look" if len(traces) >= FEWEST else "fine",
        f"the fallback engine served {_about(traces, about)}"
        f"{', the newest one too' if still else '; the graph itself served the newest one'}",
        [f"{len(traces)} of them are kept", f"model: {', '.join(models) or 'unknown'}"],
        advice="The graph's own engine fails. The `watchdog` and `traces` findings say where; the stage's log says why."
        if still
        else None,
        traces=evidence.window.link(f"{vocabulary.REQUEST_FALLBACK}=true", traces=len(traces)),
        figures={"kept": len(traces), "requests": round(about), "still": still},
    )


def _weights(traces: list[Trace]) -> dict[str | None, float]:
    """Return the callers with the number of their requests, the most frequent first."""
    weights: dict[str | None, float] = defaultdict(float)
    for trace in traces:
        weights[trace.user] += trace.weight
    return dict(sorted(weights.items(), key=lambda item: -item[1]))


def _about(traces: list[Trace], number: float) -> str:
    return plural(number, "request") if number == len(traces) else f"about {plural(number, 'request')}"
