"""Failed requests in groups: the status, the reason, the stage, and the callers."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from cluster.doctor.evidence import FEWEST, Evidence
from cluster.doctor.figures import count, percent, plural
from cluster.doctor.finding import Finding, Severity
from cluster.doctor.traces import Span, Trace
from speech import errors as speech_errors
from tracing import vocabulary

MOSTLY = 0.8  #: of a group's requests from one caller: then the group is that caller's
OURS_SHARE, THEIRS_SHARE = 0.01, 0.05  #: of all requests, above which something is to be done
FEW = 5  #: errors of a group below which nothing is to be done
LISTED = 5  #: kinds of rare errors that are named

#: How a code reads after "are". Any other code is shown as it is.
_DESCRIPTIONS = {
    "dialect_missing": "requests without a dialect",
    "dialect_unknown": "requests with a dialect that does not exist",
    "clip_missing": "requests without a recording",
    "field_missing": "requests that lack a field",
    "key_missing": "requests without an API key",
    "key_unknown": "requests with an API key that is not valid",
    "key_expired": "requests with an API key that has expired",
    "too_many_requests": "requests beyond the rate of their key",
    "draining": "requests that came while the service was being stopped",
}
_REMEDIES = {
    "sample_rate_too_low": "Their recordings must have 16 kHz or more.",
    "dialect_missing": "They must send `dialect`, or their key must be given one (docs/access.md).",
}


def _refusals() -> dict[str, int]:
    """Return the error types that are the caller's fault, with their statuses."""
    kinds = [kind for kind in vars(speech_errors).values() if isinstance(kind, type)]
    return {
        kind.type: kind.status
        for kind in kinds
        if issubclass(kind, speech_errors.SpeechError) and 400 <= kind.status < 500
    }


_REFUSALS = _refusals()


@dataclass(frozen=True)
class Group:
    """Failures of one kind.

    Attributes:
        status: The HTTP status. A refusal inside a stream that began with 200 has the status of its error type.
        type: The tag `error.type`.
        code: The tag `error.code`, or an empty string.
        service: The stage's that failed, or the ingress.
        description: What it is, for people; reads after "are".
    """

    status: int
    type: str
    code: str
    service: str
    description: str

    @property
    def ours(self) -> bool:
        """Tell whether the service is at fault, and not the caller."""
        return self.status >= 500 or self.broke_off

    @property
    def broke_off(self) -> bool:
        """Tell whether the answer had begun with 200 when the service failed."""
        return self.status < 400


def errors(evidence: Evidence) -> list[Finding]:
    """Return a finding for each kind of failure, and one line for all kinds that are rare."""
    groups: dict[Group, list[Trace]] = defaultdict(list)
    by_status: Counter[int] = Counter()
    for trace in evidence.requests:
        if not trace.ok:
            group = _group(trace)
            groups[group].append(trace)
            by_status[group.status] += 1
    total, source = evidence.all_requests
    largest_first = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0].status))
    frequent = [(group, traces) for group, traces in largest_first if not _is_rare(group, traces, total)]
    rare = [(group, traces) for group, traces in largest_first if _is_rare(group, traces, total)]
    findings = [_finding(group, traces, by_status[group.status], total, source, evidence) for group, traces in frequent]
    if rare:
        findings.append(_rare(rare))
    if not findings and evidence.requests:
        findings = [Finding("errors", "fine", f"none of {len(evidence.requests)} kept requests failed")]
    return findings + _unseen(evidence, sum(by_status.values()))


def _is_rare(group: Group, traces: list[Trace], total: float | None) -> bool:
    """Tell whether a group is too small for a finding of its own: a request or two, or few of many refusals."""
    if len(traces) < FEWEST:
        return True
    return not group.ours and total is not None and sum(trace.weight for trace in traces) < OURS_SHARE * total


def _rare(groups: list[tuple[Group, list[Trace]]]) -> Finding:
    """Return one line about all groups that are too small for a finding."""
    number = sum(len(traces) for _, traces in groups)
    listed = ", ".join(f"{group.code or group.type} {len(traces)}" for group, traces in groups[:LISTED])
    more = f" and {len(groups) - LISTED} more kinds" if len(groups) > LISTED else ""
    return Finding(
        "errors",
        "fine",
        f"{plural(number, 'failed request')} of {plural(len(groups), 'rare kind')}: {listed}{more}",
        figures={
            "rare": [
                {"status": group.status, "type": group.type, "code": group.code or None, "count": len(traces)}
                for group, traces in groups
            ]
        },
    )


def _group(trace: Trace) -> Group:
    stage = trace.failed_stage
    own = stage.tags if stage is not None else {}
    root = trace.root.tags if trace.root is not None else {}
    kind = root.get(vocabulary.ERROR_TYPE) or own.get(vocabulary.ERROR_TYPE) or "unknown"
    code = root.get(vocabulary.ERROR_CODE) or own.get(vocabulary.ERROR_CODE) or ""
    status = trace.status or 500
    if status < 400:
        status = 499 if trace.cancelled else _REFUSALS.get(kind, status)
    service = vocabulary.INGRESS if stage is None else stage.remote or stage.service
    return Group(status, kind, code, service, _description(trace, kind, code, service, stage))


def _description(trace: Trace, kind: str, code: str, service: str, stage: Span | None) -> str:
    if trace.cancelled:
        return "clients that left"
    if code == "sample_rate_too_low" and (rate := _sample_rate(trace)):
        return f"{rate / 1000:g} kHz audio"
    if code in _DESCRIPTIONS:
        return _DESCRIPTIONS[code]
    lost = " (it did not answer)" if stage is not None and stage.kind == "CLIENT" else ""
    name = f"{kind}/{code}" if code and code != kind else kind
    return f"{name} at {service}{lost}"


def _sample_rate(trace: Trace) -> float | None:
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
        f"{percent(len(traces) / of_status)} of the {which} are {group.description}{_from(callers)}: "
        f"{plural(len(traces), 'request')}, {of_all}"
    )
    detail = [f"error.type {group.type}, error.code {group.code or 'none'}, service {group.service}"]
    if 1 < len(callers) < len(traces):
        detail += [f"{short(user)}: {count(number)}" for user, number in callers.most_common(5)]
    return Finding(
        "errors",
        _severity(group, len(traces), share),
        summary,
        detail,
        _advice(group, traces),
        traces=evidence.window.link(_query(group, traces), traces=len(traces)),
        figures={
            "status": group.status,
            "type": group.type,
            "code": group.code or None,
            "service": group.service,
            "count": len(traces),
            "share_of_status": round(len(traces) / of_status, 4),
            "share_of_all": None if share is None else round(share, 4),
            "share_is": source,
            "callers": {user or "unknown": number for user, number in callers.most_common(5)},
        },
    )


def _query(group: Group, traces: list[Trace]) -> str:
    """Return the search for these traces, by the tags that the ingress's own spans carry in all of them."""
    tags = [(vocabulary.ERROR_TYPE, group.type), (vocabulary.ERROR_CODE, group.code)]
    status = (vocabulary.HTTP_STATUS_CODE, str(group.status))
    query = [(tag, value) for tag, value in (status, *tags) if all(trace.tag(tag) == value for trace in traces)]
    return " and ".join(f"{tag}={value}" for tag, value in query) or vocabulary.ERROR


def _severity(group: Group, number: int, share: float | None) -> Severity:
    if group.type == "cancelled" or number < FEW or share is None and not group.ours:
        return "look"
    return "act" if share is None or share >= (OURS_SHARE if group.ours else THEIRS_SHARE) else "look"


def _from(callers: Counter[str | None]) -> str:
    user, most = callers.most_common(1)[0]
    if most == callers.total():
        return f" from {short(user)}"
    if most >= MOSTLY * callers.total():
        return f", {percent(most / callers.total())} of them from {short(user)}"
    return f" from {len(callers)} callers"


def short(user: str | None) -> str:
    """Return a caller as people are shown it: the beginning of the hash."""
    return f"user {user[:8]}…" if user else "callers without a name"


def _advice(group: Group, traces: list[Trace]) -> str | None:
    if group.type == "cancelled":
        return None
    if group.ours:
        return (
            f"Look at the log of {group.service} under the ids of these traces; docs/runbook.md says what each "
            "error asks for."
        )
    whose = "The caller must fix this" + ("; `user.hash` says which" if any(trace.user for trace in traces) else "")
    return f"{whose}. {_REMEDIES.get(group.code, 'The error message says how.')}"


def _unseen(evidence: Evidence, seen: int) -> list[Finding]:
    """Say so where Prometheus counted clearly more failures than there are traces of: the groups are incomplete."""
    if evidence.counts is None:
        return []
    counted = sum(evidence.counts.outcomes.get(name, 0) for name in ("refused", "failed", "cancelled"))
    if counted < FEW or seen >= 0.8 * counted - FEW:
        return []
    return [
        Finding(
            "errors",
            "look",
            f"Prometheus counted {counted:.0f} failed requests, and Zipkin has {seen}: the groups above are incomplete",
            advice="Callers refused tracing (B3 `0`), traces were lost, or tracing was off. See the `traces` findings.",
            figures={"counted": counted, "seen": seen},
        )
    ]
