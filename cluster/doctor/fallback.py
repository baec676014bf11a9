"""What stood in for something: a dialect that the request did not name, an engine that did not speak."""

from __future__ import annotations

from collections import Counter, defaultdict

from cluster.doctor.errors import short
from cluster.doctor.evidence import Evidence
from cluster.doctor.figures import count, percent
from cluster.doctor.finding import Finding
from cluster.doctor.traces import Trace
from tracing import vocabulary

#: Where a dialect came from that no request named. A stored voice's own is what is meant to happen.
_SOURCES = {
    "key": "the dialect of their API key",
    "config": "the dialect that the config names for all",
    "voice": "the dialect of their stored voice",
}


def fallback(evidence: Evidence) -> list[Finding]:
    found = []
    by_source: dict[str, list[Trace]] = defaultdict(list)
    for trace in evidence.requests:
        source = trace.tag(vocabulary.REQUEST_DIALECT_SOURCE)
        if source in _SOURCES:
            by_source[source].append(trace)
    for source, traces in sorted(by_source.items(), key=lambda item: -len(item[1])):
        found.append(_dialect(source, traces, evidence))
    if spare := [trace for trace in evidence.requests if trace.tag(vocabulary.REQUEST_FALLBACK) == "true"]:
        found.append(_engine(spare, evidence))
    if not found and evidence.requests:
        found = [Finding("fallback", "fine", "every kept request named its dialect, and the engine itself spoke")]
    return found


def _dialect(source: str, traces: list[Trace], evidence: Evidence) -> Finding:
    weights = _weights(traces)
    about = sum(weights.values())
    user, most = weights.most_common(1)[0]
    whose = f", {percent(most / about)} of them from {short(user)}" if len(weights) > 1 else f", all from {short(user)}"
    spoken = Counter(trace.tag(vocabulary.REQUEST_DIALECT) or "unknown" for trace in traces)
    return Finding(
        "fallback",
        "fine" if source == "voice" else "look",
        f"{_about(traces, about)} requests named no dialect and were spoken in {_SOURCES[source]}{whose}",
        [
            f"{len(traces)} of them are kept",
            "spoken in " + ", ".join(name for name, _ in spoken.most_common(5)),
            *(f"{short(user)}: {_about(traces, weight)}" for user, weight in weights.most_common(5)),
        ],
        advice=None
        if source == "voice"
        else "If that is not what they mean, they must send `dialect`; without one on "
        "the key such a request is refused.",
        traces=evidence.window.link(f"{vocabulary.REQUEST_DIALECT_SOURCE}={source}"),
        figures={
            "source": source,
            "kept": len(traces),
            "requests": round(about),
            "callers": {user or "unknown": round(weight) for user, weight in weights.most_common(5)},
        },
    )


def _engine(traces: list[Trace], evidence: Evidence) -> Finding:
    about = sum(trace.weight for trace in traces)
    last = max(evidence.requests, key=lambda trace: trace.root.start_ms)
    still = last.tag(vocabulary.REQUEST_FALLBACK) == "true"
    models = sorted(
        {model for trace in traces for span in trace.stages if (model := span.tags.get(vocabulary.MODEL_NAME))}
    )
    return Finding(
        "fallback",
        "act" if still else "look",
        f"{_about(traces, about)} requests were spoken by the fallback engine"
        f"{', the newest one too' if still else '; the newest one is spoken by the graph itself again'}",
        [f"{len(traces)} of them are kept", f"model: {', '.join(models) or 'unknown'}"],
        advice="The graph's own engine does not speak: the `watchdog` and `traces` findings say which stage, its log "
        "says why."
        if still
        else None,
        traces=evidence.window.link(f"{vocabulary.REQUEST_FALLBACK}=true"),
        figures={"kept": len(traces), "requests": round(about), "still": still},
    )


def _weights(traces: list[Trace]) -> Counter:
    found: Counter = Counter()
    for trace in traces:
        found[trace.user] += trace.weight
    return found


def _about(traces: list[Trace], number: float) -> str:
    return count(number) if number == len(traces) else f"about {count(number)}"
