"""The clocks of other nodes, measured by calls: what is believed, what is tagged, what a stage makes of it."""

from __future__ import annotations

import random

import pytest

from deployments.ingress.peer_clocks import SAMPLES, PeerClocks
from tracing import CallContext, Tracer, vocabulary

MS = 1_000_000
HERE, THERE = "a" * 56, "b" * 56


class Call:
    """A call to a stage on a node whose clock is `ahead_ms`; its span is what the stage sends back."""

    def __init__(self, ahead_ms: float, there_ms=2.0, work_ms=20.0, back_ms=2.0, node=THERE, at_ms=1_000_000.0):
        def ns(ms: float) -> int:
            return round(ms * MS)

        tracer = Tracer("tts-service", place={vocabulary.NODE_ID: node})
        started = ns(at_ms + there_ms + ahead_ms)
        span = tracer.server("GENERATE_MEL", parent=None, start_ns=started)
        self.spans = span.end(started + ns(work_ms))
        self.sent_ns, self.received_ns = ns(at_ms), ns(at_ms + there_ms + work_ms + back_ms)

    def read(self, clocks: PeerClocks, measures: bool = True) -> float | None:
        [span] = clocks.read(self.spans, self.sent_ns if measures else None, self.received_ns)
        return span.tags.get(vocabulary.CLOCK_SKEW_MS)


@pytest.mark.parametrize("ahead_ms", [3000, -3000, 40, -40])
def test_a_wrong_clock_is_a_tag(ahead_ms):
    assert Call(ahead_ms).read(PeerClocks(HERE)) == ahead_ms


def test_a_right_clock_is_none_however_long_the_way_is():
    clocks = PeerClocks(HERE)
    for call in (Call(0), Call(0, there_ms=900, back_ms=1), Call(1), Call(0, there_ms=1, back_ms=900)):
        assert call.read(clocks) is None
    assert PeerClocks(HERE).tell(CallContext("", 1, 2)) == CallContext("", 1, 2)


def test_the_own_node_is_not_measured():
    assert Call(3000, node=HERE).read(PeerClocks(HERE)) is None


def test_the_quickest_of_the_last_calls_is_believed():
    clocks, chance = PeerClocks(HERE), random.Random(1)
    Call(3000).read(clocks)
    for _ in range(SAMPLES - 1):
        call = Call(3000, there_ms=chance.uniform(10, 500), back_ms=chance.uniform(10, 500))
        assert call.read(clocks) == pytest.approx(3000, abs=0.1)


def test_a_clock_that_is_set_right_is_believed_after_a_few_calls():
    clocks = PeerClocks(HERE)
    assert Call(3000).read(clocks) == 3000
    for _ in range(SAMPLES):
        last = Call(0).read(clocks)
    assert last is None


@pytest.mark.parametrize("ahead_ms", [3000, -3000])
def test_no_child_is_shown_further_from_its_call_than_the_tag_says(ahead_ms):
    """Whatever the way there and back: with the tag taken off, it begins after the call and ends before the reply."""
    clocks, chance = PeerClocks(HERE), random.Random(2)
    for _ in range(200):
        call = Call(ahead_ms, there_ms=chance.uniform(0.1, 400), back_ms=chance.uniform(0.1, 400))
        skew_ns = round(call.read(clocks) * MS)
        [span] = call.spans
        assert call.sent_ns <= span.start_ns - skew_ns + MS and span.end_ns - skew_ns - MS <= call.received_ns


def test_a_span_over_several_calls_is_tagged_and_measures_nothing():
    clocks = PeerClocks(HERE)
    assert Call(3000).read(clocks, measures=False) is None
    Call(3000).read(clocks)
    assert Call(3000).read(clocks, measures=False) == 3000


def test_phases_inside_a_stage_have_its_clock_and_no_tag():
    tracer = Tracer("tts-service", place={vocabulary.NODE_ID: THERE})
    span = tracer.server("GENERATE_MEL", parent=None, start_ns=3_000_000_000)
    span.add_child("LM_DECODE", 3_000_000_000, 3_001_000_000)
    stage, phase = PeerClocks(HERE).read(span.end(3_002_000_000), 0, 3_000_000)
    assert vocabulary.CLOCK_SKEW_MS in stage.tags and vocabulary.CLOCK_SKEW_MS not in phase.tags


def test_the_next_call_is_read_on_the_receivers_clock():
    clocks = PeerClocks(HERE)
    Call(3000).read(clocks)
    told = clocks.tell(CallContext("00-a-b-01", 100 * MS, 20_100 * MS))
    seen = told.on_clock_of(THERE)
    assert (seen.sent_ns, seen.deadline_ns) == (3100 * MS, 23_100 * MS)
    assert seen.waited_ms(lambda: 3105 * MS) == 5 and seen.remaining_s(lambda: 3100 * MS) == 20
    assert seen.on_clock_of(THERE) is seen, "once"
    assert told.on_clock_of(HERE) is told
