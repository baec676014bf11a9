"""Waits in the proxy, for admission and for each stage: long ones, growing ones, and how many replicas there are."""

from __future__ import annotations

from cluster.doctor.evidence import ENOUGH, Evidence
from cluster.doctor.figures import ms, quantile
from cluster.doctor.finding import Finding
from cluster.doctor.stage_times import stage_times
from tracing import vocabulary

LONG_MS = 1000  #: a shorter wait is no finding
GROWS = 1.5  #: times, from the first third of the time to the last
FEW = 5  #: traces in a third
ADMISSION, PROXY = "ADMISSION", "PROXY"


def queues(evidence: Evidence) -> list[Finding]:
    """Return a finding for each wait that is long or grows."""
    waits = [
        _of_request(evidence, PROXY, vocabulary.PROXY_WAIT_MS, "in Serve's proxy for cosyvoice3-api"),
        _of_request(evidence, ADMISSION, vocabulary.QUEUE_WAIT_MS, "to be let into the graph"),
        *(_of_stage(evidence, stage, service) for stage, service in vocabulary.STAGE_SERVICE.items()),
    ]
    findings = [finding for finding in waits if finding is not None]
    if findings or len(evidence.good) < ENOUGH:
        return findings
    return [Finding("queue", "fine", "no wait grows", _replica_lines(evidence))]


def _of_request(evidence: Evidence, stage: str, tag: str, what_for: str) -> Finding | None:
    waits = [(trace.request.start_ms, trace.request.ms(tag), trace.weight) for trace in evidence.requests]
    return _assess(evidence, stage, vocabulary.INGRESS, waits, what_for)


def _of_stage(evidence: Evidence, stage: str, service: str) -> Finding | None:
    waits = [
        (span.start_ms, span.ms(vocabulary.QUEUE_WAIT_MS) + span.ms(vocabulary.BATCH_WAIT_MS), trace.weight)
        for trace in evidence.requests
        for span in trace.stages
        if span.name == stage
    ]
    return _assess(evidence, stage, service, waits, f"for {service}")


def _assess(
    evidence: Evidence, stage: str, service: str, waits: list[tuple[float, float, float]], what_for: str
) -> Finding | None:
    if len(waits) < ENOUGH:
        return None
    p95 = quantile([(wait, weight) for _, wait, weight in waits], 0.95)
    first, last = _thirds(waits)
    counted = evidence.counts.queue_p95_s.get(stage) if evidence.counts else None
    grows = first is not None and last >= max(LONG_MS, GROWS * first)
    if p95 < LONG_MS and not grows:
        return None
    replicas, most = _replicas(evidence, service)
    room = most is not None and replicas is not None and replicas < most
    trend = (
        f", and the wait grows: {ms(first or 0)} in the first third of the time, {ms(last)} in the last"
        if grows
        else ""
    )
    have = "" if replicas is None else f", which has {replicas} of at most {most or 'unknown'} replicas"
    detail = []
    if counted:
        detail.append(
            f"Prometheus: 95 % of the waits on the way were below {ms(counted[0] * 1000)} in the first half "
            f"of the time, {ms(counted[1] * 1000)} in the second"
        )
    if evidence.counts and evidence.counts.waiting:
        detail.append(f"{evidence.counts.waiting:.0f} requests wait to be let in just now")
    advice = (
        "Replicas are being added (autoscaling): look again in a minute."
        if room
        else f"If a `batching` finding names {service}, act on that first. Otherwise raise its max_replicas, or refuse "
        "earlier (`limits.max_waiting`)."
    )
    longest = next(iter(stage_times(evidence)), None)
    in_the_way = stage in (ADMISSION, PROXY) or (
        longest is not None and longest.stage == stage and longest.wait_ms >= longest.compute_ms
    )
    act = grows and not room and p95 >= LONG_MS and in_the_way
    return Finding(
        "queue",
        "act" if act else "look",
        f"5 % of the requests wait {ms(p95)} or longer {what_for}{have}{trend}",
        detail,
        advice,
        traces=evidence.window.link(service=service),
        figures={
            "stage": stage,
            "service": service,
            "p95_wait_ms": round(p95, 1),
            "first_third_ms": _rounded(first),
            "last_third_ms": _rounded(last),
            "replicas": replicas,
            "most_replicas": most,
            "grows": grows,
        },
    )


def _thirds(waits: list[tuple[float, float, float]]) -> tuple[float | None, float]:
    """Return the median waits of the first and of the last third of the time in which there were requests."""
    begin, end = min(at for at, _, _ in waits), max(at for at, _, _ in waits)
    third = (end - begin) / 3
    first = [(wait, weight) for at, wait, weight in waits if at <= begin + third]
    last = [(wait, weight) for at, wait, weight in waits if at >= end - third]
    if len(first) < FEW or len(last) < FEW or third <= 0:
        return None, 0.0
    return quantile(first, 0.5), quantile(last, 0.5)


def _replicas(evidence: Evidence, service: str) -> tuple[int | None, int | None]:
    """Return how many replicas are healthy now, and how many there may be; None where that is not known."""
    deployment = evidence.deployments.get(service)
    if deployment is not None:
        return len(deployment.replicas), deployment.most_replicas
    healthy = evidence.counts.replicas.get(service) if evidence.counts else None
    return (None if healthy is None else round(healthy)), None


def _replica_lines(evidence: Evidence) -> list[str]:
    lines = []
    for service in (vocabulary.INGRESS, *vocabulary.STAGE_SERVICE.values()):
        now, most = _replicas(evidence, service)
        if now is not None:
            lines.append(f"{service}: {now} replicas" + (f" of at most {most}" if most else ""))
    return lines


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
