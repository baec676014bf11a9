"""Spans that record nothing, for requests made while tracing is switched off.

They have ids all the same: an answer carries its trace id, log lines name it, and the stages learn from the carrier's
flag (`-00`) that nobody collects their spans.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, TraceFlags

from tracing.call_context import CallContext
from tracing.finished_span import FinishedSpan

_IDS = RandomIdGenerator()


class NoOpTracer:
    """In a `Tracer`'s place. `clock`: nanoseconds since the epoch."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.clock = clock

    def server(
        self, name: str, *, parent: SpanContext | CallContext | None, start_ns: int | None = None
    ) -> NonRecordingSpan:
        return NonRecordingSpan(self.clock, parent.parent if isinstance(parent, CallContext) else parent, start_ns)

    def client(
        self, name: str, *, parent: SpanContext | CallContext | None, remote_service: str, start_ns: int | None = None
    ) -> NonRecordingSpan:
        return self.server(name, parent=parent, start_ns=start_ns)


class NonRecordingSpan:
    """In a `Span`'s place: has a context and a carrier, forgets everything else, and finishes as no span at all."""

    def __init__(self, clock: Callable[[], int], parent: SpanContext | None, start_ns: int | None) -> None:
        self._clock = clock
        self.start_ns = clock() if start_ns is None else start_ns
        trace_id = _IDS.generate_trace_id() if parent is None else parent.trace_id
        self.context = SpanContext(trace_id, _IDS.generate_span_id(), is_remote=False, trace_flags=TraceFlags(0))
        self.trace_id = f"{trace_id:032x}"

    def tag(self, key: str, value: Any) -> None:
        pass

    def tags(self, tags: dict[str, Any] | None = None, /, **more: Any) -> None:
        pass

    def annotate(self, text: str, at_ns: int | None = None) -> None:
        pass

    def fail(self, error_type: str, message: str = "", status: int | None = None) -> None:
        pass

    def child(self, name: str, start_ns: int, end_ns: int, tags: dict[str, Any] | None = None) -> None:
        pass

    def carrier(self, deadline_ns: int) -> CallContext:
        return CallContext(f"00-{self.trace_id}-{self.context.span_id:016x}-00", self._clock(), deadline_ns)

    def preview(self) -> None:
        return None

    def records(self, end_ns: int | None = None) -> list[FinishedSpan]:
        return []

    def finish(self, end_ns: int | None = None) -> list[dict]:
        return []
