"""One request on its way through the graph: its root span, its deadline, and the stages' spans so far.

It lives in the ingress alone, which is the only service that knows when a request is over.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from access.authentication import Principal
from deployments.ingress.continuity import Continuity
from deployments.ingress.writing_pace import WritingPace
from deployments.span_errors import record_error
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

MOST_GAPS = 8  #: of a stream that have an annotation; `stream.underrun_ms` counts all


@dataclass(frozen=True)
class StageProgress:
    """Tells that a stage's work for a request has begun, or that it took `ms`. Pieces count from 1."""

    stage: str
    service: str
    piece: int
    pieces: int
    ms: float | None = None


@dataclass(frozen=True)
class FitProgress:
    """Tells how far the fit is that a request waits for."""

    state: str  #: queued, running, done, kept_steered, failed
    step: int
    steps: int  #: at most; 0 until it has begun


class RequestContext:
    """Holds everything the ingress knows of one request.

    Args:
        tracer: makes spans in the name of stages that could not report.
        root: the started SERVER span.
        deadline_s: seconds from `started_ns` to the answer.
        started_ns: when the request arrived, ns since the epoch.
        incoming: what the headers said of tracing.
        caller: the principal who sent the request.
        latest_ns: the latest deadline that it may ever have, ns since the epoch; None knows no bound.
    """

    def __init__(
        self,
        tracer: Tracer | NoOpTracer,
        root: Span | NonRecordingSpan,
        deadline_s: float,
        started_ns: int,
        incoming: Incoming = Incoming(),
        caller: Principal = Principal(),
        latest_ns: int | None = None,
    ) -> None:
        self._tracer = tracer
        self.root = root
        self.started_ns = started_ns
        self.came_ns = started_ns  #: when the client asked for it; of a subrequest, when its parent came
        self.incoming = incoming
        self.caller = caller
        self._latest_ns = latest_ns
        self.deadline_ns = self._deadline_after(deadline_s)
        self._usual_ns = int(deadline_s * 1e9)
        self.due_ns: int | None = None  #: when a listener needs what is made next, ns since the epoch; for the queues
        self.error: SpeechError | None = None
        self.streaming = False  #: its answer is sent while it is made
        self.broken_off = False  #: its answer has begun and will not be finished
        self.abandoned = False  #: a piece of it has failed, and the other pieces are given up for that
        self.cancelled = False  #: the client has broken it off in a session that goes on: no error
        self.paced_by_text = False  #: its text came while it was spoken, so its duration is the writer's
        self.writing: WritingPace | None = None  #: how fast that text comes
        self.has_subrequests = False  #: the requests that came in it count in the metrics, and it does not
        self.kept: bool | None = None  #: of a subrequest that has ended: its trace was kept
        self.wants_primary = False  #: it goes to the primary backend, whichever is in use
        #: called at every stage's start and end, and while the request waits for a fit
        self.on_progress: Callable[[StageProgress | FitProgress], None] | None = None
        #: tells Serve's proxy of another deadline
        self.on_deadline: Callable[[float], Awaitable[None]] | None = None
        # For metrics, which also tell of requests whose spans record nothing:
        self.route: str | None = None
        self.takes_chunks = True  #: the client's HTTP version has answers of unknown length
        self.voice_fit: str | None = None  #: of a stored voice, where the engine fits voices: fitted or steered
        self.on_fallback = False  #: it goes to the fallback backend
        self.dialect: str | None = None  #: the registry's tag
        self.mode: str | None = None
        self.first_piece_s = 0.0  #: when the first piece of a text was known that came bit by bit, after `started_ns`
        self.audio_s = 0.0  #: seconds of speech made so far
        self.first_audio_s: float | None = None  #: a stream's, after `started_ns`
        self.continuity = Continuity(on_gap=self._annotate_gap)  #: fed where a stream's audio is sent
        self._stage_spans: list[FinishedSpan] = []

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hex digits."""
        return self.root.trace_id

    @property
    def elapsed_s(self) -> float:
        """Seconds since the request arrived."""
        return max(0.0, (time.time_ns() - self.started_ns) / 1e9)

    def note_first_audio(self) -> None:
        """Note, the first time, that audio is there. Of a text that comes bit by bit it counts from the first piece."""
        if self.first_audio_s is None:
            self.root.annotate(vocabulary.FIRST_CHUNK)
            self.first_audio_s = self.elapsed_s - self.first_piece_s

    def remaining_s(self) -> float:
        """Return the seconds until the deadline; negative once it has passed."""
        return (self.deadline_ns - time.time_ns()) / 1e9

    @property
    def usual_due_ns(self) -> int:
        """When a request is due that says nothing else: at once, or as much later as it may take longer than usual."""
        return self.deadline_ns - self._usual_ns

    async def extend_deadline(self, deadline_s: float) -> None:
        """Set another deadline, in seconds from the request's start, and tell Serve's proxy of it."""
        self.deadline_ns = self._deadline_after(deadline_s)
        if self.on_deadline is not None:
            await self.on_deadline(deadline_s)

    def _deadline_after(self, deadline_s: float) -> int:
        deadline_ns = self.started_ns + int(deadline_s * 1e9)
        return deadline_ns if self._latest_ns is None else min(deadline_ns, self._latest_ns)

    def call_context(self, due_ns: int | None = None) -> CallContext:
        """Return the context for a call to a stage that is made now.

        Args:
            due_ns: when a listener needs the result, ns since the epoch; None: when the request is due.
        """
        due_ns = self.due_ns if due_ns is None else due_ns
        if due_ns is None:
            due_ns = self.usual_due_ns
        return replace(self.root.call_context(self.deadline_ns), due_ns=due_ns)

    def outgoing_headers(self) -> dict[str, str]:
        """Return headers for an HTTP call on this request's behalf: B3 in both forms, and `traceparent`.

        An untrusted caller's "sampled" is not passed on: here it would be our word.
        """
        decision = self.incoming.sampling_state
        binding = decision is SamplingState.DENY or self.caller.trusted
        return inject(self.root.context, decision if binding else SamplingState.DEFER)

    @property
    def stage_spans(self) -> list[FinishedSpan]:
        """The stages' spans so far, in the order in which they came in."""
        return self._stage_spans

    def add_spans(self, spans: list[FinishedSpan]) -> None:
        """Take the spans of a stage's reply."""
        self._stage_spans.extend(spans)

    def record_lost_stage(
        self, stage: str, service: str, started_ns: int, error_type: str, message: str, node: str | None = None
    ) -> None:
        """Speak for a stage that could not report: add a CLIENT span with the error, in its name.

        Args:
            stage: the span's name.
            service: the stage's service.
            started_ns: when it was called.
            error_type: the error's type.
            message: one of `trace_error_messages`.
            node: the id of the node that its replica is on, where that is known.
        """
        span = self._tracer.client(stage, parent=self.root.context, remote_service=service, start_ns=started_ns)
        if self.cancelled:
            span.tag(vocabulary.UTTERANCE_CANCELLED, "true")
        else:
            span.fail(error_type, message)
        span.tag(vocabulary.ERROR_NODE, node)
        self._stage_spans.extend(span.end())

    @contextmanager
    def progress(self, stage: str, service: str, piece: int = 1, pieces: int = 1) -> Iterator[None]:
        """Report the start and the end of a stage's work to `on_progress`."""
        if self.on_progress is None:
            yield
            return
        started, event = time.monotonic(), StageProgress(stage, service, piece, pieces)
        self.on_progress(event)
        yield
        self.on_progress(replace(event, ms=round((time.monotonic() - started) * 1000, 1)))

    def _annotate_gap(self, ago_s: float) -> None:
        if self.continuity.gaps <= MOST_GAPS:
            self.root.annotate(vocabulary.GAP_BEGAN, at_ns=time.time_ns() - int(ago_s * 1e9))

    def _end_stream(self) -> None:
        stream = self.continuity
        stream.end(whole=self.error is None)
        if stream.started:
            self.root.tags(
                {
                    vocabulary.STREAM_CONTINUOUS: "true" if stream.continuous else "false",
                    vocabulary.STREAM_UNDERRUN_MS: round(stream.underrun_s * 1000, 1),
                    vocabulary.STREAM_SECONDS: round(stream.seconds, 3),
                }
            )

    def segment(self, number: int, count: int, due_ns: int | None = None) -> SegmentContext:
        """Return the context of one of this request's `count` pieces, counted from 1.

        Args:
            number: the piece's.
            count: of all pieces; 0: more may come.
            due_ns: when its listener needs it, ns since the epoch; None: when the request is due.
        """
        return SegmentContext(self, number, count, due_ns)

    def finish(self, status: int) -> list[FinishedSpan]:
        """Return the whole trace, root first. Call it once; spans that come in afterwards are lost.

        Args:
            status: the HTTP status as the client saw it. Of an answer that broke off, that is not the error's.
        """
        if self.error is not None:
            record_error(self.root, self.error)
        self._end_stream()
        self.root.tag(vocabulary.HTTP_STATUS_CODE, str(status))
        return [*self.root.end(), *self._stage_spans]


class SegmentContext:
    """A request as the stages see it while they work for one of its pieces: its spans say which piece they are for."""

    def __init__(self, request: RequestContext, number: int, count: int, due_ns: int | None = None) -> None:
        self._request, self._number, self._count, self._due_ns = request, number, count, due_ns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    def call_context(self) -> CallContext:
        """Return the context for a call to a stage that is made now, due when the piece is."""
        return self._request.call_context(self._due_ns)

    @contextmanager
    def progress(self, stage: str, service: str) -> Iterator[None]:
        """Report the start and the end of a stage's work for this piece."""
        with self._request.progress(stage, service, self._number, self._count):
            yield

    def add_spans(self, spans: list[FinishedSpan]) -> None:
        """Take the spans of a stage's reply and tag them with the piece."""
        self._request.add_spans([self._tagged(span) for span in spans])

    def record_lost_stage(
        self, stage: str, service: str, started_ns: int, error_type: str, message: str, node: str | None = None
    ) -> None:
        """Speak for a stage that could not report, as `RequestContext` does, and tag the span with the piece."""
        spans = self._request.stage_spans
        count = len(spans)
        self._request.record_lost_stage(stage, service, started_ns, error_type, message, node)
        spans[count:] = [self._tagged(span) for span in spans[count:]]

    def _tagged(self, span: FinishedSpan) -> FinishedSpan:
        if span.kind is None or self._count == 1:  # a stage's phases are below it
            return span
        return span.with_tags({vocabulary.PIECE: self._number})


StageContext = RequestContext | SegmentContext  #: what a stage's client needs
