"""Sending: retry and backoff, split batches, and traces that make their receiver fail."""

import json
import math

import pytest

from tests.helpers.export import Clock, Receiver, sender, settle, trace
from tracing import ExportSettings
from tracing.sender import Counters, Queue, Sender
from tracing.transport import Unavailable


def test_batches_are_bounded_and_in_order():
    queue, receiver = Queue(1000), Receiver()
    for n in range(1, 251):
        queue.append(trace(n))
    sending, counters = sender(queue, receiver, batch_traces=100)
    assert [sending.step() for _ in range(4)] == [0, 0, 0, math.inf]
    assert receiver.batches == [100, 100, 50]
    assert receiver.numbers() == list(range(1, 251))
    assert counters.read() == {"sent": 250}


def test_a_dead_receiver_costs_growing_pauses_and_nothing_else(caplog):
    queue, receiver, clock = Queue(1000), Receiver(), Clock()
    for n in range(1, 11):
        queue.append(trace(n))
    sending, counters = sender(queue, receiver, clock, retry_first_s=1, retry_most_s=8)
    receiver.trouble = Unavailable("ConnectError")
    pauses = []
    for _ in range(6):
        pauses.append(sending.step())
        assert sending.step() == pauses[-1], "within the pause nothing is tried"
        clock.now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 8, 8]
    assert receiver.batches == [10, 1, 1, 1, 1, 1], "while it fails, one trace probes"
    receiver.trouble = None
    settle(sending.step, clock)
    assert receiver.numbers() == list(range(1, 11))
    assert counters.read()["retries"] == 6
    assert [r.getMessage().split(" (")[0] for r in caplog.records] == [
        "traces can't be sent",
        "traces are sent again after 6 failed attempts",
    ]


def test_a_receiver_that_fails_on_and_off_is_in_the_log_once_a_minute(caplog):
    queue, receiver, clock = Queue(1000), Receiver(), Clock()
    sending, _ = sender(queue, receiver, clock, retry_first_s=1)
    for n in range(1, 40):
        queue.append(trace(n))
        receiver.trouble = Unavailable("HTTP 503")
        clock.now += sending.step()
        receiver.trouble = None
        settle(sending.step, clock)
        clock.now += 1
    assert len(receiver.numbers()) == 39 and clock.now > 170
    assert len([r for r in caplog.records if "can't be sent" in r.getMessage()]) == 2


def test_an_outage_that_begins_within_the_quiet_minute_is_said_after_it(caplog):
    queue, receiver, clock = Queue(10), Receiver(), Clock()
    sending, _ = sender(queue, receiver, clock, retry_first_s=1, retry_most_s=8)
    for n in (1, 2):  # fails, recovers, fails for good
        queue.append(trace(n))
        receiver.trouble = Unavailable("HTTP 503")
        clock.now += sending.step()
        if n == 1:
            receiver.trouble = None
            settle(sending.step, clock)
    assert len([r for r in caplog.records if "can't be sent" in r.getMessage()]) == 1
    while clock.now < 170:
        clock.now += sending.step()
    assert len([r for r in caplog.records if "can't be sent" in r.getMessage()]) == 2


def test_pauses_are_jittered_to_between_half_and_all():
    queue, receiver = Queue(10), Receiver()
    queue.append(trace(1))
    receiver.trouble = Unavailable("ConnectError")
    pauses = [
        Sender(
            [queue], receiver, ExportSettings(retry_first_s=4), Counters(), clock=Clock(), chance=lambda c=c: c
        ).step()
        for c in (0.0, 0.5, 0.999)
    ]
    assert pauses == [2, 3, pytest.approx(4, abs=0.01)]


@pytest.mark.parametrize("bad_at", [1, 37, 64])
def test_one_bad_span_costs_neither_its_batch_nor_its_trace(bad_at, caplog):
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 65):
        queue.append(trace(n, spans=3))
    receiver.bad = {(f"{bad_at:032x}", f"{2:016x}")}
    sending, counters = sender(queue, receiver, clock)
    settle(sending.step, clock)
    arrived = {(s["traceId"], s["id"]) for t in receiver.traces for s in json.loads(t)}
    assert len(arrived) == 64 * 3 - 1 and receiver.bad.isdisjoint(arrived)
    assert counters.read()["dropped_spans_rejected"] == 1
    assert "0" * 16 not in caplog.text, "no ids or bodies in the log"


def test_a_trace_that_makes_the_receiver_fail_is_found_by_its_neighbour():
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 21):
        queue.append(trace(n))
    receiver.poison = {f"{5:032x}"}
    sending, counters = sender(queue, receiver, clock)
    settle(sending.step, clock)
    assert sorted(receiver.numbers()) == [n for n in range(1, 21) if n != 5]
    assert counters.read()["dropped_poison"] == 1 and counters.read()["sent"] == 19


@pytest.mark.parametrize("heals_after", range(1, 12))
def test_a_receiver_that_recovers_between_two_attempts_costs_no_trace(heals_after):
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 6):
        queue.append(trace(n))
    send = receiver.send

    def fails_at_first(traces):
        receiver.trouble = Unavailable("HTTP 500", answered=True) if len(receiver.batches) < heals_after else None
        send(traces)

    receiver.send = fails_at_first
    sending, counters = sender(queue, receiver, clock)
    settle(sending.step, clock)
    assert sorted(set(receiver.numbers())) == [1, 2, 3, 4, 5] and counters.read().get("dropped_poison", 0) == 0


def test_a_receiver_that_fails_on_everything_loses_nothing():
    queue, receiver, clock = Queue(100), Receiver(), Clock()
    for n in range(1, 21):
        queue.append(trace(n))
    receiver.trouble = Unavailable("HTTP 500", answered=True)
    sending, counters = sender(queue, receiver, clock)
    for _ in range(50):
        clock.now += sending.step()
    assert len(queue) == 20
    receiver.trouble = None
    settle(sending.step, clock)
    assert sorted(receiver.numbers()) == list(range(1, 21))


def test_a_full_queue_drops_the_oldest_also_while_a_batch_is_under_way():
    queue = Queue(3)
    assert [queue.append(trace(n)) for n in range(1, 5)] == [0, 0, 0, 1]
    read = queue.read(2)  # 2 and 3 are being sent …
    queue.append(trace(5))  # … when 2 falls out
    queue.commit(read)
    assert [json.loads(t)[0]["traceId"][-1] for t in queue.read(9).traces] == ["4", "5"]


def test_a_queue_that_overflows_more_than_a_batch_while_it_is_sent():
    queue = Queue(2)
    for n in (1, 2):
        queue.append(trace(n))
    read = queue.read(1)
    for n in (3, 4):
        queue.append(trace(n))
    queue.commit(read)
    assert len(queue) == 2
