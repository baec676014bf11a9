"""Spans of one service: ids, times, tags, and the Zipkin JSON they finish into."""

import pickle
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from opentelemetry import trace as global_trace

from tracing import CallContext, NoOpTracer, Span, Tracer, encode

MS = 1_000_000


class Clock:
    def __init__(self, ns: int = 1_700_000_000_000_000_000) -> None:
        self.ns = ns

    def __call__(self) -> int:
        return self.ns


def test_a_root_as_zipkin_reads_it():
    clock = Clock()
    span = Tracer("cosyvoice3-api", instance="r1", ip="10.0.0.7", clock=clock).server("POST /api/generate", parent=None)
    span.tags({"http.method": "POST"}, stage="x")
    span.annotate("first chunk", clock.ns + 2 * MS)
    clock.ns += 5 * MS
    (encoded,) = encode(span.end())
    assert encoded == {
        "traceId": span.trace_id,
        "id": f"{span.context.span_id:016x}",
        "kind": "SERVER",
        "name": "POST /api/generate",
        "timestamp": 1_700_000_000_000_000,
        "duration": 5000,
        "localEndpoint": {"serviceName": "cosyvoice3-api", "ipv4": "10.0.0.7"},
        "tags": {"replica.id": "r1", "http.method": "POST", "stage": "x"},
        "annotations": [{"timestamp": 1_700_000_000_002_000, "value": "first chunk"}],
    }


def test_a_chosen_trace_id_is_used_once():
    tracer = Tracer("api")
    chosen = tracer.server("a", parent=None, trace_id="0" * 16 + "48485a3953bb6124")
    assert chosen.trace_id == "0" * 16 + "48485a3953bb6124"
    assert tracer.server("b", parent=None).trace_id != chosen.trace_id
    with pytest.raises(ValueError, match="not both"):
        tracer.server("c", parent=chosen.context, trace_id="1" * 32)


def test_chosen_trace_ids_stay_apart_between_threads():
    tracer, wrong = Tracer("api"), []

    def make(number: int) -> None:
        for i in range(1, 200):
            wanted = f"{number * 1000 + i:032x}"
            if tracer.server("a", parent=None, trace_id=wanted).trace_id != wanted:
                wrong.append(wanted)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_call_context_joins_two_services_into_one_trace():
    clock = Clock()
    root = Tracer("api", clock=clock).server("root", parent=None)
    call = pickle.loads(pickle.dumps(root.call_context(clock.ns + 60_000 * MS)))
    clock.ns += 30 * MS
    assert call.waited_ms(clock) == 30
    assert call.remaining_s(clock) == pytest.approx(59.97)
    (stage,) = encode(Tracer("tts-service", clock=clock).server("GENERATE_MEL", parent=call).end())
    assert stage["traceId"] == root.trace_id
    assert stage["parentId"] == f"{root.context.span_id:016x}"
    assert stage["localEndpoint"] == {"serviceName": "tts-service"}


def test_a_call_context_is_small_and_its_retry_keeps_the_deadline():
    clock = Clock()
    call = Tracer("api", clock=clock).server("root", parent=None).call_context(clock.ns + 5)
    assert len(pickle.dumps(call)) < 250
    clock.ns += 7
    again = call.resent(clock)
    assert again == CallContext(call.traceparent, clock.ns, call.deadline_ns)
    assert again.remaining_s(clock) < 0
    from_a_fast_clock = CallContext(call.traceparent, clock.ns + 99, 0)
    assert from_a_fast_clock.waited_ms(clock) == 0


def test_a_call_is_ordered_by_when_it_is_due_on_its_receivers_clock():
    call = CallContext("", 1, 50, (("there", 7),))
    assert call.order_ns == 50, "nobody said when it is due"
    due = replace(call, due_ns=20)
    assert due.order_ns == 20 and due.on_clock_of("there").order_ns == 27 and due.resent(lambda: 9).order_ns == 20
    assert call.on_clock_of("there").due_ns is None


def test_a_client_span_names_the_service_that_could_not_report():
    tracer = Tracer("api")
    root = tracer.server("root", parent=None)
    span = tracer.client("VOCODE_WAV", parent=root.context, remote_service="vocoder-service")
    span.fail("stage_unavailable", status=503)
    (encoded,) = encode(span.end())
    assert encoded["kind"] == "CLIENT"
    assert encoded["remoteEndpoint"] == {"serviceName": "vocoder-service"}
    assert encoded["localEndpoint"] == {"serviceName": "api"}
    assert encoded["tags"] == {
        "error": "stage_unavailable",
        "error.type": "stage_unavailable",
        "http.status_code": "503",
    }


def test_a_failure_has_a_message_and_no_exception_events():
    span = Tracer("api").server("root", parent=None)
    span.fail("input_validation", "Audio sample rate 8000Hz, minimum required 16000Hz", 400)
    (encoded,) = encode(span.end())
    assert encoded["tags"]["error"] == "Audio sample rate 8000Hz, minimum required 16000Hz"
    assert "annotations" not in encoded
    assert span.end()[0].failed


def test_children_are_internal_and_have_their_own_times():
    clock = Clock()
    span = Tracer("tts-service", clock=clock).server("GENERATE_MEL", parent=None)
    span.add_child("LM_DECODE", clock.ns + 1 * MS, clock.ns + 4 * MS, {"batch.size": 2, "nothing": None})
    clock.ns += 9 * MS
    parent, child = encode(span.end())
    assert "kind" not in child
    assert child["parentId"] == parent["id"] and child["traceId"] == parent["traceId"]
    assert (child["timestamp"] - parent["timestamp"], child["duration"]) == (1000, 3000)
    assert child["tags"] == {"batch.size": "2"}


@pytest.mark.parametrize("offset_ns", [0, -5 * MS, 1, 999])
def test_a_duration_is_never_zero(offset_ns):
    clock = Clock()
    span = Tracer("api", clock=clock).server("root", parent=None)
    span.add_child("PHASE", clock.ns, clock.ns + offset_ns)
    assert [s["duration"] for s in encode(span.end(clock.ns + offset_ns))] == [1, 1]


def test_explicit_times_are_kept_to_the_microsecond():
    (encoded,) = encode(Tracer("api").server("root", parent=None, start_ns=1_000_000_001_000).end(1_000_000_124_000))
    assert (encoded["timestamp"], encoded["duration"]) == (1_000_000_001, 123)


def test_end_is_idempotent_and_closes_the_span():
    span = Tracer("api").server("root", parent=None)
    first = encode(span.end())
    span.tag("late", 1)
    span.tags(late=2)
    span.annotate("late")
    span.fail("late")
    span.add_child("LATE", 1, 2)
    assert encode(span.end(end_ns=1)) == first
    assert "late" not in str(first)


def test_values_become_what_zipkin_takes():
    numpy = pytest.importorskip("numpy")
    span = Tracer("api").server("root", parent=None)
    span.tags(
        {
            "a": numpy.float32(1.23456),
            "b": numpy.int64(7),
            "c": True,
            "d": 0.00001234,
            "e": None,
            "f": object(),
            "g": b"bytes",
            "h": "x" * 1000,
            "i": float("nan"),
            "j": 2.0,
        }
    )
    tags = encode(span.end())[0]["tags"]
    assert tags == {"a": "1.23456", "b": "7", "c": "true", "d": "0.000012", "h": "x" * 256, "j": "2"}


def test_nothing_current_becomes_a_parent():
    provider = global_trace.get_tracer_provider()
    current = global_trace.NonRecordingSpan(Tracer("other").server("outer", parent=None).context)
    with global_trace.use_span(current, end_on_exit=False):
        span = Tracer("api").server("root", parent=None)
    assert "parentId" not in encode(span.end())[0]
    assert global_trace.get_tracer_provider() is provider


def test_finished_spans_are_small_and_encode_elsewhere_as_here():
    span = Tracer("tts-service", instance="r1", ip="::1").server("GENERATE_MEL", parent=None)
    span.tags({"batch.wait_ms": 1.25, "device": "cpu"})
    span.annotate("batch started")
    span.add_child("ACOUSTIC_MODEL", span.start_ns, span.start_ns + MS)
    finished = span.end()
    packed = pickle.dumps(finished, protocol=5)
    assert len(packed) < 500
    assert encode(pickle.loads(packed)) == encode(span.end())


def test_sampling_and_resource_settings_of_the_environment_change_nothing():
    program = (
        "from tracing import Tracer, encode\n"
        "(span,) = encode(Tracer('api').server('root', parent=None).end())\n"
        "assert 'tags' not in span and span['localEndpoint'] == {'serviceName': 'api'}, span\n"
    )
    environment = {
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_SERVICE_NAME": "other",
        "PATH": "",
        "OTEL_RESOURCE_ATTRIBUTES": "secret=1",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "0",
        "OTEL_SDK_DISABLED": "true",
    }
    subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, timeout=60, cwd=Path(__file__).parents[2]
    )


def test_no_debug_flag_reaches_zipkin():
    assert "debug" not in encode(Tracer("api").server("root", parent=None).end())[0]


def test_a_span_that_records_nothing_stands_in_for_a_span():
    """Everything that a span can be asked; and a stage that is called on its behalf records nothing either."""
    public = {name for name in dir(Span) if not name.startswith("_")}
    tracer = NoOpTracer(Clock())
    root = tracer.server("POST /api/generate", parent=None)
    assert public | {"trace_id", "start_ns"} <= set(dir(root))
    root.tags({"http.method": "POST"}, stage="x")
    root.fail("internal", status=500)
    lost = tracer.client("VOCODE_WAV", parent=root.context, remote_service="vocoder-service")
    call = pickle.loads(pickle.dumps(root.call_context(2**62)))
    assert not call.recording and Tracer("a").server("x", parent=None).call_context(2**62).recording
    stage = Tracer("tts-service").server("GENERATE_MEL", parent=call)
    stage.add_child("LM_DECODE", 1, 2)
    assert encode(root.end()) == encode(stage.end()) == encode(lost.end()) == []
    assert root.trace_id == stage.trace_id == lost.trace_id and len(root.trace_id) == 32
    given = tracer.server("POST /api/generate", parent=Tracer("a").server("x", parent=None).context)
    assert given.trace_id != root.trace_id and given.start_ns == root.start_ns
