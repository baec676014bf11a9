"""Spans that record nothing, for requests made while tracing is switched off.

They still have ids: an answer carries its trace id, log lines name it, and the flag `-00` of the call context tells
the stages that nothing collects their spans. OpenTelemetry's own `NonRecordingSpan` is not used, because it makes no
ids, and because it has OpenTelemetry's methods instead of `tracing.spans.Span`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import SpanContext, TraceFlags

from tracing.call_context import CallContext
from tracing.finished_span import FinishedSpan

_IDS = RandomIdGenerator()


class NoOpTracer:
    """Stands in for a `Tracer` and makes spans that record nothing.

    Args:
        clock: Nanoseconds since the epoch.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self.clock = clock

    def server(
        self, name: str, *, parent: SpanContext | CallContext | None, start_ns: int | None = None
    ) -> NonRecordingSpan:
        """As `Tracer.server`."""
        return NonRecordingSpan(self.clock, parent.parent if isinstance(parent, CallContext) else parent, start_ns)

    def client(
        self, name: str, *, parent: SpanContext | CallContext | None, remote_service: str, start_ns: int | None = None
    ) -> NonRecordingSpan:
        """As `Tracer.client`."""
        return self.server(name, parent=parent, start_ns=start_ns)


class NonRecordingSpan:
    """Stands in for a `Span`: it has a context, forgets everything else, and ends as no span at all."""

    def __init__(self, clock: Callable[[], int], parent: SpanContext | None, start_ns: int | None) -> None:
        self._clock = clock
        self.start_ns = clock() if start_ns is None else start_ns
        trace_id = _IDS.generate_trace_id() if parent is None else parent.trace_id
        self.context = SpanContext(trace_id, _IDS.generate_span_id(), is_remote=False, trace_flags=TraceFlags(0))
        self.trace_id = f"{trace_id:032x}"

    def tag(self, key: str, value: Any) -> None:
        """Do nothing."""

    def tags(self, tags: dict[str, Any] | None = None, /, **more: Any) -> None:
        """Do nothing."""

    def annotate(self, text: str, at_ns: int | None = None) -> None:
        """Do nothing."""

    def fail(self, error_type: str, message: str = "", status: int | None = None) -> None:
        """Do nothing."""

    def add_child(self, name: str, start_ns: int, end_ns: int, tags: Mapping[str, Any] | None = None) -> None:
        """Do nothing."""

    def call_context(self, deadline_ns: int) -> CallContext:
        """Return a context that tells the stage to record nothing either."""
        return CallContext(f"00-{self.trace_id}-{self.context.span_id:016x}-00", self._clock(), deadline_ns)

    def snapshot(self) -> None:
        """Return None: there is nothing to look at."""
        return None

    def end(self, end_ns: int | None = None) -> list[FinishedSpan]:
        """Return no spans."""
        return []
