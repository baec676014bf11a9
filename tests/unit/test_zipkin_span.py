"""The contract of `zipkin_span`, without the package that it takes its fields from today.

OpenTelemetry's Zipkin exporter gets fixes until December 2026. On its last day `by_hand` below goes into
tracing/otel_internals.py, test_otel_internals.py and the requirement go, and this file stays as it is.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from bench.measuring.traces import request
from cluster.ray_head import ROOT
from tracing import encoding
from tracing.otel_internals import zipkin_span

ENDPOINT = {"serviceName": "tts-service", "ipv6": "2001:db8::1"}
TRACE, SPAN, PARENT = 0x00000000000000010000000000000002, 0x3, 0xA2FB4A1D1A96D312


def by_hand(span: ReadableSpan, endpoint: dict[str, str]) -> dict[str, Any]:
    """The same without the package."""

    def microseconds(nanoseconds: int | None) -> int:
        return ((nanoseconds or 0) + 500) // 1000

    context = span.get_span_context()
    assert context is not None and span.start_time is not None and span.end_time is not None
    encoded = {
        "traceId": f"{context.trace_id:032x}",
        "id": f"{context.span_id:016x}",
        "name": span.name,
        "timestamp": microseconds(span.start_time),
        "duration": microseconds(span.end_time - span.start_time),
        "localEndpoint": endpoint,
        "kind": None if span.kind is SpanKind.INTERNAL else span.kind.name,
        "parentId": f"{span.parent.span_id:016x}" if span.parent else None,
        "tags": dict(span.attributes or {}),
        "annotations": [{"timestamp": microseconds(one.timestamp), "value": one.name} for one in span.events],
    }
    return {name: value for name, value in encoded.items() if value or name == "duration"}


Encode = Callable[[ReadableSpan, dict[str, str]], dict[str, Any]]


@pytest.fixture(params=[zipkin_span, by_hand], ids=["today", "without-the-package"])
def encode(request) -> Encode:
    return request.param


def span(**more) -> ReadableSpan:
    def context(span_id: int) -> SpanContext:
        return SpanContext(TRACE, span_id, is_remote=False, trace_flags=TraceFlags(1))

    given: dict[str, Any] = {
        "parent": context(PARENT),
        "resource": Resource({"host.name": "canary7secret"}),
        "attributes": {"batch.size": "2", "device": "cpu"},
        "events": [
            Event("dequeued", {}, timestamp=1_000_000_001_500),
            Event("first chunk", timestamp=2_000_000_000_499),
        ],
        "kind": SpanKind.SERVER,
        "status": Status(StatusCode.ERROR, "canary7secret"),
        "start_time": 1_000_000_001_500,
        "end_time": 1_000_000_124_499,
    }
    return ReadableSpan("GENERATE_MEL", context(SPAN), **given | more)


WHOLE = {
    "traceId": "00000000000000010000000000000002",
    "id": "0000000000000003",
    "parentId": "a2fb4a1d1a96d312",
    "kind": "SERVER",
    "name": "GENERATE_MEL",
    "timestamp": 1_000_000_002,
    "duration": 123,
    "localEndpoint": ENDPOINT,
    "tags": {"batch.size": "2", "device": "cpu"},
    "annotations": [
        {"timestamp": 1_000_000_002, "value": "dequeued"},
        {"timestamp": 2_000_000_000, "value": "first chunk"},
    ],
}


def test_a_whole_span_is_zipkins_fields_and_no_others(encode):
    """No `debug`, no status, nothing of the resource; times to the nearest microsecond."""
    assert encode(span(), ENDPOINT) == WHOLE


@pytest.mark.parametrize(
    "more, absent",
    [
        ({"parent": None}, "parentId"),
        ({"kind": SpanKind.INTERNAL}, "kind"),
        ({"attributes": {}}, "tags"),
        ({"events": []}, "annotations"),
    ],
)
def test_what_is_empty_is_absent_and_never_null(encode, more, absent):
    assert encode(span(**more), ENDPOINT) == {key: value for key, value in WHOLE.items() if key != absent}


def test_a_client_is_one(encode):
    assert encode(span(kind=SpanKind.CLIENT), ENDPOINT)["kind"] == "CLIENT"


def test_the_graphs_own_traces_come_out_alike(encode, monkeypatch):
    """Forty requests, failures and lost stages among them, by the whole of `tracing.encode`."""
    start = 1_700_000_000_000_000_000
    monkeypatch.setattr(encoding, "zipkin_span", encode)
    made = [request(number, start_ns=start) for number in range(1, 41)]
    assert {span.get("kind") for trace in made for span in trace} == {"SERVER", "CLIENT"}
    for trace in made:
        for one in trace:
            assert None not in one.values() and "debug" not in one
            assert start // 1000 <= one["timestamp"] and type(one["duration"]) is int and one["duration"] >= 1
            assert all(type(value) is str for value in one["tags"].values())


def test_nothing_else_imports_the_package():
    importers = set()
    for file in sorted(ROOT.rglob("*.py")):
        if ".venv" in file.parts or ".run" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.startswith("opentelemetry.exporter.zipkin") for name in names):
                importers.add(file.relative_to(ROOT))
    assert importers == {Path("tracing/otel_internals.py"), Path("tests/unit/test_otel_internals.py")}
