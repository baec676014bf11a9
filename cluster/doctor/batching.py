"""Whether a stage waits because its batches are too small, and the setting to change.

Something is proposed only where requests wait at least as long for the device as it computes, at the stage that takes
most of their time, and where larger batches pay as far as can be known: where sizes vary the compute times tell. Where
every batch has one member nobody knows; that is said, and a CPU's vocoder is left alone (it takes longer for a batch
than for its members one by one, and is set to 1 for that).
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
    """Of one stage. `by_size`: mean compute in ms of the batches that were seen of each size, and how many. Of streams
    nothing is in it: their compute is the sum over all their chunks, and their batch is the last chunk's alone."""

    by_size: dict[int, tuple[float, int]]
    largest: int
    mean_size: float
    alone: float  #: share of the stage's spans that were computed alone

    @property
    def member_ratio(self) -> float | None:
        """What a member costs in the largest batches over what it costs in the smallest; None where all are alike."""
        known = sorted((size, took / size) for size, (took, seen) in self.by_size.items() if seen >= FEW_BATCHES)
        return known[-1][1] / known[0][1] if len(known) > 1 and known[0][1] > 0 else None


def batches_of(times: StageTimes) -> Batches | None:
    """None where its spans say nothing of batches."""
    sizes = [(size, weight) for span, weight in times.spans if (size := span.number(vocabulary.BATCH_SIZE))]
    if not sizes:
        return None
    took: dict[int, dict[str, float]] = defaultdict(dict)
    for span, _ in times.spans:
        if (
            vocabulary.STREAM_CHUNKS not in span.tags
            and (size := span.number(vocabulary.BATCH_SIZE))
            and (compute := span.number(vocabulary.COMPUTE_MS)) is not None
        ):
            took[round(size)][span.tags.get(vocabulary.BATCH_ID) or span.id] = compute
    by_size = {size: (sum(batches.values()) / len(batches), len(batches)) for size, batches in took.items()}
    alone = sum(weight for size, weight in sizes if size <= 1) / sum(weight for _, weight in sizes)
    return Batches(by_size, max(1, round(max(size for size, _ in sizes))), mean(sizes), alone)


def batching(evidence: Evidence) -> list[Finding]:
    stages = stage_times(evidence)
    found = []
    for times in stages:
        batches = batches_of(times)
        if batches is not None and len(times.spans) >= ENOUGH:
            finding = _judged(times, batches, evidence, is_bottleneck=times is stages[0])
            found += [finding] if finding else []
    return found


def _judged(times: StageTimes, batches: Batches, evidence: Evidence, is_bottleneck: bool) -> Finding | None:
    """None where there is nothing to say of it."""
    deployment = evidence.deployments.get(times.service)
    told = deployment.max_batch_size if deployment else None
    limit = told or batches.largest  # where nobody says: the largest batch seen is the least it can be
    ratio = batches.member_ratio
    said = (
        f"{times.service} computes {batches.mean_size:.1f} requests at a time ({percent(batches.alone)} of them "
        f"alone; max_batch_size {'is set to' if told else 'seems to be'} {limit}), and requests wait "
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
            _figures(times, batches) | {"max_batch_size": limit, "max_is_known": told is not None},
        )

    if ratio is not None and ratio > 1.05 and batches.mean_size > 1.05:
        return finding(
            "look",
            f"batches don't pay at {times.service}: {said}",
            "A member of a batch costs more than alone: max_batch_size 1 may be quicker here.",
        )
    if not is_bottleneck or not times.batch_wait_ms >= times.compute_ms > 0:
        return None
    if _share_at(times, limit) < 0.5:
        return finding("look", f"{said}; its batches do not fill up to what is allowed", None)
    if limit >= BATCH or (ratio is not None and ratio > PAYS_BELOW):
        return finding(
            "look",
            f"{said}; its batches are full",
            "Larger batches would gain little: it needs more replicas, or a faster device.",
        )
    if ratio is None and times.stage == vocabulary.VOCODE_WAV and _on_cpu(times):
        return finding(
            "look",
            f"{said}; on a CPU its batches are of 1 on purpose",
            "A vocoder on a CPU is quicker one by one: it needs more replicas, or a GPU.",
        )
    return finding(
        "act",
        said,
        f"Set {times.service}'s user_config to max_batch_size: {BATCH}, batch_wait_ms: "
        f"{WAIT_MS:g}: it changes live, nothing restarts. `python -m cluster doctor --apply batch` does it.",
        Change(times.service, {"max_batch_size": BATCH, "batch_wait_ms": WAIT_MS}),
    )


def _detail(times: StageTimes, batches: Batches) -> list[str]:
    lines = [
        f"batches of {size}: {ms(took)} compute, {seen} seen" for size, (took, seen) in sorted(batches.by_size.items())
    ]
    if (busy := _gpu_percent(times)) is not None:
        lines.append(f"its GPU is busy {busy:.0f} % of the time, as its spans say")
    ratio = batches.member_ratio
    return lines + [
        "whether larger batches pay is not known: too few of a second size"
        if ratio is None
        else f"in the largest batches a member costs {percent(ratio)} of what it costs in the smallest"
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
    """None on a CPU."""
    loads = [
        (load, weight) for span, weight in times.spans if (load := span.number(vocabulary.GPU_UTILIZATION)) is not None
    ]
    return mean(loads) if loads else None


def _share_at(times: StageTimes, limit: int) -> float:
    """The share of spans that were computed in batches as large as is allowed."""
    sizes = [(span.number(vocabulary.BATCH_SIZE) or 0, weight) for span, weight in times.spans]
    return mean([(float(size >= limit), weight) for size, weight in sizes])


def _on_cpu(times: StageTimes) -> bool:
    return quantile([(float(span.device_is_cpu), weight) for span, weight in times.spans], 0.5) > 0
