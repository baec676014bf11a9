"""Spans of one service: plain values while the work goes on, a `FinishedSpan` at its end.

A `Tracer` belongs to one replica. Nothing of it is global, and no environment variable changes it. `Span.end` returns
the finished spans to its caller, and they travel to the ingress on the stage's reply. This module decides nothing about
sampling and sends nothing.

Why these are not the OpenTelemetry SDK's spans: the SDK's span costs 26 microseconds to create, 8 of them even if it is
not sampled, and hands itself to a processor of its own process, while ours must travel to another process by pickle.
Its exception recording puts messages, paths and stack traces into tags. The ids are made by the SDK's generator, and
the kept tenth is encoded by way of the SDK's `ReadableSpan` (`tracing.encoding`).

The methods have Brave's and Zipkin's names (`tag`, `annotate`), because the reader looks for them in Zipkin.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, TraceFlags

from tracing import vocabulary
from tracing.call_context import CallContext
from tracing.finished_span import FinishedSpan, TagValue
from tracing.non_recording import NonRecordingSpan

_MICROSECOND = 1000
_PLAIN = frozenset({str, int, float, bool})
_IDS = RandomIdGenerator()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Tracer:
    """Makes the spans of one replica.

    Args:
        service: Zipkin's service name, the same as the Serve deployment's.
        instance: The replica's id. It becomes the tag `replica.id` on every span but engine phases.
        place: Tags of where the replica runs, for the same spans as `replica.id`.
        ip: This replica's address for the local endpoint, or None. Zipkin corrects clock skew only between
            endpoints of different addresses.
        clock: Nanoseconds since the epoch.
    """

    def __init__(
        self,
        service: str,
        *,
        instance: str = "",
        place: Mapping[str, TagValue] | None = None,
        ip: str | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.service = service
        self.ip = None if ip is None else str(ipaddress.ip_address(ip))
        self.clock = clock
        self._own_tags = {**({vocabulary.REPLICA_ID: instance} if instance else {}), **(place or {})}

    def server(
        self,
        name: str,
        *,
        parent: SpanContext | CallContext | None,
        start_ns: int | None = None,
        trace_id: str | None = None,
    ) -> Span | NonRecordingSpan:
        """Start a span of kind SERVER: work that this service does for `parent`, or the root of a trace.

        Args:
            name: A stage, or a method and a route.
            parent: The caller's span; None starts a trace. A `CallContext` that is not recording gives a
                span that records nothing.
            start_ns: Nanoseconds since the epoch; now if None.
            trace_id: 32 hex digits for a root that must have this id. Only without a parent.

        Raises:
            ValueError: `trace_id` and `parent` are both given.
        """
        if trace_id is not None and parent is not None:
            raise ValueError("a span has its parent's trace id: give `parent` or `trace_id`, not both")
        if isinstance(parent, CallContext) and not parent.recording:
            return NonRecordingSpan(self.clock, parent.parent, start_ns)
        return self._span(name, "SERVER", parent, start_ns, None, trace_id)

    def client(
        self, name: str, *, parent: SpanContext | CallContext | None, remote_service: str, start_ns: int | None = None
    ) -> Span:
        """Start a span of kind CLIENT for a stage that can't report itself; it names the stage's service."""
        return self._span(name, "CLIENT", parent, start_ns, remote_service)

    def _span(
        self,
        name: str,
        kind: str,
        parent: SpanContext | CallContext | None,
        start_ns: int | None,
        remote: str | None,
        trace_id: str | None = None,
    ) -> Span:
        if isinstance(parent, CallContext):
            parent = parent.parent
        # A span's parent is what the caller says, never what happens to be current.
        if parent is not None:
            trace, parent_id = parent.trace_id, parent.span_id
        else:
            trace, parent_id = int(trace_id, 16) if trace_id is not None else _IDS.generate_trace_id(), 0
        span = Span(self, name, kind, trace, parent_id, self.clock() if start_ns is None else start_ns, remote)
        span.tags(self._own_tags)
        return span


class Span:
    """A span that has not ended. Any thread may call its methods; once it has ended they change nothing."""

    def __init__(
        self, tracer: Tracer, name: str, kind: str, trace_id: int, parent_id: int, start_ns: int, remote: str | None
    ) -> None:
        self._tracer = tracer
        self._name = name
        self._kind = kind
        self._trace = trace_id
        self._id = _IDS.generate_span_id()
        self._parent = parent_id
        self._remote = remote
        self._tags: dict[str, TagValue] = {}
        self._events: list[tuple[int, str]] = []
        self._children: list[FinishedSpan] = []
        self._finished: list[FinishedSpan] | None = None
        self._lock = threading.Lock()
        self.start_ns = start_ns
        self.trace_id: str = f"{trace_id:032x}"

    @property
    def context(self) -> SpanContext:
        """This span as a parent of others."""
        return SpanContext(self._trace, self._id, is_remote=False, trace_flags=_SAMPLED)

    def tag(self, key: str, value: Any) -> None:
        """Set one tag. None sets nothing, because Zipkin refuses a batch with a null. Floats keep six decimals."""
        if self._finished is not None:
            return
        if type(value) not in _PLAIN and (value := _plain(value)) is None:
            return
        self._tags[key] = value

    def tags(self, tags: dict[str, Any] | None = None, /, **more: Any) -> None:
        """Set several tags, as a dict for keys that have dots in them, or by keyword."""
        for key, value in {**(tags or {}), **more}.items():
            self.tag(key, value)

    def annotate(self, text: str, at_ns: int | None = None) -> None:
        """Mark a moment inside the span. `text` is one of the vocabulary's annotations."""
        if self._finished is None:
            self._events.append((self._tracer.clock() if at_ns is None else at_ns, text))

    def fail(self, error_type: str, message: str = "", status: int | None = None) -> None:
        """Mark the span as failed: set the tags `error` and `error.type`, and `http.status_code` if given.

        Args:
            error_type: Our machine-readable word for it (`input_validation`).
            message: In our own words, never an exception's text. Redaction lets known messages pass and
                replaces any other by `error_type`.
            status: The HTTP status that the caller gets, or None.
        """
        self.tag(vocabulary.ERROR, message or error_type)
        self.tag(vocabulary.ERROR_TYPE, error_type)
        self.tag(vocabulary.HTTP_STATUS_CODE, status)

    def add_child(self, name: str, start_ns: int, end_ns: int, tags: Mapping[str, Any] | None = None) -> None:
        """Add a finished INTERNAL child, for example a phase that the engine timed itself."""
        if self._finished is not None:
            return
        plain = {key: clean for key, value in (tags or {}).items() if (clean := _plain(value)) is not None}
        self._children.append(
            FinishedSpan(
                self._trace,
                _IDS.generate_span_id(),
                self._id,
                None,
                name,
                start_ns,
                max(end_ns, start_ns + _MICROSECOND),
                self._tracer.service,
                self._tracer.ip,
                None,
                plain,
                (),
            )
        )

    def call_context(self, deadline_ns: int) -> CallContext:
        """Return the context of a call that is made now as a part of this span."""
        return CallContext(f"00-{self.trace_id}-{self._id:016x}-01", self._tracer.clock(), deadline_ns)

    def snapshot(self) -> FinishedSpan:
        """Return the span as it is now. It goes on."""
        return self._as_finished(self._tracer.clock(), dict(self._tags))

    def end(self, end_ns: int | None = None) -> list[FinishedSpan]:
        """End the span.

        Args:
            end_ns: Nanoseconds since the epoch; now if None. A duration is at least 1 µs, because Zipkin
                reads 0 as "unknown".

        Returns:
            The span, then its children. A second call returns the same.
        """
        with self._lock:
            if self._finished is None:
                end_ns = self._tracer.clock() if end_ns is None else end_ns
                self._finished = [self._as_finished(end_ns, self._tags), *self._children]
            return self._finished

    def _as_finished(self, end_ns: int, tags: dict[str, TagValue]) -> FinishedSpan:
        return FinishedSpan(
            self._trace,
            self._id,
            self._parent,
            self._kind,
            self._name,
            self.start_ns,
            max(end_ns, self.start_ns + _MICROSECOND),
            self._tracer.service,
            self._tracer.ip,
            self._remote,
            tags,
            tuple(self._events),
        )


def _plain(value: Any) -> TagValue | None:
    """A tag's value as it may travel: scalars of numpy and torch become Python's, anything else becomes None."""
    if hasattr(value, "item"):
        value = value.item()
    plain: TagValue | None = value if type(value) in _PLAIN else None
    return plain
