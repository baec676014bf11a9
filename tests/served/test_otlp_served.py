"""The same traces in Zipkin and in a receiver of OTLP, from a running graph, with one of them down or not."""

import time

import pytest

from tests.helpers.keeping import Reader, as_zipkin_shows
from tests.helpers.otlp_receiver import OtlpReceiver, as_zipkin
from tests.helpers.serving import tone

PLAIN = 5  #: spans of a plain request


def received(otlp: OtlpReceiver, trace_id: str) -> list[dict]:
    """A trace as the receiver has it, in Zipkin's form; a span that came twice counts once, as at Zipkin."""
    found = {span.span_id: (resource, span) for resource, span in list(otlp.spans) if span.trace_id.hex() == trace_id}
    spans = as_zipkin_shows(as_zipkin(found.values()))
    for span in spans:
        if "annotations" in span:  # Zipkin sorts them by time and merges those that are alike
            moments = {(one["timestamp"], one["value"]) for one in span["annotations"]}
            span["annotations"] = [{"timestamp": at, "value": value} for at, value in sorted(moments)]
    return spans


def wait_for(read, fits, within_s: float = 30.0):
    end = time.monotonic() + within_s
    while not fits(found := read()):
        assert time.monotonic() < end, found
        time.sleep(0.1)
    return found


@pytest.mark.parametrize(
    "fields, status, spans",
    [
        ({}, 200, PLAIN),
        ({"dialect": "zh-Sichuan", "text": "你好"}, 200, PLAIN),
        ({"text": "fault:generate"}, 500, 4),
        ({"clip": "short"}, 400, 2),
        ({"dialect": "xx-Nowhere"}, 400, 1),
    ],
    ids=["plain", "dialect", "failed", "refused-clip", "refused-dialect"],
)
def test_each_trace_is_the_same_in_both_span_by_span(watched, otlp, fields, status, spans):
    fields = dict(fields)
    clip = tone(0.5) if fields.pop("clip", None) else None
    answer = watched.post(clip, **fields)
    assert answer.status_code == status, answer.text
    trace_id, reader = answer.headers["x-trace-id"], Reader(watched.zipkin)
    in_zipkin = wait_for(lambda: reader.trace(trace_id), lambda found: len(found) >= spans)
    in_otlp = wait_for(lambda: received(otlp, trace_id), lambda found: len(found) >= len(in_zipkin))
    assert len(in_otlp) == len(in_zipkin) >= spans
    for ours, theirs in zip(in_otlp, in_zipkin, strict=True):
        assert ours == theirs
    tags = [span["tags"] for span in in_otlp]
    assert all(one["sampling.reason"] for one in tags), "sampling is the same decision"
    assert ("error" in {key for one in tags for key in one}) == (status >= 400)


def test_a_receiver_that_is_down_holds_up_neither_requests_nor_zipkin(ray_driver, watched, otlp):
    otlp.down = True
    try:
        answers = [watched.post() for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        ids, reader = [answer.headers["x-trace-id"] for answer in answers], Reader(watched.zipkin)
        for trace_id in ids:
            wait_for(lambda one=trace_id: reader.trace(one), lambda found: len(found) >= PLAIN)
        [counts] = watched.counters()
        assert counts["export_otlp_waiting"] >= 5 and counts["export_zipkin_waiting"] == 0
    finally:
        otlp.down = False
    for trace_id in ids:
        in_otlp = wait_for(lambda one=trace_id: received(otlp, one), lambda found: len(found) >= PLAIN)
        assert in_otlp == reader.trace(trace_id)
    [counts] = wait_for(watched.counters, lambda found: found[0]["export_waiting"] == 0)
    assert counts["export_dropped"] == 0


def test_zipkin_down_holds_up_no_trace_for_the_receiver(ray_driver, watched, otlp, stand_in):
    stand_in.mode = "down"
    try:
        trace_id = watched.post().headers["x-trace-id"]
        wait_for(lambda: received(otlp, trace_id), lambda found: len(found) >= PLAIN)
        [counts] = watched.counters()
        assert counts["export_zipkin_waiting"] >= 1 and counts["export_otlp_waiting"] == 0
    finally:
        stand_in.mode = "well"
    reader = Reader(watched.zipkin)
    assert received(otlp, trace_id) == wait_for(lambda: reader.trace(trace_id), lambda found: len(found) >= PLAIN)
