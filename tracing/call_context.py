"""The context of one call from the ingress to a stage: the parent span, the time sent, the deadline.

It holds plain strings and integers, so it pickles small and needs nothing of OpenTelemetry on the way. Times are wall
clock nanoseconds since the epoch, because sender and receiver are different processes, perhaps on different machines.
Queue wait and deadline are therefore as exact as the clocks of those machines agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from opentelemetry.trace import SpanContext, TraceFlags


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call's trace context.

    Attributes:
        traceparent: The caller's span, `00-<trace id>-<span id>-01`. The flag is `-00` if nothing is recorded.
        sent_ns: When the call was made.
        deadline_ns: When its answer is of no use any more.
    """

    traceparent: str
    sent_ns: int
    deadline_ns: int

    @property
    def recording(self) -> bool:
        """True if the caller collects the spans of this call."""
        return not self.traceparent.endswith("-00")

    @property
    def parent(self) -> SpanContext:
        """The caller's span as an OpenTelemetry SpanContext."""
        _, trace_id, span_id, _ = self.traceparent.split("-")
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(1))

    def waited_ms(self, clock: Callable[[], int] = time.time_ns) -> float:
        """Milliseconds since the call was sent. Never negative, whatever the clocks of two machines say."""
        return max(0, clock() - self.sent_ns) / 1e6

    def remaining_s(self, clock: Callable[[], int] = time.time_ns) -> float:
        """Seconds until the deadline. Negative once it has passed."""
        return (self.deadline_ns - clock()) / 1e9

    def resent(self, clock: Callable[[], int] = time.time_ns) -> CallContext:
        """Return the context of the same call, made again now: a new time sent, the old deadline."""
        return replace(self, sent_ns=clock())
