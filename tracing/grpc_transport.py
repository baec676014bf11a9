"""Sends traces to Zipkin's gRPC collector: `zipkin.proto3.SpanService/Report`, on the same port as HTTP.

Zipkin has it off unless it is started with COLLECTOR_GRPC_ENABLED=true. The messages are built from field numbers,
because the schema is small and frozen, and generated code would pin protobuf's version. That pin is also why
`opentelemetry-exporter-zipkin-proto-http` is not used: it needs protobuf 3, which Ray would then run in pure Python.

Source: github.com/openzipkin/zipkin-api, zipkin.proto.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tracing.transport import NO_TRACE, Rejected, Unavailable, join

_F = descriptor_pb2.FieldDescriptorProto
_KINDS = {"CLIENT": 1, "SERVER": 2, "PRODUCER": 3, "CONSUMER": 4}
# message -> (field, number, type), or a message's name as the type
_SCHEMA: dict[str, list[tuple[str, int, Any]]] = {
    "Endpoint": [
        ("service_name", 1, _F.TYPE_STRING),
        ("ipv4", 2, _F.TYPE_BYTES),
        ("ipv6", 3, _F.TYPE_BYTES),
        ("port", 4, _F.TYPE_INT32),
    ],
    "Annotation": [("timestamp", 1, _F.TYPE_FIXED64), ("value", 2, _F.TYPE_STRING)],
    # A proto map is a repeated message of key and value on the wire.
    "Tag": [("key", 1, _F.TYPE_STRING), ("value", 2, _F.TYPE_STRING)],
    "Span": [
        ("trace_id", 1, _F.TYPE_BYTES),
        ("parent_id", 2, _F.TYPE_BYTES),
        ("id", 3, _F.TYPE_BYTES),
        ("kind", 4, _F.TYPE_INT32),
        ("name", 5, _F.TYPE_STRING),
        ("timestamp", 6, _F.TYPE_FIXED64),
        ("duration", 7, _F.TYPE_UINT64),
        ("local_endpoint", 8, "Endpoint"),
        ("remote_endpoint", 9, "Endpoint"),
        ("annotations", 10, "*Annotation"),
        ("tags", 11, "*Tag"),
    ],
    "ListOfSpans": [("spans", 1, "*Span")],
}
# The server says these of the message itself; the same message will fail again.
_REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE}
_FAILURES = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}


def _list_of_spans() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="cosygraph_zipkin.proto", package="zipkin.proto3", syntax="proto3")
    for message, fields in _SCHEMA.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            field = described.field.add(name=name, number=number, label=_F.LABEL_OPTIONAL)
            if not isinstance(kind, str):
                field.type = kind
                continue
            field.type, field.type_name = _F.TYPE_MESSAGE, f".zipkin.proto3.{kind.lstrip('*')}"
            if kind.startswith("*"):
                field.label = _F.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()  # our own: another library may have the real schema in the default one
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("zipkin.proto3.ListOfSpans"))


_ListOfSpans = _list_of_spans()


class GrpcTransport:
    """Sends each batch as one unary call. It is not compressed: Zipkin's collector answers INTERNAL to that.

    Args:
        zipkin_url: Host and port. `https` means TLS with the system's roots.
        timeout_s: For one call.
    """

    name = "grpc"

    def __init__(self, zipkin_url: str, timeout_s: float) -> None:
        address = urlsplit(zipkin_url)
        secure = address.scheme == "https"
        target = f"{address.hostname}:{address.port or (443 if secure else 9411)}"
        options = [("grpc.enable_http_proxy", 0)]
        self._channel = (
            grpc.secure_channel(target, grpc.ssl_channel_credentials(), options)
            if secure
            else grpc.insecure_channel(target, options)
        )
        self._report = self._channel.unary_unary(
            "/zipkin.proto3.SpanService/Report", request_serializer=bytes, response_deserializer=bytes
        )
        self._timeout_s = timeout_s

    def send(self, traces: Sequence[bytes]) -> None:
        """As `Transport.send`."""
        try:
            message = to_protobuf(json.loads(join(traces)))
        except NO_TRACE as error:
            raise Rejected(f"no trace: {type(error).__name__}") from None
        try:
            self._report(message, timeout=self._timeout_s)
        except grpc.RpcError as error:
            code = error.code()  # its details could echo what was sent
            if code in _REFUSALS:
                raise Rejected(f"gRPC {code.name}") from None
            why = f"gRPC {code.name}"
            if code is grpc.StatusCode.UNIMPLEMENTED:
                why += ": start Zipkin with COLLECTOR_GRPC_ENABLED=true"
            raise Unavailable(why, answered=code in _FAILURES) from None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def to_protobuf(spans: list[dict[str, Any]]) -> bytes:
    """Serialize spans in Zipkin's JSON form as a ListOfSpans."""
    message = _ListOfSpans()
    for span in spans:
        _fill(message.spans.add(), span)
    serialized: bytes = message.SerializeToString()
    return serialized


def _fill(out: Any, span: dict[str, Any]) -> None:
    out.trace_id = bytes.fromhex(span["traceId"])
    out.id = bytes.fromhex(span["id"])
    out.parent_id = bytes.fromhex(span.get("parentId", ""))
    out.kind = _KINDS.get(span.get("kind", ""), 0)
    out.name = span.get("name", "")
    out.timestamp, out.duration = span.get("timestamp", 0), span.get("duration", 0)
    for key, field in (("localEndpoint", out.local_endpoint), ("remoteEndpoint", out.remote_endpoint)):
        if key in span:
            _fill_endpoint(field, span[key])
    for annotation in span.get("annotations", ()):
        out.annotations.add(timestamp=annotation["timestamp"], value=annotation["value"])
    for key, value in span.get("tags", {}).items():
        out.tags.add(key=key, value=value)


def _fill_endpoint(out: Any, endpoint: dict[str, Any]) -> None:
    out.service_name = endpoint.get("serviceName", "")
    out.port = endpoint.get("port", 0)
    for key in ("ipv4", "ipv6"):
        if key in endpoint:
            setattr(out, key, ipaddress.ip_address(endpoint[key]).packed)
