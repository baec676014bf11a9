"""Kept traces as OTLP: from the redacted Zipkin JSON of the spool to an `ExportTraceServiceRequest`.

Both destinations get their spans from the same redacted form, so nothing can leave by OTLP that would not leave by
Zipkin. Its times are microseconds; OTLP's nanoseconds end in 000. The messages are OpenTelemetry's own, of the package
`opentelemetry-proto`, and filled directly. The way through spans of the SDK and the exporter's encoder costs twice the
time (docs/otlp.md). The names of attributes are `tracing.otlp_attributes`'.

OTLP has the service in a resource, so the spans of a batch come in one `ResourceSpans` for each replica. A phase inside
a stage has no tags of its replica: it takes the resource of its stage's span.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, SpanFlags, Status

from config.version import VERSION
from tracing import otlp_attributes, vocabulary

_KINDS = {"SERVER": Span.SPAN_KIND_SERVER, "CLIENT": Span.SPAN_KIND_CLIENT}
_SCOPE = InstrumentationScope(name="cosygraph", version=VERSION)
_SAMPLED = 1  # of the W3C trace flags
_LOCAL_PARENT = _SAMPLED | SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE_PARENT = _LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
_UNKNOWN_SERVICE = "unknown_service"  # OpenTelemetry's word for a span whose service redaction took out

Replica = tuple[str, tuple[tuple[str, str], ...]]  #: a service, and the tags of its replica


class OtlpEncoder:
    """Encodes batches.

    Args:
        resource: Attributes to add to the resource of every span.
    """

    def __init__(self, resource: Mapping[str, str] | None = None) -> None:
        self._more = dict(resource or {})

    def encode(self, traces: Sequence[bytes]) -> bytes:
        """Encode a batch as a serialized `ExportTraceServiceRequest`.

        Args:
            traces: JSON lists of spans in Zipkin's form, redacted.
        """
        replicas: dict[Replica, list[Span]] = {}
        for trace in traces:
            for replica, span in _spans(json.loads(trace)):
                replicas.setdefault(replica, []).append(span)
        request = ExportTraceServiceRequest(
            resource_spans=[
                ResourceSpans(
                    resource=self._resource(replica),
                    scope_spans=[ScopeSpans(scope=_SCOPE, spans=spans, schema_url=otlp_attributes.SCHEMA_URL)],
                    schema_url=otlp_attributes.SCHEMA_URL,
                )
                for replica, spans in replicas.items()
            ]
        )
        serialized: bytes = request.SerializeToString()
        return serialized

    def _resource(self, replica: Replica) -> Resource:
        service, tags = replica
        own = {otlp_attributes.SERVICE_NAME: service, otlp_attributes.SERVICE_VERSION: VERSION}
        own |= {otlp_attributes.name_of(tag): value for tag, value in tags}
        return Resource(attributes=[_attribute(name, value) for name, value in {**self._more, **own}.items()])


def _spans(trace: list[dict[str, Any]]) -> Iterator[tuple[Replica, Span]]:
    """Yield the spans of one trace, each with its replica."""
    by_id = {span["id"]: span for span in trace}
    for span in trace:
        above = by_id.get(span.get("parentId", ""))
        service, tags = _service(span), span.get("tags", {})
        parent = above if above is not None and _service(above) == service else None
        of_replica = _resource_tags(tags) or _resource_tags((parent or {}).get("tags", {}))
        yield (service, of_replica), _span(span, tags, in_process=parent is not None)


def _span(span: dict[str, Any], tags: dict[str, str], *, in_process: bool) -> Span:
    """Make one span's message. `in_process`: its parent is a span of the same replica."""
    attributes = [
        _of_tag(tag, value)
        for tag, value in tags.items()
        if tag not in otlp_attributes.OF_RESOURCE and tag != vocabulary.ERROR
    ]
    endpoint = span.get("localEndpoint", {})
    if address := endpoint.get("ipv4") or endpoint.get("ipv6"):
        attributes.append(_attribute(otlp_attributes.LOCAL_ADDRESS, address))
    if remote := span.get("remoteEndpoint", {}).get("serviceName"):
        attributes += [_attribute(name, remote) for name in otlp_attributes.PEER_NAMES]
    failed = _fails(span, tags)
    if vocabulary.ERROR in tags and not failed:
        attributes.append(_attribute(vocabulary.ERROR, tags[vocabulary.ERROR]))
    start = span["timestamp"]
    parent_id = span.get("parentId")
    return Span(
        trace_id=int(span["traceId"], 16).to_bytes(16, "big"),
        span_id=bytes.fromhex(span["id"]),
        parent_span_id=bytes.fromhex(parent_id) if parent_id else b"",
        flags=_REMOTE_PARENT if parent_id and not in_process else _LOCAL_PARENT,
        name=span["name"],
        kind=_KINDS.get(span.get("kind", ""), Span.SPAN_KIND_INTERNAL),
        start_time_unix_nano=_ns(start),
        end_time_unix_nano=_ns(start + span["duration"]),
        attributes=attributes,
        events=[
            Span.Event(name=one["value"], time_unix_nano=_ns(one["timestamp"])) for one in span.get("annotations", ())
        ],
        status=Status(code=Status.STATUS_CODE_ERROR, message=tags[vocabulary.ERROR]) if failed else None,
    )


@functools.lru_cache(maxsize=4096)
def _of_tag(tag: str, text: str) -> KeyValue:
    """Return a tag's attribute. Most tags have few values, and a message that goes into another one is copied."""
    return _attribute(otlp_attributes.name_of(tag), otlp_attributes.value_of(tag, text))


def _attribute(name: str, value: otlp_attributes.Value) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=value))
    if isinstance(value, bool):  # before int, which it is one of
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=value))
    return KeyValue(key=name, value=AnyValue(double_value=value))


def _ns(microseconds: int) -> int:
    return microseconds * 1000


def _service(span: dict[str, Any]) -> str:
    service: str = span.get("localEndpoint", {}).get("serviceName", _UNKNOWN_SERVICE)
    return service


def _resource_tags(tags: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((tag, tags[tag]) for tag in otlp_attributes.OF_RESOURCE if tag in tags)


def _fails(span: dict[str, Any], tags: dict[str, str]) -> bool:
    """Tell whether a span's status is ERROR.

    The conventions leave the status of an HTTP server's span unset if the answer is 4xx: the client is at fault. The
    message is then the attribute `error`.
    """
    if vocabulary.ERROR not in tags:
        return False
    of_http_server = span.get("kind") == "SERVER" and vocabulary.HTTP_METHOD in tags
    return not (of_http_server and tags.get(vocabulary.HTTP_STATUS_CODE, "").startswith("4"))
