"""The time of good requests, stage by stage, from the stages' own tags."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.doctor.evidence import Evidence
from cluster.doctor.figures import mean, quantile
from cluster.doctor.traces import Span
from tracing import vocabulary


@dataclass(frozen=True)
class StageTimes:
    """The time of a stage, in ms a request: means over the requests, with all spans of the stage in one added up."""

    stage: str
    service: str
    spans: list[tuple[Span, float]]  #: with their weights
    share: float  #: of the requests' whole time; streams overlap, so the stages' shares may be more than 1 together
    total_ms: float
    queue_ms: float
    batch_wait_ms: float
    compute_ms: float
    p95_wait_ms: float  #: queue and batch wait of a span

    @property
    def wait_ms(self) -> float:
        return self.queue_ms + self.batch_wait_ms

    def split(self) -> dict[str, float]:
        return {
            "total_ms": round(self.total_ms, 1),
            "queue_wait_ms": round(self.queue_ms, 1),
            "batch_wait_ms": round(self.batch_wait_ms, 1),
            "compute_ms": round(self.compute_ms, 1),
            "share": round(self.share, 3),
            "p95_wait_ms": round(self.p95_wait_ms, 1),
        }


def stage_times(evidence: Evidence) -> list[StageTimes]:
    """Return the stages of good requests, the one that takes most time first."""
    good = evidence.good
    weight = sum(trace.weight for trace in good)
    whole = sum(trace.request.duration_ms * trace.weight for trace in good)
    stages = []
    for stage, service in vocabulary.STAGE_SERVICE.items():
        spans = [(span, trace.weight) for trace in good for span in trace.stages if span.name == stage]
        if not spans or not whole:
            continue

        queue = _sum(spans, vocabulary.QUEUE_WAIT_MS) / weight
        took = sum(span.duration_ms * share for span, share in spans) / weight + queue
        waits = [
            (span.ms(vocabulary.QUEUE_WAIT_MS) + span.ms(vocabulary.BATCH_WAIT_MS), share) for span, share in spans
        ]
        stages.append(
            StageTimes(
                stage,
                service,
                spans,
                took * weight / whole,
                took,
                queue,
                _sum(spans, vocabulary.BATCH_WAIT_MS) / weight,
                _sum(spans, vocabulary.COMPUTE_MS) / weight,
                quantile(waits, 0.95),
            )
        )
    return sorted(stages, key=lambda times: -times.total_ms)


def _sum(spans: list[tuple[Span, float]], tag: str) -> float:
    return sum(span.ms(tag) * weight for span, weight in spans)


def admission_ms(evidence: Evidence) -> float:
    """Return the mean wait of good requests for admission."""
    return mean([(trace.request.ms(vocabulary.QUEUE_WAIT_MS), trace.weight) for trace in evidence.good])
