"""The context of one call from the ingress to a stage: the parent span, the time sent, the deadline.

It holds plain strings and integers, so it pickles small and needs nothing of OpenTelemetry on the way. Times are wall
clock nanoseconds since the epoch, because sender and receiver are different processes, perhaps on different machines.
The sender says how far the receivers' clocks are from its own, where it has measured that. Queue wait and deadline are
as exact as that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from opentelemetry.trace import SpanContext, TraceFlags


@dataclass(frozen=True, slots=True)
class CallContext:
    """The trace context of one call.

    Attributes:
        traceparent: The caller's span, `00-<trace id>-<span id>-01`. The flag is `-00` if nothing is recorded.
        sent_ns: When the call was made.
        deadline_ns: When its answer is of no use any more.
        offsets_ns: Node ids, each with how far that node's clock is ahead of the sender's; only those worth telling.
        due_ns: When its answer is needed: the order in which a queue takes calls. None: the deadline is the order.
    """

    traceparent: str
    sent_ns: int
    deadline_ns: int
    offsets_ns: tuple[tuple[str, int], ...] = ()
    due_ns: int | None = None

    @property
    def order_ns(self) -> int:
        """The moment by which queues order calls, the nearest first."""
        return self.deadline_ns if self.due_ns is None else self.due_ns

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

    def on_clock_of(self, node: str) -> CallContext:
        """Return the same call with its times as the clock of the receiver's node tells them."""
        offset = dict(self.offsets_ns).get(node)
        if offset is None:
            return self
        due_ns = None if self.due_ns is None else self.due_ns + offset
        return replace(
            self, sent_ns=self.sent_ns + offset, deadline_ns=self.deadline_ns + offset, offsets_ns=(), due_ns=due_ns
        )

    def resent(self, clock: Callable[[], int] = time.time_ns) -> CallContext:
        """Return the context of the same call, made again now: a new time sent, the old deadline."""
        return replace(self, sent_ns=clock())
