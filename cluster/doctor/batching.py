"""Stages whose requests wait because batches are too small, and the setting to change.

A change is proposed under three conditions. The stage takes most of the requests' time. Requests wait at least as long
for its device as it computes. And larger batches cost less for each member, as far as the compute times tell: if every
batch had one member they don't tell, and the finding says so. A CPU's vocoder is left alone: it takes longer for a
batch than for its members one by one, and has a batch size of 1 for that reason.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from cluster.doctor.evidence import ENOUGH, Evidence
from cluster.doctor.figures import mean, ms, percent, quantile
from cluster.doctor.finding import Change, Finding, Severity
from cluster.doctor.stage_times import StageTimes, stage_times
from deployments.settings import BATCHING
from tracing import vocabulary

BATCH, WAIT_MS = BATCHING.max_batch_size, BATCHING.batch_wait_ms
FEW_BATCHES = 5  #: of a size below which its compute time says nothing
PAYS_BELOW = 0.85  #: compute for a member in the larger batches, over that in the smaller


@dataclass(frozen=True)
class Batches:
    """The batches of one stage.

    Attributes:
        by_size: For each size the mean compute in ms, and the number of batches. Streams are left out: their compute
            is the sum over all chunks, and their batch size is the last chunk's.
        largest: The largest size.
        mean_size: Requests a batch.
        alone: Share of the stage's spans that were computed alone.
    """

    by_size: dict[int, tuple[float, int]]
    largest: int
    mean_size: float
    alone: float

    @property
    def member_ratio(self) -> float | None:
        """Return the compute of a request in the largest batches over that in the smallest; None for one size alone."""
        known = sorted((size, took / size) for size, (took, seen) in self.by_size.items() if seen >= FEW_BATCHES)
        return known[-1][1] / known[0][1] if len(known) > 1 and known[0][1] > 0 else None


def batches_of(times: StageTimes) -> Batches | None:
    """Return a stage's batches, or None where its spans have no tags of batches."""
    sizes = [(size, weight) for span, weight in times.spans if (size := span.number(vocabulary.BATCH_SIZE))]
    if not sizes:
        return None
    compute_ms: dict[int, dict[str, float]] = defaultdict(dict)
    for span, _ in times.spans:
        if (
            vocabulary.STREAM_CHUNKS not in span.tags
            and (size := span.number(vocabulary.BATCH_SIZE))
            and (compute := span.number(vocabulary.COMPUTE_MS)) is not None
        ):
            compute_ms[round(size)][span.tags.get(vocabulary.BATCH_ID) or span.id] = compute
    by_size = {size: (sum(batches.values()) / len(batches), len(batches)) for size, batches in compute_ms.items()}
    alone = sum(weight for size, weight in sizes if size <= 1) / sum(weight for _, weight in sizes)
    return Batches(by_size, max(1, round(max(size for size, _ in sizes))), mean(sizes), alone)


def batching(evidence: Evidence) -> list[Finding]:
    """Return a finding for each stage whose batching can be improved, or does harm."""
    stages = stage_times(evidence)
    findings = []
    for times in stages:
        batches = batches_of(times)
        if batches is not None and len(times.spans) >= ENOUGH:
            finding = _assess(times, batches, evidence, is_bottleneck=times is stages[0])
            findings += [finding] if finding else []
    return findings


def _assess(times: StageTimes, batches: Batches, evidence: Evidence, is_bottleneck: bool) -> Finding | None:
    """Return the finding about one stage, or None where its batching is as it should be."""
    deployment = evidence.deployments.get(times.service)
    configured = deployment.max_batch_size if deployment else None
    limit = configured or batches.largest  # where Serve was not asked: it is at least the largest batch seen
    ratio = batches.member_ratio
    state = (
        f"{times.service} computes {batches.mean_size:.1f} requests at a time ({percent(batches.alone)} of them "
        f"alone; max_batch_size {'is set to' if configured else 'seems to be'} {limit}), and requests wait "
        f"{ms(times.batch_wait_ms)} for its device, which then takes {ms(times.compute_ms)}"
    )

    def finding(severity: Severity, summary: str, advice: str | None, change: Change | None = None) -> Finding:
        return Finding(
            "batching",
            severity,
            summary,
            _detail(times, batches),
            advice,
            change,
            evidence.window.link(vocabulary.BATCH_SIZE, service=times.service),
            _figures(times, batches) | {"max_batch_size": limit, "max_is_known": configured is not None},
        )

    if ratio is not None and ratio > 1.05 and batches.mean_size > 1.05:
        return finding(
            "look",
            f"batches don't pay at {times.service}: {state}",
            "A request costs more in a batch than alone: max_batch_size 1 may be quicker here.",
        )
    if not is_bottleneck or not times.batch_wait_ms >= times.compute_ms > 0:
        return None
    if _share_at(times, limit) < 0.5:
        return finding("look", f"{state}; its batches do not fill up to what is allowed", None)
    if limit >= BATCH or (ratio is not None and ratio > PAYS_BELOW):
        return finding(
            "look",
            f"{state}; its batches are full",
            "Larger batches would gain little: it needs more replicas, or a faster device.",
        )
    if ratio is None and times.stage == vocabulary.VOCODE_WAV and _on_cpu(times):
        return finding(
            "look",
            f"{state}; on a CPU its batch size is 1 on purpose",
            "A vocoder on a CPU is quicker one by one: it needs more replicas, or a GPU.",
        )
    return finding(
        "act",
        state,
        f"Set {times.service}'s user_config to max_batch_size: {BATCH}, batch_wait_ms: "
        f"{WAIT_MS:g}: it changes live, nothing restarts. `python -m cluster doctor --apply batch` does it.",
        Change(times.service, {"max_batch_size": BATCH, "batch_wait_ms": WAIT_MS}),
    )


def _detail(times: StageTimes, batches: Batches) -> list[str]:
    lines = [
        f"batches of {size}: {ms(took)} compute, {seen} seen" for size, (took, seen) in sorted(batches.by_size.items())
    ]
    if (busy := _gpu_percent(times)) is not None:
        lines.append(f"by its spans, its GPU is busy {busy:.0f} % of the time")
    ratio = batches.member_ratio
    return lines + [
        "it is not known if larger batches pay: there are too few of a second size"
        if ratio is None
        else f"a request in the largest batches costs {percent(ratio)} of one in the smallest"
    ]


def _figures(times: StageTimes, batches: Batches) -> dict:
    ratio, busy = batches.member_ratio, _gpu_percent(times)
    return {
        "stage": times.stage,
        "mean_size": round(batches.mean_size, 2),
        "alone": round(batches.alone, 3),
        "largest": batches.largest,
        "member_cost_ratio": None if ratio is None else round(ratio, 3),
        "batch_wait_ms": round(times.batch_wait_ms, 1),
        "compute_ms": round(times.compute_ms, 1),
        "gpu_percent": None if busy is None else round(busy, 1),
    }


def _gpu_percent(times: StageTimes) -> float | None:
    """Return the mean GPU utilization, or None on a CPU."""
    loads = [
        (load, weight) for span, weight in times.spans if (load := span.number(vocabulary.GPU_UTILIZATION)) is not None
    ]
    return mean(loads) if loads else None


def _share_at(times: StageTimes, limit: int) -> float:
    """Return the share of spans whose batch was as large as allowed."""
    sizes = [(span.number(vocabulary.BATCH_SIZE) or 0, weight) for span, weight in times.spans]
    return mean([(float(size >= limit), weight) for size, weight in sizes])


def _on_cpu(times: StageTimes) -> bool:
    return quantile([(float(span.device_is_cpu), weight) for span, weight in times.spans], 0.5) > 0
