"""Traces that are incomplete, stages that did not answer, traces that never reached a destination."""

from __future__ import annotations

from collections import Counter

from cluster.doctor.evidence import FEWEST, Evidence
from cluster.doctor.figures import count, plural
from cluster.doctor.finding import Finding
from cluster.doctor.traces import SPEECH_STAGES, VOICE_STAGES, Span, Trace
from tracing import vocabulary


def broken(evidence: Evidence) -> list[Finding]:
    """Return findings about traces that are incomplete or lost, and about stages that did not answer."""
    findings = [*_incomplete(evidence), *_lost_stages(evidence), *_never_arrived(evidence)]
    if not findings and evidence.requests:
        findings = [Finding("traces", "fine", f"all of {plural(len(evidence.read.traces), 'kept trace')} are complete")]
    return findings


def missing_part(trace: Trace) -> str | None:
    """Return what a trace lacks, for people; None where it is complete."""
    ids = {span.id for span in trace.spans}
    if any(
        span.parent not in ids for span in trace.spans if span.service in vocabulary.SERVICES and not span.is_request
    ):
        return "a span's parent is missing"
    if trace.root is None:
        return "the request's own span is missing"
    if trace.ok and trace.is_speech and trace.tag(vocabulary.REQUEST_FALLBACK) != "true":
        has = {span.name for span in trace.stages}
        needed = set(SPEECH_STAGES)
        if trace.tag(vocabulary.VOICE_CACHE) not in ("hit", "stored"):
            needed |= set(VOICE_STAGES)
        if needed - has:
            return f"no span of {', '.join(stage for stage in vocabulary.STAGES if stage in needed - has)}"
    return None


def _incomplete(evidence: Evidence) -> list[Finding]:
    wrong = [
        (trace, missing)
        for trace in (*evidence.read.traces, *evidence.read.orphans)
        if (missing := missing_part(trace))
    ]
    if not wrong:
        return []
    kinds = Counter(missing for _, missing in wrong)
    looked_at = len(evidence.read.traces) + len(evidence.read.orphans)
    return [
        Finding(
            "traces",
            "look" if len(wrong) >= FEWEST else "fine",
            f"{len(wrong)} of {plural(looked_at, 'trace')} {'is' if len(wrong) == 1 else 'are'} incomplete: "
            + "; ".join(f"{plural(number, 'time')} {missing}" for missing, number in kinds.most_common(3)),
            [f"{trace.id}: {missing}" for trace, missing in wrong[:5]],
            advice="Zipkin may have dropped its oldest spans (memory holds 100,000), or still be writing its newest: "
            "ask again in a minute. Parts that are missing then were lost on their way.",
            figures={"broken": len(wrong), "orphans": len(evidence.read.orphans), "kinds": dict(kinds)},
        )
    ]


def _lost_stages(evidence: Evidence) -> list[Finding]:
    found = []
    by_service: dict[str, list[tuple[Trace, Span]]] = {}
    for trace in evidence.read.traces:
        for span in trace.lost:
            by_service.setdefault(span.remote or vocabulary.STAGE_SERVICE[span.name], []).append((trace, span))
    for service, calls in sorted(by_service.items(), key=lambda item: -len(item[1])):
        kinds = Counter(span.tags.get(vocabulary.ERROR, "unknown") for _, span in calls)
        saved = len({trace.id for trace, _ in calls if trace.ok})
        requests = len({trace.id for trace, _ in calls})
        found.append(
            Finding(
                "traces",
                "act" if len(calls) >= FEWEST else "fine",
                f"{service} did not answer {plural(len(calls), 'time')}, in {plural(requests, 'request')}; "
                f"a retry saved {saved} of them",
                [f"{cause}: {number}" for cause, number in kinds.most_common()],
                advice="Its log says why it ended or hung. `python -m cluster status` shows whether it runs now.",
                traces=evidence.window.link("error", span=calls[0][1].name, traces=requests),
                figures={"service": service, "calls": len(calls), "requests": requests, "saved": saved},
            )
        )
    return found


def _never_arrived(evidence: Evidence) -> list[Finding]:
    counts = evidence.counts
    if counts is None:
        return []
    found = []
    if lost := sum(counts.lost_traces.values()):
        causes = ", ".join(f"{cause} {count(number)}" for cause, number in sorted(counts.lost_traces.items()))
        found.append(
            Finding(
                "traces",
                "act",
                f"{plural(lost, 'kept trace')} never reached a destination: {causes}",
                advice="docs/runbook.md, TracesLost.",
                figures={"lost": counts.lost_traces},
            )
        )
    if counts.zipkin_dropped:
        found.append(
            Finding(
                "traces",
                "act",
                f"Zipkin dropped {count(counts.zipkin_dropped)} spans it had received",
                advice="Its log says why; its storage may be full or slow (docs/storage.md).",
                figures={"zipkin_dropped": counts.zipkin_dropped},
            )
        )
    if counts.untraced >= FEWEST:
        found.append(
            Finding(
                "traces",
                "look",
                f"{plural(counts.untraced, 'request')} came while tracing was off",
                advice="user_config `tracing: true` of cosyvoice3-api switches it on, without a restart.",
                figures={"untraced": counts.untraced},
            )
        )
    return found
