"""Finished spans as Zipkin v2 JSON.

A `FinishedSpan` is mapped to the OpenTelemetry SDK's `ReadableSpan`, which the Zipkin exporter package's encoder
understands. What is borrowed from that package, and why the rest of it is not, stands in `tracing.otel_internals`.
Only kept traces are encoded, so the detour costs nothing where it matters.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from collections.abc import Iterable
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from tracing.finished_span import FinishedSpan, TagValue
from tracing.otel_internals import zipkin_span

#: Characters of a tag's value; the rest is cut off.
MAX_TAG_LENGTH = 256
_KINDS = {"SERVER": SpanKind.SERVER, "CLIENT": SpanKind.CLIENT, None: SpanKind.INTERNAL}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NO_RESOURCE = Resource({})  # without it the SDK reads one from the environment for every span


def encode(spans: Iterable[FinishedSpan]) -> list[dict[str, Any]]:
    """Encode spans for Zipkin, in the order given.

    Args:
        spans: Of any number of traces and services.

    Returns:
        One dict a span, ready for `json.dumps`. A tag whose value is no finite number is left out.
    """
    return [_encode(span) for span in spans]


def _encode(span: FinishedSpan) -> dict[str, Any]:
    def context(span_id: int) -> SpanContext:
        return SpanContext(span.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)

    readable = ReadableSpan(
        span.name,
        context(span.span_id),
        context(span.parent_id) if span.parent_id else None,
        resource=_NO_RESOURCE,
        attributes={key: text for key, value in span.tags.items() if (text := _text(value)) is not None},
        events=[Event(text, timestamp=at_ns) for at_ns, text in span.events],
        kind=_KINDS[span.kind],
        start_time=span.start_ns,
        end_time=span.end_ns,
    )
    encoded = zipkin_span(readable, _endpoint(span.service, span.ip))
    if span.remote is not None:
        encoded["remoteEndpoint"] = {"serviceName": span.remote}
    return encoded


@functools.lru_cache(maxsize=256)
def _endpoint(service: str, ip: str | None) -> dict[str, str]:
    endpoint = {"serviceName": service}
    if ip is not None:
        address = ipaddress.ip_address(ip)
        endpoint[f"ipv{address.version}"] = str(address)
    return endpoint


def _text(value: TagValue) -> str | None:
    """A tag's value as Zipkin keeps it: text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return f"{value:.6f}".rstrip("0").rstrip(".")  # never 1e-05, which is no plain number
    return str(value)[:MAX_TAG_LENGTH]
