"""The contract with private members of OpenTelemetry's Zipkin exporter package, and its public half as an oracle.

`tracing/otel_internals.py` uses four private members. Each has a test that names the member and the installed version
when an upgrade changes it.
"""

from __future__ import annotations

import inspect
import json
from importlib.metadata import version
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from opentelemetry.exporter.zipkin.json.v2 import JsonV2Encoder
from opentelemetry.exporter.zipkin.node_endpoint import NodeEndpoint
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from tracing import Tracer, encode
from tracing.otel_internals import PACKAGE, microseconds, zipkin_span

ENDPOINT = {"serviceName": "tts-service", "ipv4": "10.0.0.7"}
FIELDS = {"traceId", "id", "parentId", "kind", "name", "timestamp", "duration", "localEndpoint", "tags", "annotations"}


def changed(member: str, promise: str) -> str:
    """Explains a failed contract: which member, in which version, and where to mend it."""
    return (
        f"{PACKAGE} {version(PACKAGE)} no longer keeps what tracing/otel_internals.py needs: {member} {promise}. "
        f"Mend that file, or pin the last version that kept it."
    )


def span(kind: SpanKind = SpanKind.SERVER, **more) -> ReadableSpan:
    def context(span_id: int) -> SpanContext:
        return SpanContext(0x463AC35C9F6413AD48485A3953BB6124, span_id, is_remote=False, trace_flags=TraceFlags(1))

    return ReadableSpan(
        "GENERATE_MEL",
        context(0xA2FB4A1D1A96D312),
        context(0x1),
        **{
            "resource": Resource({}),
            "attributes": {"batch.size": "2"},
            "events": [Event("batch started", {}, timestamp=1_000_000_002_499)],
            "kind": kind,
            "start_time": 1_000_000_001_500,
            "end_time": 1_000_000_124_499,
            **more,
        },
    )


@pytest.mark.parametrize(
    "member, parameters",
    [
        ("_encode_span", 2),
        ("_encode_debug", 1),
        ("_extract_tags_from_span", 1),
        ("_extract_annotations_from_events", 1),
    ],
)
def test_the_private_members_are_there(member, parameters):
    found = getattr(JsonV2Encoder(), member, None)
    assert callable(found), changed(member, "must exist")
    count = len(inspect.signature(found).parameters)
    assert count == parameters, changed(member, f"must take {parameters} arguments, not {count}")


def test_encode_span_makes_exactly_the_fields_of_zipkins_schema():
    encoded = JsonV2Encoder()._encode_span(span(), ENDPOINT)
    assert set(encoded) == FIELDS | {"debug"}, changed("_encode_span", f"must make {sorted(FIELDS)} and debug")
    assert encoded["localEndpoint"] is ENDPOINT, changed("_encode_span", "must pass the endpoint through")
    internal = JsonV2Encoder()._encode_span(span(SpanKind.INTERNAL), ENDPOINT)
    assert internal["kind"] is None, changed("_encode_span", "must give an INTERNAL span the kind None")


@pytest.mark.parametrize(
    "hook, field",
    [
        ("_encode_debug", "debug"),
        ("_extract_tags_from_span", "tags"),
        ("_extract_annotations_from_events", "annotations"),
    ],
)
def test_encode_span_takes_each_field_from_its_hook(hook, field):
    encoder = JsonV2Encoder()
    setattr(encoder, hook, lambda _: "from the hook")
    assert encoder._encode_span(span(), ENDPOINT)[field] == "from the hook", changed(hook, f"must give `{field}`")
    setattr(encoder, hook, lambda _: None)
    assert field not in encoder._encode_span(span(), ENDPOINT), changed(hook, f"must be able to leave `{field}` out")


def test_the_hooks_get_what_ours_read():
    seen = SimpleNamespace()

    class Spy(JsonV2Encoder):
        def _extract_tags_from_span(self, span):
            seen.attributes = dict(span.attributes)

        def _extract_annotations_from_events(self, events):
            seen.events = [(event.timestamp, event.name) for event in events]

    Spy()._encode_span(span(), ENDPOINT)
    assert seen.attributes == {"batch.size": "2"}, changed("_extract_tags_from_span", "must get the span")
    expected = [(1_000_000_002_499, "batch started")]
    assert seen.events == expected, changed("_extract_annotations_from_events", "must get the span's events")


def test_zipkin_span_adds_nothing_of_its_own():
    assert zipkin_span(span(), ENDPOINT) == {
        "traceId": "463ac35c9f6413ad48485a3953bb6124",
        "id": "a2fb4a1d1a96d312",
        "parentId": "0000000000000001",
        "kind": "SERVER",
        "name": "GENERATE_MEL",
        "timestamp": 1_000_000_002,
        "duration": 123,
        "localEndpoint": ENDPOINT,
        "tags": {"batch.size": "2"},
        "annotations": [{"timestamp": 1_000_000_002, "value": "batch started"}],
    }
    bare = zipkin_span(span(SpanKind.INTERNAL, attributes={}, events=[]), ENDPOINT)
    assert set(bare) == FIELDS - {"kind", "tags", "annotations"}


def test_a_resource_and_an_error_status_never_become_tags():
    resource = Resource({"host.name": "secret", "process.command_args": "secret"})
    assert "secret" not in json.dumps(zipkin_span(span(resource=resource), ENDPOINT))


def test_annotations_are_rounded_as_the_package_rounds_a_spans_times():
    for ns in (1_000_000_000_499, 1_000_000_000_500, 1_000_000_001_500):
        [encoded] = json.loads(
            JsonV2Encoder().serialize([span(start_time=ns, end_time=ns)], NodeEndpoint())
        )  # public, so it needs no contract
        assert encoded["timestamp"] == microseconds(ns)


@pytest.mark.parametrize("ip", ["10.0.0.7", "2001:db8::1"])
def test_our_spans_are_what_the_packages_public_encoder_makes_of_them_less_what_it_adds(ip):
    """The package as an oracle: its public `serialize`, over the same facts."""
    ours = Tracer("tts-service", ip=ip).server("GENERATE_MEL", parent=None)
    ours.tags({"batch.size": 2, "device": "cpu", "ok": True})
    [encoded] = encode(ours.end(ours.start_ns + 123_456_789))
    [finished] = ours.end()
    endpoint = NodeEndpoint()
    endpoint.service_name = "tts-service"
    if "." in ip:
        endpoint.ipv4 = ip
    else:
        endpoint.ipv6 = ip
    theirs = ReadableSpan(
        "GENERATE_MEL",
        SpanContext(finished.trace_id, finished.span_id, is_remote=False, trace_flags=TraceFlags(1)),
        resource=Resource({}),
        attributes={"batch.size": 2, "device": "cpu", "ok": True},
        kind=SpanKind.SERVER,
        start_time=finished.start_ns,
        end_time=finished.end_ns,
    )
    [expected] = json.loads(JsonV2Encoder().serialize([theirs], endpoint))
    assert expected.pop("debug") is True, "the flag that would override a collector's sample rate"
    assert encoded == expected
    assert encoded["localEndpoint"] == {"serviceName": "tts-service", f"ipv{ip_address(ip).version}": ip}
