"""Failed requests in groups: what was answered, why, in which stage, and whose they are."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from cluster.doctor.evidence import Evidence
from cluster.doctor.figures import percent
from cluster.doctor.finding import Finding
from cluster.doctor.traces import Span, Trace
from tracing import vocabulary

MOSTLY = 0.8  #: of a group's requests from one caller: then they are that caller's
OURS_SHARE, THEIRS_SHARE = 0.01, 0.05  #: of all requests, above which something is to be done
FEW = 5  #: errors of a group below which nothing is to be done

#: What a code means, after "are". What is not here is named by its code.
_IN_WORDS = {
    "dialect_missing": "requests without a dialect",
    "dialect_unknown": "requests with a dialect that does not exist",
    "clip_missing": "requests without a recording",
    "field_missing": "requests that lack a field",
    "key_missing": "requests without an API key",
    "key_unknown": "requests with an API key that does not count",
    "key_expired": "requests with an API key that has expired",
    "too_many_requests": "requests beyond the rate of their key",
    "draining": "requests that came while the service was being stopped",
}


@dataclass(frozen=True)
class Group:
    status: int
    type: str
    code: str
    service: str  #: the stage's, or the ingress
    about: str  #: in words

    @property
    def ours(self) -> bool:
        return self.status >= 500 or self.broke_off

    @property
    def broke_off(self) -> bool:
        """Its answer had begun, with a 200, when it failed."""
        return self.status < 400


def errors(evidence: Evidence) -> list[Finding]:
    groups: dict[Group, list[Trace]] = defaultdict(list)
    by_status: Counter[int] = Counter()
    for trace in evidence.requests:
        if not trace.ok:
            group = _group(trace)
            groups[group].append(trace)
            by_status[group.status] += 1
    total, source = evidence.all_requests
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0].status))
    found = [
        _finding(group, traces, by_status[group.status], total, source, evidence) for group, traces in largest_first
    ]
    if not found and evidence.requests:
        found = [Finding("errors", "fine", f"none of {len(evidence.requests)} kept requests failed")]
    return found + _unseen(evidence, sum(by_status.values()))


def _group(trace: Trace) -> Group:
    root, stage = trace.root, trace.failed_stage
    own = stage.tags if stage is not None else {}
    kind = root.tags.get(vocabulary.ERROR_TYPE) or own.get(vocabulary.ERROR_TYPE) or "unknown"
    code = root.tags.get(vocabulary.ERROR_CODE) or own.get(vocabulary.ERROR_CODE) or ""
    status = trace.status or 500
    service = vocabulary.INGRESS if stage is None else stage.remote or stage.service
    return Group(status, kind, code, service, _about(trace, kind, code, service, stage))


def _about(trace: Trace, kind: str, code: str, service: str, stage: Span | None) -> str:
    if trace.cancelled:
        return "clients that left"
    if code == "sample_rate_too_low" and (rate := _rate(trace)):
        return f"{rate / 1000:g} kHz audio"
    if code in _IN_WORDS:
        return _IN_WORDS[code]
    lost = " (it did not answer)" if stage is not None and stage.kind == "CLIENT" else ""
    return f"{f'{kind}/{code}' if code else kind} at {service}{lost}"


def _rate(trace: Trace) -> float | None:
    return next((rate for span in trace.stages if (rate := span.number(vocabulary.AUDIO_SAMPLE_RATE))), None)


def _finding(
    group: Group, traces: list[Trace], of_status: int, total: float | None, source: str, evidence: Evidence
) -> Finding:
    callers = Counter(trace.user for trace in traces)
    weight = sum(trace.weight for trace in traces)
    share = None if not total else min(1.0, weight / total)
    of_all = f"{percent(share)} of all requests" if share is not None else "their share of all requests is not known"
    which = "answers that broke off" if group.broke_off else f"{group.status}s"
    summary = (
        f"{percent(len(traces) / of_status)} of the {which} are {group.about}{_from(callers)}: "
        f"{len(traces)} requests, {of_all}"
    )
    detail = [
        f"share of all requests: {source}",
        f"error.type {group.type}, error.code {group.code or 'none'}, service {group.service}",
    ]
    if 1 < len(callers) < len(traces):
        detail += [f"{short(user)}: {count}" for user, count in callers.most_common(5)]
    query = f"{vocabulary.HTTP_STATUS_CODE}={group.status} and {vocabulary.ERROR_TYPE}={group.type}"
    return Finding(
        "errors",
        _severity(group, len(traces), share),
        summary,
        detail,
        _advice(group, traces),
        traces=evidence.window.link(query),
        figures={
            "status": group.status,
            "type": group.type,
            "code": group.code or None,
            "service": group.service,
            "count": len(traces),
            "share_of_status": round(len(traces) / of_status, 4),
            "share_of_all": None if share is None else round(share, 4),
            "share_is": source,
            "callers": {user or "unknown": count for user, count in callers.most_common(5)},
        },
    )


def _severity(group: Group, count: int, share: float | None) -> str:
    if group.type == "cancelled" or count < FEW or share is None and not group.ours:
        return "look"
    return "act" if share is None or share >= (OURS_SHARE if group.ours else THEIRS_SHARE) else "look"


def _from(callers: Counter) -> str:
    user, most = callers.most_common(1)[0]
    if most == callers.total():
        return f" from {short(user)}"
    if most >= MOSTLY * callers.total():
        return f", {percent(most / callers.total())} of them from {short(user)}"
    return f" from {len(callers)} callers"


def short(user: str | None) -> str:
    """A caller as people are shown it: the beginning of the hash."""
    return f"user {user[:8]}…" if user else "callers without a name"


def _advice(group: Group, traces: list[Trace]) -> str | None:
    if group.type == "cancelled":
        return None
    if group.ours:
        return (
            f"Look at the log of {group.service} under the ids of these traces; docs/runbook.md says what each "
            "error asks for."
        )
    remedy = {
        "sample_rate_too_low": "Their recordings must have 16 kHz or more.",
        "dialect_missing": "They must say `dialect`, or their key must be given one (docs/access.md).",
    }
    return (
        f"It is the caller's to mend{'; the hash says which' if any(trace.user for trace in traces) else ''}. "
        + remedy.get(group.code, "The answer's message says how.")
    )


def _unseen(evidence: Evidence, seen: int) -> list[Finding]:
    """Where Prometheus counted clearly more failures than there are traces of: then the groups are not the whole."""
    if evidence.counts is None:
        return []
    counted = sum(evidence.counts.outcomes.get(name, 0) for name in ("refused", "failed", "cancelled"))
    if counted < FEW or seen >= 0.8 * counted - FEW:
        return []
    return [
        Finding(
            "errors",
            "look",
            f"Prometheus counted {counted:.0f} failed requests, and Zipkin has {seen}: the "
            "groups above are not the whole",
            advice="Traces were refused by their callers (B3 `0`), lost, or "
            "tracing was off; the `traces` findings say more.",
            figures={"counted": counted, "seen": seen},
        )
    ]
