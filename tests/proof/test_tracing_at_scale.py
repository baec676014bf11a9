"""Ten thousand requests, some of which fail: what is kept, and that it is kept whole."""

import json
import math
import random
from collections import Counter

import pytest

from tracing import Exporter, ExportSettings, FinishedSpan, Tracer, encode
from tracing import vocabulary as words
from tracing.sampling import FinishedTrace, Sampler, SamplingSettings
from tracing.transport import Unavailable, join

REQUESTS, ERRORS, RATIO = 10_000, 0.05, 0.1


class FlakyReceiver:
    """Keeps what it takes; every third time it says that it can't."""

    name = "flaky"

    def __init__(self) -> None:
        self.spans: list[dict] = []
        self.calls = 0

    def send(self, traces) -> None:
        self.calls += 1
        if self.calls % 3 == 0:
            raise Unavailable("HTTP 503", answered=True)
        self.spans += json.loads(join(traces))

    def close(self) -> None:
        pass


def request(tracers: dict[str, Tracer], failing: str | None) -> list[FinishedSpan]:
    """The trace of one request; `failing` is the stage at which it ends."""
    root, spans = tracers[words.INGRESS].server("POST /api/generate", parent=None), []
    for stage in words.STAGES:
        span = tracers[words.STAGE_SERVICE[stage]].server(stage, parent=root.context)
        span.tag(words.STAGE, stage)
        if stage == failing:
            span.fail("internal")
        spans += span.records()
        if stage == failing:
            root.fail("internal", status=500)
            break
    return root.records() + spans


@pytest.mark.proof
def test_every_error_is_kept_whole_and_the_rest_at_its_ratio(tmp_path):
    chance = random.Random(7)
    tracers = {service: Tracer(service) for service in words.SERVICES}
    sampler, receiver = Sampler(SamplingSettings(ratio=RATIO)), FlakyReceiver()
    exporter = Exporter(ExportSettings(spool_dir=tmp_path, retry_first_s=0.01, retry_most_s=0.02), transport=receiver)
    failed: dict[str, int] = {}
    kept: dict[str, int] = {}
    for _ in range(REQUESTS):
        records = request(tracers, chance.choice(words.STAGES) if chance.random() < ERRORS else None)
        verdict = sampler.decide(trace := FinishedTrace.of(records))
        spans = encode(records)
        trace_id = spans[0]["traceId"]
        if trace.failed:
            failed[trace_id] = len(spans)
        if verdict.keep:
            verdict.stamp(spans)
            kept[trace_id] = len(spans)
            exporter.submit(spans)
    exporter.close(60)

    arrived = Counter(span["traceId"] for span in receiver.spans)
    assert arrived == kept, "a trace is there whole, or not at all"
    assert failed.items() <= kept.items() and len(failed) > 400
    unremarkable, drawn = REQUESTS - len(failed), len(kept) - len(failed)
    # 2.58 standard deviations are the binomial's 99 % interval; trace ids are random, so one run in 100 leaves it,
    # and twice that width is left once in four million.
    assert abs(drawn - RATIO * unremarkable) < 2 * 2.58 * math.sqrt(unremarkable * RATIO * (1 - RATIO))
    weights = Counter()
    for span in receiver.spans:
        if span["kind"] == "SERVER" and "parentId" not in span:
            weights[span["tags"]["sampling.reason"]] += float(span["tags"]["sampling.adjusted_count"])
    assert weights["error"] == len(failed)
    assert weights["ratio"] == 10 * drawn, "the kept stand for the dropped"
    counts = exporter.counters()
    assert counts["sent"] == counts["submitted"] == len(kept) and counts["dropped"] == counts["redacted"] == 0
