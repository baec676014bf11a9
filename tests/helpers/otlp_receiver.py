"""A receiver of OTLP/HTTP from OTLP's published protobufs, and the way back from its spans to Zipkin's.

with otlp_receiver() as receiver:
    ...                                    # ExportSettings(otlp={"url": receiver.url})
    receiver.spans                         # as (resource, span) of the published messages
    as_zipkin(receiver.spans)              # the same, as Zipkin would have them
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.helpers.serving_thread import serving
from tracing import otlp_attributes, vocabulary

KINDS = {Span.SPAN_KIND_SERVER: "SERVER", Span.SPAN_KIND_CLIENT: "CLIENT", Span.SPAN_KIND_INTERNAL: None}
TAGS = {name: tag for tag, name in otlp_attributes.SEMANTIC.items()}


class OtlpReceiver(ThreadingHTTPServer):
    """Answers POST /v1/traces as OTLP's specification says, or as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: statuses to answer the next requests with, each with further headers
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.refuse: set[bytes] = set()  #: ids of spans that a partial success refuses
        self.poison: set[bytes] = set()  #: ids of spans for which a whole request is answered with 400
        self.body: tuple[str, bytes] | None = None  #: a type and a body to answer with instead of OTLP's
        self.requests: list[ExportTraceServiceRequest] = []  #: all that came in, whatever became of them
        self.spans: list[tuple[Resource, Span]] = []  #: those that were taken
        self.headers: list[dict[str, str]] = []
        self.down = False  #: answers 503 to everything

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def receive(self, request: ExportTraceServiceRequest) -> tuple[int, dict[str, str], ExportTraceServiceResponse]:
        """Take a request, and return the answer to it."""
        self.requests.append(request)
        found = spans_of(request)
        response = ExportTraceServiceResponse()
        if self.down:
            return 503, {}, response
        if self.answers:
            status, headers = self.answers.pop(0)
            if status != 200:
                return status, headers, response
        if any(span.span_id in self.poison for _, span in found):
            return 400, {}, response
        refused = [span for _, span in found if span.span_id in self.refuse]
        if refused:
            response.partial_success.rejected_spans = len(refused)
            response.partial_success.error_message = "canary7secret"
        self.spans += [pair for pair in found if pair[1].span_id not in self.refuse]
        return 200, {}, response


class _Handler(BaseHTTPRequestHandler):
    server: OtlpReceiver
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.headers.append(dict(self.headers))
        if self.path != "/v1/traces" or self.headers["Content-Type"] != "application/x-protobuf":
            return self._answer(404, {}, b"")
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        status, headers, response = self.server.receive(ExportTraceServiceRequest.FromString(body))
        kind, content = self.server.body or ("application/x-protobuf", response.SerializeToString())
        self._answer(status, {"Content-Type": kind, **headers}, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


@contextmanager
def otlp_receiver() -> Iterator[OtlpReceiver]:
    with serving(OtlpReceiver()) as server:
        yield server


def spans_of(request: ExportTraceServiceRequest) -> list[tuple[Resource, Span]]:
    return [
        (of_replica.resource, span)
        for of_replica in request.resource_spans
        for of_scope in of_replica.scope_spans
        for span in of_scope.spans
    ]


def plain(attributes: Iterable[KeyValue]) -> dict[str, str | int | float | bool]:
    """Attributes as a dict; a key that comes twice is against the specification."""
    found: dict[str, str | int | float | bool] = {}
    for one in attributes:
        assert one.key not in found, one.key
        kind = one.value.WhichOneof("value")
        assert kind is not None, one.key
        found[one.key] = getattr(one.value, kind)
    return found


def as_zipkin(spans: Iterable[tuple[Resource, Span]]) -> list[dict]:
    """The spans as Zipkin would have them, by the table backwards, in the order of their ids."""
    return sorted((_as_zipkin(plain(resource.attributes), span) for resource, span in spans), key=lambda one: one["id"])


def _as_zipkin(resource: dict, span: Span) -> dict:
    attributes = plain(span.attributes)
    endpoint = {"serviceName": resource[otlp_attributes.SERVICE_NAME]}
    if address := attributes.pop(otlp_attributes.LOCAL_ADDRESS, None):
        endpoint["ipv6" if ":" in str(address) else "ipv4"] = str(address)
    peers = {attributes.pop(name) for name in otlp_attributes.PEER_NAMES if name in attributes}
    tags = {TAGS.get(name, name): _text(value) for name, value in attributes.items()}
    if span.kind != Span.SPAN_KIND_INTERNAL:  # in Zipkin a phase does not say which replica it is of
        of_replica = {TAGS.get(name, name): value for name, value in resource.items()}
        tags |= {tag: of_replica[tag] for tag in otlp_attributes.OF_RESOURCE if tag in of_replica}
    if span.status.code == Status.STATUS_CODE_ERROR:
        tags[vocabulary.ERROR] = span.status.message
    start, end = span.start_time_unix_nano, span.end_time_unix_nano
    found = {
        "traceId": span.trace_id.hex(),
        "id": span.span_id.hex(),
        "parentId": span.parent_span_id.hex(),
        "kind": KINDS[span.kind],
        "name": span.name,
        "timestamp": start // 1000,
        "duration": (end - start) // 1000,
        "localEndpoint": endpoint,
        "remoteEndpoint": {"serviceName": peers.pop()} if peers else None,
        "tags": tags,
        "annotations": [{"timestamp": one.time_unix_nano // 1000, "value": one.name} for one in span.events],
    }
    return {key: value for key, value in found.items() if value not in (None, "", {}, [])}


def _text(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
