"""Spans of one service: made with the OpenTelemetry SDK, finished into Zipkin's JSON.

A `Tracer` belongs to one replica and to nobody else: its TracerProvider is never the global one, reads no sampling or
resource settings from the environment, and has no processors. A finished span is handed back to whoever finished it,
as Zipkin v2 dicts, and rides to the ingress on the reply. Nothing here decides what is kept, and nothing here sends.

The encoder is the Zipkin exporter package's own, with three things taken out that it adds to every span: the `debug`
flag (which would override a collector's sample rate), the resource and scope as tags, and JSON around annotations.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.zipkin.json.v2 import JsonV2Encoder
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, set_span_in_context

from tracing import vocabulary as words
from tracing.carrier import Carrier
from tracing.silent import SilentSpan

_MAX_TAG_LENGTH = 256
_MICROSECOND = 1000


class Tracer:
    """Makes the spans of one replica.

    Args:
        service: Zipkin's service name, the same as the Serve deployment's.
        instance: the replica's id; becomes the tag `replica.id` on every span but engine phases.
        ip: this replica's address for the local endpoint, or None. Zipkin corrects clock skew only between
            endpoints of different addresses.
        clock: nanoseconds since the epoch.

    Raises:
        RuntimeError: OTEL_SDK_DISABLED is set, so that the SDK makes no spans.
    """

    def __init__(self, service: str, *, instance: str = "", ip: str | None = None,
                 clock: Callable[[], int] = time.time_ns) -> None:
        self.service = service
        self.clock = clock
        self._instance = instance
        self._ids = _Ids()
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource({SERVICE_NAME: service}),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=SpanLimits(max_attributes=64, max_events=32, max_links=0),
            meter_provider=NoOpMeterProvider(),
        )
        self._otel = provider.get_tracer("cosygraph")
        self._encoder = _Encoder(_MAX_TAG_LENGTH)
        self._endpoint = _endpoint(service, ip)
        if not self._start("probe", SpanKind.INTERNAL, None, self.clock()).is_recording():
            raise RuntimeError("OTEL_SDK_DISABLED turns the OpenTelemetry SDK off in this process, so no request would "
                               "have a trace. Unset it.")

    def server(self, name: str, *, parent: SpanContext | Carrier | None, start_ns: int | None = None,
               trace_id: str | None = None) -> Span | SilentSpan:
        """A span of kind SERVER: work this service does for `parent`, or the root of a trace where there is none.

        A carrier that says so gets a span which records nothing.

        Args:
            trace_id: 32 hex digits for a root that must have this id; only without a parent.
        """
        if trace_id is not None and parent is not None:
            raise ValueError("a span has its parent's trace id: give `parent` or `trace_id`, not both")
        if isinstance(parent, Carrier) and not parent.recording:
            return SilentSpan(self.clock, parent.parent, start_ns)
        self._ids.next_trace_id = int(trace_id, 16) if trace_id is not None else None
        return self._span(name, SpanKind.SERVER, parent, start_ns, None)

    def client(self, name: str, *, parent: SpanContext | Carrier | None, remote_service: str,
               start_ns: int | None = None) -> Span:
        """A span of kind CLIENT in the name of a stage that can't report itself; it names the stage's service."""
        return self._span(name, SpanKind.CLIENT, parent, start_ns, {"serviceName": remote_service})

    def _span(self, name, kind, parent, start_ns, remote) -> Span:
        start_ns = self.clock() if start_ns is None else start_ns
        if isinstance(parent, Carrier):
            parent = parent.parent
        span = Span(self, self._start(name, kind, parent, start_ns), start_ns, remote)
        if self._instance:
            span.tag(words.REPLICA_ID, self._instance)
        return span

    def _start(self, name, kind, parent: SpanContext | None, start_ns: int):
        # An explicit empty context: a span's parent is what the caller says, never what happens to be current.
        context = Context()
        if parent is not None:
            context = set_span_in_context(NonRecordingSpan(parent), context)
        return self._otel.start_span(name, context=context, kind=kind, start_time=start_ns,
                                     record_exception=False, set_status_on_exception=False)

    def _encode(self, otel_span, remote: dict | None) -> dict[str, Any]:
        encoded = self._encoder.encode(otel_span, self._endpoint)
        if remote is not None:
            encoded["remoteEndpoint"] = remote
        return encoded


class Span:
    """A span under way. Methods may be called from any thread; after `finish` they do nothing."""

    def __init__(self, tracer: Tracer, otel_span, start_ns: int, remote: dict | None) -> None:
        self._tracer = tracer
        self._otel = otel_span
        self._remote = remote
        self._children: list[dict] = []
        self._finished: list[dict] | None = None
        self._lock = threading.Lock()
        self.start_ns = start_ns
        self.context: SpanContext = otel_span.get_span_context()
        self.trace_id: str = f"{self.context.trace_id:032x}"

    def tag(self, key: str, value: Any) -> None:
        """Sets one tag. None is left out (Zipkin refuses a batch with a null); floats keep six decimals."""
        if self._finished is not None:
            return
        value = _plain(value)
        if value is not None:
            self._otel.set_attribute(key, value)

    def tags(self, tags: dict[str, Any] | None = None, /, **more: Any) -> None:
        """Sets several tags; a dict where the keys have dots in them."""
        for key, value in {**(tags or {}), **more}.items():
            self.tag(key, value)

    def annotate(self, text: str, at_ns: int | None = None) -> None:
        """Marks a moment inside the span; `text` is one of the vocabulary's annotations."""
        if self._finished is None:
            self._otel.add_event(text, timestamp=self._tracer.clock() if at_ns is None else at_ns)

    def fail(self, error_type: str, message: str = "", status: int | None = None) -> None:
        """Marks the span as failed: tags `error` and `error.type`, `http.status_code` where there is one.

        Args:
            error_type: our machine-readable word for it (`input_validation`).
            message: in our own words, never an exception's text. Only messages that redaction knows leave; any
                other is replaced by `error_type` there.
        """
        self.tag(words.ERROR, message or error_type)
        self.tag(words.ERROR_TYPE, error_type)
        self.tag(words.HTTP_STATUS_CODE, status)
        if self._finished is None:
            self._otel.set_status(Status(StatusCode.ERROR))

    def child(self, name: str, start_ns: int, end_ns: int, tags: dict[str, Any] | None = None) -> None:
        """Adds a finished INTERNAL child, for example a phase that the engine timed itself."""
        if self._finished is not None:
            return
        otel_span = self._tracer._start(name, SpanKind.INTERNAL, self.context, start_ns)
        for key, value in (tags or {}).items():
            value = _plain(value)
            if value is not None:
                otel_span.set_attribute(key, value)
        otel_span.end(max(end_ns, start_ns + _MICROSECOND))
        self._children.append(self._tracer._encode(otel_span, None))

    def carrier(self, deadline_ns: int) -> Carrier:
        """What a call made now, as a part of this span, takes along."""
        return Carrier(f"00-{self.trace_id}-{self.context.span_id:016x}-01", self._tracer.clock(), deadline_ns)

    def finish(self, end_ns: int | None = None) -> list[dict]:
        """Ends the span and returns it, then its children, as Zipkin v2 dicts. Called again it returns the same.

        A duration is at least 1 µs, because Zipkin reads 0 as "unknown".
        """
        with self._lock:
            if self._finished is None:
                end_ns = self._tracer.clock() if end_ns is None else end_ns
                self._otel.end(max(end_ns, self.start_ns + _MICROSECOND))
                self._finished = [self._tracer._encode(self._otel, self._remote), *self._children]
            return self._finished


class _Ids(RandomIdGenerator):
    """Random ids, but for a root whose trace id was chosen beforehand. The choice is one thread's, used once."""

    def __init__(self) -> None:
        self._local = threading.local()

    @property
    def next_trace_id(self) -> int | None:
        return getattr(self._local, "trace_id", None)

    @next_trace_id.setter
    def next_trace_id(self, value: int | None) -> None:
        self._local.trace_id = value

    def generate_trace_id(self) -> int:
        chosen, self.next_trace_id = self.next_trace_id, None
        return super().generate_trace_id() if chosen is None else chosen


class _Encoder(JsonV2Encoder):
    """The exporter package's encoder without what it adds on its own account."""

    def encode(self, span, endpoint: dict) -> dict[str, Any]:
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


def _endpoint(service: str, ip: str | None) -> dict[str, str]:
    endpoint = {"serviceName": service}
    if ip is not None:
        address = ipaddress.ip_address(ip)
        endpoint[f"ipv{address.version}"] = str(address)
    return endpoint


def _plain(value: Any) -> str | bool | int | float | None:
    """A tag's value as OpenTelemetry takes it; numpy and torch scalars become Python's."""
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return f"{value:.6f}".rstrip("0").rstrip(".")  # never 1e-05, which is no plain number
    return value if isinstance(value, (str, bool, int)) else None
