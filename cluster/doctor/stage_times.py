"""Where the time of good requests goes, stage by stage, by the stages' own figures."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.doctor.evidence import Evidence
from cluster.doctor.figures import mean, quantile
from cluster.doctor.traces import Span
from tracing import vocabulary


@dataclass(frozen=True)
class StageTimes:
    """One stage's, in ms a request: means over the requests, waits and compute of all its spans in it together."""

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
    """The one that takes most first. Only requests that were answered well: a refused one has its time elsewhere."""
    good = evidence.good
    weight = sum(trace.weight for trace in good)
    whole = sum(trace.root.duration_ms * trace.weight for trace in good)
    found = []
    for stage, service in vocabulary.STAGE_SERVICE.items():
        spans = [(span, trace.weight) for trace in good for span in trace.stages if span.name == stage]
        if not spans or not whole:
            continue

        def a_request(tag: str) -> float:
            return sum(span.ms(tag) * share for span, share in spans) / weight

        queue = a_request(vocabulary.QUEUE_WAIT_MS)
        took = sum(span.duration_ms * share for span, share in spans) / weight + queue
        waits = [
            (span.ms(vocabulary.QUEUE_WAIT_MS) + span.ms(vocabulary.BATCH_WAIT_MS), share) for span, share in spans
        ]
        found.append(
            StageTimes(
                stage,
                service,
                spans,
                took * weight / whole,
                took,
                queue,
                a_request(vocabulary.BATCH_WAIT_MS),
                a_request(vocabulary.COMPUTE_MS),
                quantile(waits, 0.95),
            )
        )
    return sorted(found, key=lambda times: -times.total_ms)


def admission_ms(evidence: Evidence) -> float:
    """Mean wait of good requests to be let into the graph."""
    return mean([(trace.root.ms(vocabulary.QUEUE_WAIT_MS), trace.weight) for trace in evidence.good])
