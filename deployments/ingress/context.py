"""One request on its way through the graph: its root span, its deadline, the spans that have come in so far.

Lives in the ingress alone, which is the only one that knows when a request is over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from access.authentication import Principal
from speech.errors import SpeechError
from tracing import (
    CallContext,
    FinishedSpan,
    Incoming,
    NonRecordingSpan,
    NoOpTracer,
    SamplingState,
    Span,
    Tracer,
    inject,
    vocabulary,
)


def record(error: SpeechError, span: Span | NonRecordingSpan) -> None:
    """An error as its span tells it: type, finer code, status, and the message, which is always our own words."""
    span.fail(error.type, error.message, error.status)
    span.tag(vocabulary.ERROR_CODE, error.code)


@dataclass(frozen=True)
class StageProgress:
    """A stage's work for a request has begun, or is done after `ms`. Pieces count from 1."""

    stage: str
    service: str
    piece: int
    pieces: int
    ms: float | None = None


class RequestContext:
    """Args: `root` the started SERVER span, `deadline_s` from its start, `incoming` what the headers said of tracing,
    `caller` who sent them."""

    def __init__(
        self,
        tracer: Tracer | NoOpTracer,
        root: Span | NonRecordingSpan,
        deadline_s: float,
        started_ns: int,
        incoming: Incoming = Incoming(),
        caller: Principal = Principal(),
    ) -> None:
        self._tracer = tracer
        self.root = root
        self.started_ns = started_ns
        self.incoming = incoming
        self.caller = caller
        self.deadline_ns = started_ns + int(deadline_s * 1e9)
        self.error: SpeechError | None = None
        self.streaming = False  #: its answer is sent while it is made
        self.broken_off = False  #: its answer has begun and will not be finished
        self.abandoned = False  #: a part of it has failed, and the others are given up for that
        self.wants_primary = False  #: it is to go on the primary line, whichever is in use
        self.listener: Callable[[StageProgress], None] | None = None  #: hears of every stage's beginning and end
        # For metrics, which also tell of requests whose spans record nothing:
        self.route: str | None = None
        self.fallback = False  #: it goes on the fallback engine's line
        self.dialect: str | None = None  #: the registry's tag
        self.mode: str | None = None
        self.audio_s = 0.0  #: of speech, made so far
        self.first_audio_s: float | None = None  #: a stream's, after `started_ns`
        self._records: list[FinishedSpan] = []

    @property
    def trace_id(self) -> str:
        return self.root.trace_id

    @property
    def seconds(self) -> float:
        """Since it began."""
        return max(0.0, (time.time_ns() - self.started_ns) / 1e9)

    def remaining_s(self) -> float:
        return (self.deadline_ns - time.time_ns()) / 1e9

    def carrier(self) -> CallContext:
        """Fresh for every call: it holds the time of sending."""
        return self.root.carrier(self.deadline_ns)

    def headers(self) -> dict[str, str]:
        """For an HTTP call made on this request's behalf: B3 in both forms, and `traceparent`.

        An untrusted caller's "sampled" is not handed on: here it would be our word.
        """
        decision = self.incoming.decision
        binding = decision is SamplingState.DENY or self.caller.trusted
        return inject(self.root.context, decision if binding else SamplingState.DEFER)

    def collect(self, records: list[FinishedSpan]) -> None:
        self._records.extend(records)

    @contextmanager
    def watching(self, stage: str, service: str, piece: int = 1, pieces: int = 1) -> Iterator[None]:
        """Around a stage's work, for who listens."""
        if self.listener is None:
            yield
            return
        started, progress = time.monotonic(), StageProgress(stage, service, piece, pieces)
        self.listener(progress)
        yield
        self.listener(replace(progress, ms=round((time.monotonic() - started) * 1000, 1)))

    def piece(self, number: int, count: int) -> SegmentContext:
        return SegmentContext(self, number, count)

    @property
    def records(self) -> list[FinishedSpan]:
        """The stages' spans so far, in the order in which they came in."""
        return self._records

    def lost(self, stage: str, service: str, started_ns: int, error_type: str, message: str) -> None:
        """Speak for a stage that cannot: a CLIENT span with the error, in its name."""
        span = self._tracer.client(stage, parent=self.root.context, remote_service=service, start_ns=started_ns)
        span.fail(error_type, message)
        self._records.extend(span.records())

    def extend(self, deadline_s: float) -> None:
        """Another deadline, from the request's start."""
        self.deadline_ns = self.started_ns + int(deadline_s * 1e9)

    def finish(self, status: int) -> list[FinishedSpan]:
        """The whole trace, root first. Call once; what comes in afterwards belongs to nobody.

        `status`: as the client saw it. Of an answer that broke off, that is not the error's.
        """
        if self.error is not None:
            record(self.error, self.root)
        self.root.tag(vocabulary.HTTP_STATUS_CODE, str(status))
        return [*self.root.records(), *self._records]


class SegmentContext:
    """A request as the stages see it while they work for one of its pieces: a run whose spans say which piece it is."""

    def __init__(self, run: RequestContext, number: int, count: int) -> None:
        self._run, self._number, self._count = run, number, count

    def __getattr__(self, name: str):
        return getattr(self._run, name)

    def watching(self, stage: str, service: str):
        return self._run.watching(stage, service, self._number, self._count)

    def collect(self, records: list[FinishedSpan]) -> None:
        self._run.collect([self._numbered(record) for record in records])

    def lost(self, *args, **kwargs) -> None:
        before = len(self._run.records)
        self._run.lost(*args, **kwargs)
        self._run.records[before:] = [self._numbered(record) for record in self._run.records[before:]]

    def _numbered(self, record: FinishedSpan) -> FinishedSpan:
        if record.kind is None or self._count == 1:  # a stage's phases are below it
            return record
        return record.tagged({vocabulary.PIECE: self._number})
