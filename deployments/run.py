"""One request on its way through the graph: its root span, its deadline, the spans that have come in so far.

Lives in the ingress alone, which is the only one that knows when a request is over.
"""

from __future__ import annotations

import time

from deployments.callers import Caller
from speech.errors import SpeechError
from tracing import Carrier, Decision, Incoming, Record, SilentSpan, SilentTracer, Span, Tracer, inject, vocabulary


def record(error: SpeechError, span: Span | SilentSpan) -> None:
    """An error as its span tells it: type, finer code, status, and the message, which is always our own words."""
    span.fail(error.type, error.message, error.status)
    span.tag(vocabulary.ERROR_CODE, error.code)


class Run:
    """Args: `root` the started SERVER span, `deadline_s` from its start, `incoming` what the headers said of tracing,
    `caller` who sent them."""

    def __init__(self, tracer: Tracer | SilentTracer, root: Span | SilentSpan, deadline_s: float, started_ns: int,
                 incoming: Incoming = Incoming(), caller: Caller = Caller()) -> None:
        self._tracer = tracer
        self.root = root
        self.started_ns = started_ns
        self.incoming = incoming
        self.caller = caller
        self.deadline_ns = started_ns + int(deadline_s * 1e9)
        self.error: SpeechError | None = None
        self._records: list[Record] = []

    @property
    def trace_id(self) -> str:
        return self.root.trace_id

    def remaining_s(self) -> float:
        return (self.deadline_ns - time.time_ns()) / 1e9

    def carrier(self) -> Carrier:
        """Fresh for every call: it holds the time of sending."""
        return self.root.carrier(self.deadline_ns)

    def headers(self) -> dict[str, str]:
        """For an HTTP call made on this request's behalf: B3 in both forms, and `traceparent`.

        An untrusted caller's "sampled" is not handed on: here it would be our word.
        """
        decision = self.incoming.decision
        binding = decision is Decision.DENY or self.caller.trusted
        return inject(self.root.context, decision if binding else Decision.DEFER)

    def collect(self, records: list[Record]) -> None:
        self._records.extend(records)

    def lost(self, stage: str, service: str, started_ns: int, error_type: str, message: str) -> None:
        """Speak for a stage that cannot: a CLIENT span with the error, in its name."""
        span = self._tracer.client(stage, parent=self.root.context, remote_service=service, start_ns=started_ns)
        span.fail(error_type, message)
        self._records.extend(span.records())

    def finish(self) -> list[Record]:
        """The whole trace, root first. Call once; what comes in afterwards belongs to nobody."""
        if self.error is not None:
            record(self.error, self.root)
        return [*self.root.records(), *self._records]
