"""Records into Zipkin v2 JSON, with the encoder of the OpenTelemetry Zipkin exporter.

Three things are taken out that it adds to every span: the `debug` flag (which would override a collector's sample
rate), the resource and scope as tags, and JSON around annotations.
"""

from __future__ import annotations

import functools
import ipaddress
import math
from collections.abc import Iterable
from typing import Any

from opentelemetry.exporter.zipkin.json.v2 import JsonV2Encoder
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags

from tracing.finished_span import FinishedSpan

MAX_TAG_LENGTH = 256
_KINDS = {"SERVER": SpanKind.SERVER, "CLIENT": SpanKind.CLIENT, None: SpanKind.INTERNAL}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_NO_RESOURCE = Resource({})  # or every span would read the environment for one


def encode(records: Iterable[FinishedSpan]) -> list[dict[str, Any]]:
    """Zipkin v2 spans as dicts, in the same order. Values that are no plain number or word are left out."""
    return [_encoded(record) for record in records]


def _encoded(record: FinishedSpan) -> dict[str, Any]:
    def context(span_id: int) -> SpanContext:
        return SpanContext(record.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)

    span = ReadableSpan(
        record.name,
        context(record.span_id),
        context(record.parent_id) if record.parent_id else None,
        resource=_NO_RESOURCE,
        attributes={key: text for key, value in record.tags.items() if (text := _text(value)) is not None},
        events=[Event(text, timestamp=at_ns) for at_ns, text in record.events],
        kind=_KINDS[record.kind],
        start_time=record.start_ns,
        end_time=record.end_ns,
    )
    encoded = _ENCODER.encode(span, _endpoint(record.service, record.ip))
    if record.remote is not None:
        encoded["remoteEndpoint"] = {"serviceName": record.remote}
    return encoded


class _Encoder(JsonV2Encoder):
    """The exporter package's encoder without what it adds on its own account."""

    def encode(self, span: ReadableSpan, endpoint: dict) -> dict[str, Any]:
        encoded = self._encode_span(span, endpoint)
        if encoded["kind"] is None:  # INTERNAL: Zipkin has no word for it, and "absent" is what its schema says
            del encoded["kind"]
        return encoded

    @staticmethod
    def _encode_debug(span_context) -> bool:
        return False

    def _extract_tags_from_span(self, span) -> dict[str, str]:
        return self._extract_tags_from_dict(span.attributes)

    def _extract_annotations_from_events(self, events) -> list[dict] | None:
        return [{"timestamp": self._nsec_to_usec_round(event.timestamp), "value": event.name} for event in events or ()]


_ENCODER = _Encoder(MAX_TAG_LENGTH)


@functools.lru_cache(maxsize=256)
def _endpoint(service: str, ip: str | None) -> dict[str, str]:
    endpoint = {"serviceName": service}
    if ip is not None:
        address = ipaddress.ip_address(ip)
        endpoint[f"ipv{address.version}"] = str(address)
    return endpoint


def _text(value: str | bool | int | float) -> str | bool | int | None:
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return f"{value:.6f}".rstrip("0").rstrip(".")  # never 1e-05, which is no plain number
    return value
