"""Kept traces as OTLP: what a receiver that knows only OTLP's protobufs reads."""

import json

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status

from bench.measuring.traces import request
from config.version import VERSION
from tests.helpers.otlp_receiver import as_zipkin, plain, spans_of
from tracing import Tracer, encode, extract, vocabulary
from tracing.otlp_attributes import SCHEMA_URL
from tracing.otlp_encoding import OtlpEncoder
from tracing.redaction import Redaction


def sent(*traces: list[dict], resource: dict | None = None) -> ExportTraceServiceRequest:
    lines = [json.dumps(Redaction().redact(trace)[0]).encode() for trace in traces]
    return ExportTraceServiceRequest.FromString(OtlpEncoder(resource).encode(lines))


def by_name(message: ExportTraceServiceRequest) -> dict[str, tuple[dict, Span]]:
    return {span.name: (plain(resource.attributes), span) for resource, span in spans_of(message)}


def whole_trace() -> list[dict]:
    place = {vocabulary.NODE_ID: "0123456789abcdef", vocabulary.K8S_POD_NAME: "head-0"}
    caller = extract({"b3": "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"}).parent
    api = Tracer(vocabulary.INGRESS, instance="api1", ip="10.0.0.7")
    root = api.server("POST /api/generate", parent=caller, start_ns=1_700_000_000_000_001_000)
    root.tags({vocabulary.HTTP_METHOD: "POST", vocabulary.HTTP_ROUTE: "/api/generate", vocabulary.TEXT_LENGTH: 5})
    root.tag(vocabulary.HTTP_STATUS_CODE, 200)
    tts = Tracer(vocabulary.TTS, instance="tts1", place=place, ip="2001:db8::1")
    stage = tts.server(vocabulary.GENERATE_MEL, parent=root.context, start_ns=1_700_000_000_000_002_000)
    stage.tags({vocabulary.COMPUTE_MS: 12.5, vocabulary.BATCH_SIZE: 3, vocabulary.DEVICE: "cpu"})
    stage.annotate(vocabulary.BATCH_STARTED, at_ns=1_700_000_000_000_003_000)
    stage.add_child("LM_DECODE", 1_700_000_000_000_003_000, 1_700_000_000_000_004_000)
    lost = api.client(vocabulary.VOCODE_WAV, parent=root.context, remote_service=vocabulary.VOCODER)
    lost.fail("stage_unavailable", status=503)
    return encode(root.end(1_700_000_000_000_009_000) + stage.end(1_700_000_000_000_008_000) + lost.end())


def test_a_trace_is_complete_and_every_span_is_its_services():
    message = sent(whole_trace())
    spans = by_name(message)
    assert len(spans) == 4
    resource, root = spans["POST /api/generate"]
    assert resource == {"service.name": "cosyvoice3-api", "service.version": VERSION, "service.instance.id": "api1"}
    assert root.trace_id.hex() == "463ac35c9f6413ad48485a3953bb6124" and root.parent_span_id.hex() == "a2fb4a1d1a96d312"
    assert root.kind == Span.SPAN_KIND_SERVER and root.status.code == Status.STATUS_CODE_UNSET
    assert (root.start_time_unix_nano, root.end_time_unix_nano) == (
        1_700_000_000_000_001_000,
        1_700_000_000_000_009_000,
    )
    assert plain(root.attributes) == {
        "http.request.method": "POST",
        "http.route": "/api/generate",
        "http.response.status_code": 200,
        "text.length": 5,
        "network.local.address": "10.0.0.7",
    }
    resource, stage = spans["GENERATE_MEL"]
    assert resource == {
        "service.name": "tts-service",
        "service.version": VERSION,
        "service.instance.id": "tts1",
        "node.id": "0123456789abcdef",
        "k8s.pod.name": "head-0",
    }
    assert stage.parent_span_id == root.span_id and stage.kind == Span.SPAN_KIND_SERVER
    assert plain(stage.attributes) == {
        "compute_ms": 12.5,
        "batch.size": 3,
        "device": "cpu",
        "network.local.address": "2001:db8::1",
    }
    assert [(one.name, one.time_unix_nano) for one in stage.events] == [("batch started", 1_700_000_000_000_003_000)]
    assert {of_replica.schema_url for of_replica in message.resource_spans} == {SCHEMA_URL}
    assert {(s.scope.name, s.scope.version) for r in message.resource_spans for s in r.scope_spans} == {
        ("cosygraph", VERSION)
    }


def test_a_phase_has_the_resource_of_its_stage_and_is_internal():
    message = sent(whole_trace())
    resource, phase = by_name(message)["LM_DECODE"]
    assert resource == by_name(message)["GENERATE_MEL"][0] and phase.kind == Span.SPAN_KIND_INTERNAL
    assert len(message.resource_spans) == 2, "the ingress and tts-service"


def test_a_stage_that_could_not_report_names_the_service_it_speaks_for():
    _, lost = by_name(sent(whole_trace()))["VOCODE_WAV"]
    assert lost.kind == Span.SPAN_KIND_CLIENT
    assert (lost.status.code, lost.status.message) == (Status.STATUS_CODE_ERROR, "stage_unavailable")
    attributes = plain(lost.attributes)
    assert attributes["peer.service"] == attributes["service.peer.name"] == "vocoder-service"
    assert attributes["error.type"] == "stage_unavailable" and "error" not in attributes


def test_flags_say_which_parents_are_in_another_process():
    spans = by_name(sent(whole_trace()))
    remote = {name for name, (_, span) in spans.items() if span.flags & SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK}
    assert remote == {"POST /api/generate", "GENERATE_MEL"}, "not the phase, nor the span of the ingress's own"


def test_the_root_of_a_refused_request_is_no_error_of_the_server():
    """The conventions leave it unset for 4xx; the stage that refused is still to be found."""
    root = Tracer(vocabulary.INGRESS).server("POST /api/generate", parent=None)
    root.tag(vocabulary.HTTP_METHOD, "POST")
    root.fail("input_validation", status=400)
    stage = Tracer(vocabulary.AUDIO).server(vocabulary.PREPROCESS_AUDIO, parent=root.context)
    stage.fail("input_validation", status=400)
    spans = by_name(sent(encode(root.end() + stage.end())))
    refused, failed = spans["POST /api/generate"][1], spans["PREPROCESS_AUDIO"][1]
    assert refused.status.code == Status.STATUS_CODE_UNSET
    assert plain(refused.attributes)["error"] == "input_validation"
    assert plain(refused.attributes)["error.type"] == "input_validation"
    assert failed.status.code == Status.STATUS_CODE_ERROR
    root = Tracer(vocabulary.INGRESS).server("POST /api/generate", parent=None)
    root.tag(vocabulary.HTTP_METHOD, "POST")
    root.fail("internal", status=500)
    [(_, span)] = spans_of(sent(encode(root.end())))
    assert span.status.code == Status.STATUS_CODE_ERROR


def test_nothing_is_lost_on_the_way_through_the_table():
    """Sixty requests, with failures and lost stages: back through the table they are what Zipkin gets."""
    traces = [Redaction().redact(request(number))[0] for number in range(1, 61)]
    assert any("remoteEndpoint" in span for trace in traces for span in trace)
    assert any("annotations" in span for trace in traces for span in trace)
    message = sent(*traces)
    expected = sorted((span for trace in traces for span in trace), key=lambda span: span["id"])
    assert as_zipkin(spans_of(message)) == expected
    pairs = [tuple(sorted(plain(one.resource.attributes).items())) for one in message.resource_spans]
    assert len(pairs) == len(set(pairs)), "one ResourceSpans a replica"


def test_a_resource_gets_what_the_settings_add_and_spans_win():
    message = sent(whole_trace(), resource={"deployment.environment.name": "production"})
    for of_replica in message.resource_spans:
        assert plain(of_replica.resource.attributes)["deployment.environment.name"] == "production"


def test_the_environment_adds_nothing(monkeypatch):
    """OTEL_RESOURCE_ATTRIBUTES and the SDK's detectors would add what redaction has not seen."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.name=canary7secret,service.name=another")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "another")
    message = sent(whole_trace())
    assert b"canary7secret" not in message.SerializeToString()
    assert {plain(one.resource.attributes)["service.name"] for one in message.resource_spans} == {
        "cosyvoice3-api",
        "tts-service",
    }


def test_a_span_without_a_service_or_tags_is_still_sent():
    bare = {"traceId": "1" * 16, "id": "2" * 16, "name": "UNNAMED", "timestamp": 5, "duration": 1}
    [(resource, span)] = spans_of(sent([bare]))
    assert plain(resource.attributes)["service.name"] == "unknown_service"
    assert span.trace_id.hex() == "0" * 16 + "1" * 16 and span.kind == Span.SPAN_KIND_INTERNAL
