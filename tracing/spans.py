"""Spans of one service: plain values while the work goes on, a record at its end.

A `Tracer` belongs to one replica and to nobody else: nothing of it is global, and no setting of the environment changes
it. A finished span is handed back to whoever finished it, as records that ride to the ingress on the reply. Nothing here
decides what is kept, nothing here sends, and only what is kept is encoded (`tracing.encoding`).
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, TraceFlags

from tracing import vocabulary as words
from tracing.call_context import CallContext
from tracing.encoding import encode
from tracing.finished_span import FinishedSpan
from tracing.non_recording import NonRecordingSpan

_MICROSECOND = 1000
_PLAIN = frozenset({str, int, float, bool})
_IDS = RandomIdGenerator()
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Tracer:
    """Makes the spans of one replica.

    Args:
        service: Zipkin's service name, the same as the Serve deployment's.
        instance: the replica's id; becomes the tag `replica.id` on every span but engine phases.
        ip: this replica's address for the local endpoint, or None. Zipkin corrects clock skew only between
            endpoints of different addresses.
        clock: nanoseconds since the epoch.
    """

    def __init__(
        self, service: str, *, instance: str = "", ip: str | None = None, clock: Callable[[], int] = time.time_ns
    ) -> None:
        self.service = service
        self.ip = None if ip is None else str(ipaddress.ip_address(ip))
        self.clock = clock
        self._instance = instance

    def server(
        self,
        name: str,
        *,
        parent: SpanContext | CallContext | None,
        start_ns: int | None = None,
        trace_id: str | None = None,
    ) -> Span | NonRecordingSpan:
        """A span of kind SERVER: work this service does for `parent`, or the root of a trace where there is none.

        A carrier that says so gets a span which records nothing.

        Args:
            trace_id: 32 hex digits for a root that must have this id; only without a parent.
        """
        if trace_id is not None and parent is not None:
            raise ValueError("a span has its parent's trace id: give `parent` or `trace_id`, not both")
        if isinstance(parent, CallContext) and not parent.recording:
            return NonRecordingSpan(self.clock, parent.parent, start_ns)
        return self._span(name, "SERVER", parent, start_ns, None, trace_id)

    def client(
        self, name: str, *, parent: SpanContext | CallContext | None, remote_service: str, start_ns: int | None = None
    ) -> Span:
        """A span of kind CLIENT in the name of a stage that can't report itself; it names the stage's service."""
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
        if self._instance:
            span.tag(words.REPLICA_ID, self._instance)
        return span


class Span:
    """A span under way. Methods may be called from any thread; after it is finished they do nothing."""

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
        self._tags: dict[str, str | bool | int | float] = {}
        self._events: list[tuple[int, str]] = []
        self._children: list[FinishedSpan] = []
        self._finished: list[FinishedSpan] | None = None
        self._lock = threading.Lock()
        self.start_ns = start_ns
        self.trace_id: str = f"{trace_id:032x}"

    @property
    def context(self) -> SpanContext:
        return SpanContext(self._trace, self._id, is_remote=False, trace_flags=_SAMPLED)

    def tag(self, key: str, value: Any) -> None:
        """Sets one tag. None is left out (Zipkin refuses a batch with a null); floats keep six decimals."""
        if self._finished is not None:
            return
        if type(value) not in _PLAIN and (value := _plain(value)) is None:
            return
        self._tags[key] = value

    def tags(self, tags: dict[str, Any] | None = None, /, **more: Any) -> None:
        """Sets several tags; a dict where the keys have dots in them."""
        for key, value in {**(tags or {}), **more}.items():
            self.tag(key, value)

    def annotate(self, text: str, at_ns: int | None = None) -> None:
        """Marks a moment inside the span; `text` is one of the vocabulary's annotations."""
        if self._finished is None:
            self._events.append((self._tracer.clock() if at_ns is None else at_ns, text))

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

    def child(self, name: str, start_ns: int, end_ns: int, tags: dict[str, Any] | None = None) -> None:
        """Adds a finished INTERNAL child, for example a phase that the engine timed itself."""
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

    def carrier(self, deadline_ns: int) -> CallContext:
        """What a call made now, as a part of this span, takes along."""
        return CallContext(f"00-{self.trace_id}-{self._id:016x}-01", self._tracer.clock(), deadline_ns)

    def preview(self) -> FinishedSpan:
        """As it is now; the span goes on."""
        return self._record(self._tracer.clock(), dict(self._tags))

    def records(self, end_ns: int | None = None) -> list[FinishedSpan]:
        """Ends the span and returns it, then its children. Called again it returns the same.

        A duration is at least 1 µs, because Zipkin reads 0 as "unknown".
        """
        with self._lock:
            if self._finished is None:
                end_ns = self._tracer.clock() if end_ns is None else end_ns
                self._finished = [self._record(end_ns, self._tags), *self._children]
            return self._finished

    def _record(self, end_ns: int, tags: dict) -> FinishedSpan:
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

    def finish(self, end_ns: int | None = None) -> list[dict]:
        """As `records`, in Zipkin v2 JSON."""
        return encode(self.records(end_ns))


def _plain(value: Any) -> str | bool | int | float | None:
    """A tag's value as it may travel; numpy's and torch's scalars become Python's, anything else is left out."""
    if hasattr(value, "item"):
        value = value.item()
    return value if type(value) in _PLAIN else None
