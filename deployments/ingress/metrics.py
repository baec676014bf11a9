"""Has every metric of requests, fed from one place: the tracing middleware, at each request's end (`Metrics.record`).

All requests count here, whatever becomes of their traces. They go Ray's way: `ray.serve.metrics` adds the labels of
deployment, application and replica, and Ray's agent shows them to Prometheus, with `ray_` in front (docs/metrics.md).
A request's stages are measured by their spans. A request that was made while tracing is switched off has none, and only
its own figures count.

Labels have closed lists of values, and no caller's text is among them. No failure in here reaches a request.

The agent rebuilds each histogram from its buckets' middles: counts by bucket are exact, sums are not. So quantiles and
shares are to be read from the buckets, and there is an edge at every threshold of a rule or a goal.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from deployments.ingress.context import RequestContext
from deployments.safe_traceback import safe_traceback
from speech import errors
from speech.dialects import Registry
from tracing import FinishedSpan, vocabulary
from tracing.exporter import DESTINATIONS

log = logging.getLogger("ray.serve")

NONE = "none"  #: in place of a label that a request has no value for
ADMISSION = "ADMISSION"  #: waiting to be let into the graph, in a row with the stages' waits
PROXY = "PROXY"  #: waiting in Serve's proxy for an ingress replica
MODES = ("fast", "instruct")

#: `refused`: the caller must fix it (4xx). `failed`: we must (5xx, also after an answer has begun). `cancelled`: the
#: client left. `lost`, of a stage alone: its replica died, hung or was out of reach.
OK, REFUSED, FAILED, CANCELLED, LOST = "ok", "refused", "failed", "cancelled", "lost"

# Edges in seconds but for the last two. 10 s is the alert's and `slow`'s, 0.15 s the goal for a stream's first sound.
REQUEST_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 600.0)
STAGE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
WAIT_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
FIRST_AUDIO_S = (0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
UNDERRUN_S = (0.001, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # up to 0.001: none
REAL_TIME = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)  # 0.1 on a GPU and 0.35 on a CPU are the goals
# Small sizes have narrow buckets of their own: the median of batches of 1 is then 1 and not 0.5.
BATCH = (0.9, 1.0, 1.9, 2.0, 2.9, 3.0, 3.9, 4.0, 6.0, 7.9, 8.0, 12.0, 15.9, 16.0, 32.0, 64.0)

#: The exporter's counters (`Exporter.counters`) that say a kept trace, or a part of one, never left: for any place, and
#: for one place alone (`Exporter.destinations`).
LOSSES = ("closed", "no_destination", "empty")
LOSSES_OF_ONE = ("spool_full", "queue_full", "poison", "spans_rejected", "spool_damaged")
#: What ends a WebSocket session: its client, closing it or gone; one of our limits; or the end of this replica. `full`:
#: the replica had all the sessions that it may have. Whatever else refuses one is the caller's to mend.
SESSION_ENDS = ("closed", "left", "idle", "stalled", "too_long", "full", "refused", "misused", "draining", "failed")
EVERY_S = 5.0  #: between polls of what is counted elsewhere


class Instrument(Protocol):
    """A metric of `ray.serve.metrics`: a Histogram has `observe`, a Counter `inc`, a Gauge `set`."""

    def observe(self, value: float, tags: dict[str, str]) -> None: ...

    def inc(self, value: float, tags: dict[str, str]) -> None: ...

    def set(self, value: float, tags: dict[str, str]) -> None: ...


class Metrics:
    """The metrics of one ingress replica.

    Args:
        registry: the dialects whose tags may be labels.
        kinds: a module with Histogram, Counter and Gauge; by default `ray.serve.metrics`.
    """

    def __init__(self, registry: Registry, kinds: Any = None) -> None:
        if kinds is None:
            from ray.serve import metrics as kinds
        request = ("route", "dialect", "mode", "outcome")
        self._dialects = frozenset(dialect.tag for dialect in registry)
        self._request_s = kinds.Histogram(
            "cosygraph_request_seconds", "From arrival to the end of the answer", REQUEST_S, request
        )
        self._requests = kinds.Counter("cosygraph_requests", "Requests that have ended", (*request, "error_type"))
        self._stage_s = kinds.Histogram(
            "cosygraph_stage_seconds", "A stage's work for one request or piece", STAGE_S, ("stage", "outcome")
        )
        self._queue_s = kinds.Histogram(
            "cosygraph_queue_wait_seconds",
            "On the way to a replica; of ADMISSION: to be let in; of PROXY: to the ingress",
            WAIT_S,
            ("stage",),
        )
        self._batch_wait_s = kinds.Histogram(
            "cosygraph_batch_wait_seconds", "Waiting for the device", WAIT_S, ("stage",)
        )
        self._batch_size = kinds.Histogram(
            "cosygraph_batch_size", "Members of the batch that a request was computed in", BATCH, ("stage",)
        )
        self._real_time = kinds.Histogram(
            "cosygraph_real_time_factor", "Seconds a good request took for a second of speech", REAL_TIME, ("answer",)
        )
        self._first_audio_s = kinds.Histogram(
            "cosygraph_first_audio_seconds", "From arrival to a stream's first audio", FIRST_AUDIO_S, ("dialect",)
        )
        self._streams = kinds.Counter(
            "cosygraph_streams",
            "Streams with audio, by whether their listeners never ran dry",
            ("continuous", "dialect"),
        )
        self._underrun_s = kinds.Histogram(
            "cosygraph_stream_underrun_seconds",
            "Silence in a stream that its listener ran into",
            UNDERRUN_S,
            ("dialect",),
        )
        self._voices = kinds.Counter(
            "cosygraph_voice_cache", "Requests by whether the ingress knew their voice", ("result",)
        )
        self._fallback = kinds.Counter(
            "cosygraph_fallback_requests", "Requests that went to the fallback engine", ("outcome",)
        )
        self._spans = kinds.Counter("cosygraph_spans", "Spans by what became of them", ("fate",))
        self._untraced = kinds.Counter("cosygraph_untraced_requests", "Requests made while tracing was off", ())
        self._lost = kinds.Counter(
            "cosygraph_traces_lost", "Kept traces that never reached a destination", ("cause", "destination")
        )
        self._sending_failed = kinds.Counter(
            "cosygraph_trace_sending_failures", "Attempts that failed", ("destination",)
        )
        self._waiting = kinds.Gauge("cosygraph_traces_waiting", "Kept traces not sent yet", ("destination",))
        self._in_flight = kinds.Gauge("cosygraph_requests_in_flight", "Inside the graph", ())
        self._queued = kinds.Gauge("cosygraph_requests_waiting", "Waiting to be let into the graph", ())
        self._sessions_open = kinds.Gauge("cosygraph_sessions_open", "WebSocket sessions", ())
        self._sessions = kinds.Counter(
            "cosygraph_sessions", "WebSocket sessions that have ended, by what ended them", ("reason",)
        )
        self._gpu = kinds.Gauge("cosygraph_gpu_utilization", "Percent, as a stage's replica last said", ("stage",))
        self.on = True  #: False: nothing is recorded
        self._counted: dict[str, int] = {}
        self._polling: asyncio.Task[None] | None = None
        self._failures = 0

    def record(self, ctx: RequestContext, spans: list[FinishedSpan], status: int, kept: bool) -> None:
        """Record a request that has ended.

        Args:
            ctx: the request.
            spans: its whole trace, the root first; empty if tracing was off.
            status: the HTTP status.
            kept: whether the trace was kept.
        """
        if not self.on:
            return
        try:
            self._record_request(ctx, status)
            if spans:
                self._record_spans(spans, kept)
            else:
                self._untraced.inc(1, {})
        except Exception as error:
            self._failed(error)

    def _record_request(self, ctx: RequestContext, status: int) -> None:
        error_type, outcome = _outcome(ctx.error, status)
        if ctx.cancelled and outcome == OK:
            outcome = CANCELLED
        seconds = ctx.elapsed_s
        labels = {
            "route": ctx.route or NONE,
            "outcome": outcome,
            "dialect": ctx.dialect if ctx.dialect in self._dialects else NONE,
            "mode": ctx.mode if ctx.mode in MODES else NONE,
        }
        if not ctx.paced_by_text:  # else its duration is the writer's, and no alert's business
            self._request_s.observe(seconds, labels)
        self._requests.inc(1, {**labels, "error_type": error_type})
        if ctx.on_fallback:
            self._fallback.inc(1, {"outcome": outcome})
        if ctx.first_audio_s is not None:
            self._first_audio_s.observe(ctx.first_audio_s, {"dialect": labels["dialect"]})
        if ctx.continuity.started:
            dialect = {"dialect": labels["dialect"]}
            self._streams.inc(1, {"continuous": "true" if ctx.continuity.continuous else "false", **dialect})
            self._underrun_s.observe(ctx.continuity.underrun_s, dialect)
        if outcome == OK and ctx.audio_s and not ctx.paced_by_text:
            self._real_time.observe(seconds / ctx.audio_s, {"answer": "stream" if ctx.streaming else "whole"})

    def _record_spans(self, spans: list[FinishedSpan], kept: bool) -> None:
        self._spans.inc(len(spans), {"fate": "kept" if kept else "dropped"})
        root = spans[0].tags
        if (cache := root.get(vocabulary.VOICE_CACHE)) in _CACHE:
            self._voices.inc(1, {"result": cache})
        self._observe_wait(self._queue_s, root.get(vocabulary.PROXY_WAIT_MS), {"stage": PROXY})
        self._observe_wait(self._queue_s, root.get(vocabulary.QUEUE_WAIT_MS), {"stage": ADMISSION})
        for span in spans:
            if span.kind is not None and span.name in vocabulary.STAGE_SERVICE:
                self._record_stage(span)

    def _record_stage(self, span: FinishedSpan) -> None:
        tags, stage = span.tags, {"stage": span.name}
        self._stage_s.observe(span.seconds, {"stage": span.name, "outcome": _stage_outcome(span)})
        self._observe_wait(self._queue_s, tags.get(vocabulary.QUEUE_WAIT_MS), stage)
        self._observe_wait(self._batch_wait_s, tags.get(vocabulary.BATCH_WAIT_MS), stage)
        if (size := tags.get(vocabulary.BATCH_SIZE)) is not None:
            self._batch_size.observe(float(size), stage)
        if (load := tags.get(vocabulary.GPU_UTILIZATION)) is not None:
            self._gpu.set(float(load), stage)

    @staticmethod
    def _observe_wait(histogram: Instrument, ms: float | str | None, labels: dict[str, str]) -> None:
        if ms is not None:
            histogram.observe(float(ms) / 1000, labels)

    def watch(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Poll counters every few seconds on the running event loop.

        Args:
            counters: returns `Exporter.counters` below `export_`, `Exporter.destinations` below `export_<name>_`,
                `in_flight`, `waiting`, and `Sessions.counters`.
        """

        async def poll() -> None:
            while True:
                self.poll(counters)
                await asyncio.sleep(EVERY_S)

        # In a fresh context: Serve cancels what shares a cancelled request's.
        self._polling = asyncio.get_running_loop().create_task(poll(), context=contextvars.Context())

    def poll(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Read the counters once and record how they have changed."""
        if not self.on:
            return
        try:
            now = counters()
            self._in_flight.set(now["in_flight"], {})
            self._queued.set(now["waiting"], {})
            self._sessions_open.set(now.get("sessions_open", 0), {})
            for reason in SESSION_ENDS:
                self._increase(self._sessions, now, f"sessions_ended_{reason}", {"reason": reason})
            for cause in LOSSES:
                self._increase(self._lost, now, f"export_dropped_{cause}", {"cause": cause, "destination": NONE})
            for name in DESTINATIONS:
                if f"export_{name}_waiting" in now:
                    self._poll_destination(now, name)
        except Exception as error:
            self._failed(error)

    def _poll_destination(self, now: Mapping[str, int], name: str) -> None:
        own = {"destination": name}
        self._waiting.set(now[f"export_{name}_waiting"], own)
        self._increase(self._sending_failed, now, f"export_{name}_failed_batches", own)
        for cause in LOSSES_OF_ONE:
            self._increase(self._lost, now, f"export_{name}_dropped_{cause}", {"cause": cause, **own})

    def _increase(self, counter: Instrument, now: Mapping[str, int], name: str, labels: dict[str, str]) -> None:
        count = now.get(name, 0)
        if count > self._counted.get(name, 0):
            counter.inc(count - self._counted.get(name, 0), labels)
        self._counted[name] = count

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            log.error("a metric could not be recorded, nor may others: %s", safe_traceback(error))


def _types(of: type[errors.SpeechError]) -> Iterable[str]:
    yield of.type
    for kind in of.__subclasses__():
        yield from _types(kind)


ERROR_TYPES = frozenset(_types(errors.SpeechError))
_CACHE = ("hit", "stored", "miss")
_REFUSED = frozenset(
    {
        "input_validation",
        "unsupported_dialect",
        "not_authorized",
        "rate_limited",
        "not_found",
        "method_not_allowed",
        "voice_not_found",
        "conflict",
    }
)


def _outcome(error: errors.SpeechError | None, status: int) -> tuple[str, str]:
    """Return (error type, outcome). The error's own status counts: a stream that broke off was answered with 200."""
    if error is None:
        return NONE, OK if status < 400 else REFUSED if status < 500 else FAILED
    kind = error.type if error.type in ERROR_TYPES else NONE
    if isinstance(error, errors.Cancelled):
        return kind, CANCELLED
    return kind, REFUSED if error.status < 500 else FAILED


def _stage_outcome(span: FinishedSpan) -> str:
    kind = span.tags.get(vocabulary.ERROR_TYPE)
    if kind is None:
        return OK
    if kind == errors.Cancelled.type:
        return CANCELLED
    if span.kind == "CLIENT":  # the ingress speaks for it
        return LOST
    return REFUSED if kind in _REFUSED else FAILED
