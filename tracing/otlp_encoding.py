"""Kept traces as OTLP: from the redacted Zipkin JSON of the spool to an `ExportTraceServiceRequest`.

Both destinations get their spans from the same redacted form, so nothing can leave by OTLP that would not leave by
Zipkin. Its times are microseconds; OTLP's nanoseconds end in 000. The fields themselves are encoded by the OTLP
exporter package of OpenTelemetry, from spans of its SDK. The names of attributes are `tracing.otlp_attributes`'.

OTLP has the service in a resource, so the spans of one trace come in one `ResourceSpans` for each replica. A phase
inside a stage has no tags of its replica: it takes the resource of its stage's span.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from config.version import VERSION
from tracing import otlp_attributes, vocabulary

_KINDS = {"SERVER": SpanKind.SERVER, "CLIENT": SpanKind.CLIENT}
_SCOPE = InstrumentationScope("cosygraph", VERSION, otlp_attributes.SCHEMA_URL)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSET = Status(StatusCode.UNSET)
_UNKNOWN_SERVICE = "unknown_service"  # OpenTelemetry's word for a span whose service redaction took out


class OtlpEncoder:
    """Encodes batches.

    Args:
        resource: Attributes to add to the resource of every span.
    """

    def __init__(self, resource: Mapping[str, str] | None = None) -> None:
        more = dict(resource or {})

        @functools.lru_cache(maxsize=1024)
        def with_attributes(service: str, tags: tuple[tuple[str, str], ...]) -> Resource:
            own = {otlp_attributes.SERVICE_NAME: service, otlp_attributes.SERVICE_VERSION: VERSION}
            own |= {otlp_attributes.name_of(tag): value for tag, value in tags}
            return Resource({**more, **own}, otlp_attributes.SCHEMA_URL)

        self._resource = with_attributes  # equal resources are one object: the package groups the spans by it

    def encode(self, traces: Sequence[bytes]) -> bytes:
        """Encode a batch as a serialized `ExportTraceServiceRequest`.

        Args:
            traces: JSON lists of spans in Zipkin's form, redacted.
        """
        spans = [span for trace in traces for span in self.spans(json.loads(trace))]
        serialized: bytes = encode_spans(spans).SerializeToString()
        return serialized

    def spans(self, trace: list[dict[str, Any]]) -> Iterable[ReadableSpan]:
        """Yield the spans of one trace as spans of OpenTelemetry's SDK."""
        by_id = {span["id"]: span for span in trace}
        for span in trace:
            parent = by_id.get(span.get("parentId", ""))
            yield self._span(span, parent if parent is not None and _service(parent) == _service(span) else None)

    def _span(self, span: dict[str, Any], parent: dict[str, Any] | None) -> ReadableSpan:
        """Build one span. `parent` is its parent if that is a span of the same replica."""
        tags: dict[str, str] = span.get("tags", {})
        of_replica = _resource_tags(tags) or _resource_tags((parent or {}).get("tags", {}))
        endpoint = span.get("localEndpoint", {})
        trace_id, start = int(span["traceId"], 16), span["timestamp"]
        attributes: dict[str, otlp_attributes.Value] = {
            otlp_attributes.name_of(tag): otlp_attributes.value_of(tag, value)
            for tag, value in tags.items()
            if tag not in otlp_attributes.OF_RESOURCE and tag != vocabulary.ERROR
        }
        if address := endpoint.get("ipv4") or endpoint.get("ipv6"):
            attributes[otlp_attributes.LOCAL_ADDRESS] = address
        if remote := span.get("remoteEndpoint", {}).get("serviceName"):
            attributes |= dict.fromkeys(otlp_attributes.PEER_NAMES, remote)
        status = _status(span, tags)
        if status is _UNSET and vocabulary.ERROR in tags:
            attributes[vocabulary.ERROR] = tags[vocabulary.ERROR]
        return ReadableSpan(
            span["name"],
            SpanContext(trace_id, int(span["id"], 16), is_remote=False, trace_flags=_SAMPLED),
            _parent_context(span, trace_id, is_remote=parent is None),
            resource=self._resource(_service(span), of_replica),
            attributes=attributes,
            events=[Event(one["value"], timestamp=_ns(one["timestamp"])) for one in span.get("annotations", ())],
            kind=_KINDS.get(span.get("kind", ""), SpanKind.INTERNAL),
            status=status,
            start_time=_ns(start),
            end_time=_ns(start + span["duration"]),
            instrumentation_scope=_SCOPE,
        )


def _ns(microseconds: int) -> int:
    return microseconds * 1000


def _parent_context(span: dict[str, Any], trace_id: int, *, is_remote: bool) -> SpanContext | None:
    parent_id = span.get("parentId")
    if parent_id is None:
        return None
    return SpanContext(trace_id, int(parent_id, 16), is_remote=is_remote, trace_flags=_SAMPLED)


def _service(span: dict[str, Any]) -> str:
    service: str = span.get("localEndpoint", {}).get("serviceName", _UNKNOWN_SERVICE)
    return service


def _resource_tags(tags: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((tag, tags[tag]) for tag in otlp_attributes.OF_RESOURCE if tag in tags)


def _status(span: dict[str, Any], tags: dict[str, str]) -> Status:
    """Return ERROR with the message for a failed span.

    The conventions leave the status of an HTTP server's span unset if the answer is 4xx: the client is at fault. The
    message is then the attribute `error`.
    """
    message = tags.get(vocabulary.ERROR)
    if message is None:
        return _UNSET
    of_http_server = span.get("kind") == "SERVER" and vocabulary.HTTP_METHOD in tags
    if of_http_server and tags.get(vocabulary.HTTP_STATUS_CODE, "").startswith("4"):
        return _UNSET
    return Status(StatusCode.ERROR, message)
