"""What travels with every call from the ingress to a stage: the parent span, when it was sent, and until when.

Plain strings and integers, so that it pickles small and needs nothing of OpenTelemetry on the way. Times are wall
clock nanoseconds since the epoch, because sender and receiver are different processes, maybe on different machines:
`queue wait` and the deadline are as exact as those machines' clocks agree.
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
        traceparent: `00-<trace id>-<span id>-01`, the caller's span; `-00` where nothing is recorded.
        sent_ns: when the call was made.
        deadline_ns: when its answer is of no use any more.
    """

    traceparent: str
    sent_ns: int
    deadline_ns: int

    @property
    def recording(self) -> bool:
        """Whether the spans of this call are wanted."""
        return not self.traceparent.endswith("-00")

    @property
    def parent(self) -> SpanContext:
        """The caller's span as OpenTelemetry wants it."""
        _, trace_id, span_id, _ = self.traceparent.split("-")
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(1))

    def waited_ms(self, clock: Callable[[], int] = time.time_ns) -> float:
        """Milliseconds since it was sent; never negative, whatever two machines' clocks say."""
        return max(0, clock() - self.sent_ns) / 1e6

    def remaining_s(self, clock: Callable[[], int] = time.time_ns) -> float:
        """Seconds until the deadline; negative once it has passed."""
        return (self.deadline_ns - clock()) / 1e9

    def resent(self, clock: Callable[[], int] = time.time_ns) -> CallContext:
        """The same call made again now: new send time, old deadline."""
        return replace(self, sent_ns=clock())
