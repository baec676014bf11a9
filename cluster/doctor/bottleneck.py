"""The stage that takes most of the requests' time, and what that time goes to."""

from __future__ import annotations

from cluster.doctor.evidence import ENOUGH, Evidence
from cluster.doctor.figures import ms, percent, plural, quantile
from cluster.doctor.finding import Finding
from cluster.doctor.stage_times import StageTimes, admission_ms, stage_times

SLOW_S = 10.0  #: what "slow" means everywhere in this project


def bottleneck(evidence: Evidence) -> list[Finding]:
    """Return one finding: the durations of good requests, and how each stage spends its part."""
    good = evidence.good
    if not good:
        return []
    durations = [(trace.request.duration_ms, trace.weight) for trace in good]
    p50, p95 = quantile(durations, 0.5), quantile(durations, 0.95)
    admission, stages = admission_ms(evidence), stage_times(evidence)
    figures = {
        "good_traces": len(good),
        "p50_ms": round(p50, 1),
        "p95_ms": round(p95, 1),
        "admission_wait_ms": round(admission, 1),
        "stages": {one.stage: one.split() for one in stages},
    }
    how_long = f"half of the good requests take {ms(p50)} or less, 95 % {ms(p95)} or less"
    if not stages:
        return [
            Finding(
                "bottleneck",
                "look",
                f"{plural(len(good), 'good request')} without any stage's span; {how_long}",
                traces=evidence.window.link(),
                figures=figures,
            )
        ]
    detail = [how_long, *map(_line, stages)]
    if admission >= 1:
        detail.append(f"waiting to be let into the graph: {ms(admission)} a request")
    first = stages[0]
    share = percent(min(first.share, 1))
    summary = f"{first.stage} ({first.service}) takes {share} of the requests' time: {_split(first)}"
    if len(good) < ENOUGH:
        return [
            Finding("bottleneck", "fine", f"{summary}; of only {plural(len(good), 'trace')}", detail, figures=figures)
        ]
    waits = first.wait_ms + admission > first.compute_ms
    slow = p95 > SLOW_S * 1000
    return [
        Finding(
            "bottleneck",
            "look" if waits or slow else "fine",
            summary,
            detail,
            advice=f"Requests wait longer for {first.service} than it computes: larger batches or more replicas help."
            if waits
            else None,
            traces=evidence.window.link(service=first.service, traces=len(good)),
            figures=figures,
        )
    ]


def _split(times: StageTimes) -> str:
    return (
        f"{ms(times.compute_ms)} compute, {ms(times.batch_wait_ms)} waiting for the device, "
        f"{ms(times.queue_ms)} on the way"
    )


def _line(times: StageTimes) -> str:
    return f"{times.stage}: {ms(times.total_ms)} a request ({percent(times.share)}): {_split(times)}"
