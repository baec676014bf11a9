"""Every metric of requests, fed from one place: the gateway, at the end of each request (`Metrics.tell`).

All requests count here, whatever becomes of their traces. They go Ray's way: `ray.serve.metrics` adds which
deployment, application and replica spoke, Ray's agent shows them to Prometheus, with `ray_` in front
(docs/metrics.md). A request's stages are told by their spans; one that was made while tracing is switched off has none,
and only its own figures count.

Labels have closed lists of values, and nothing of a caller's is among them. No failure in here reaches a request.

The agent rebuilds each histogram from its buckets' middles: counts by bucket are exact, sums are not. So quantiles and
shares are to be read from the buckets, and there is an edge wherever a rule or a goal has its threshold.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from deployments.ingress.context import RequestContext
from deployments.safe_traceback import safe_traceback
from speech import errors
from speech.dialects import Registry
from tracing import FinishedSpan, vocabulary

log = logging.getLogger("ray.serve")

NONE = "none"  #: in place of a label that a request has no value for
ADMISSION = "ADMISSION"  #: waiting to be let into the graph, in a row with the stages' waits
MODES = ("fast", "instruct")

#: `refused` is the caller's to mend (4xx), `failed` ours (5xx, also after an answer has begun), `cancelled`: the client
#: left. `lost`, of a stage alone: its replica died, hung or was out of reach.
OK, REFUSED, FAILED, CANCELLED, LOST = "ok", "refused", "failed", "cancelled", "lost"

# Edges in seconds but for the last two. 10 s is the alert's and `slow`'s, 0.15 s the goal for a stream's first sound.
REQUEST_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 600.0)
STAGE_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
WAIT_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
FIRST_AUDIO_S = (0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
REAL_TIME = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0)  # 0.1 on a GPU and 0.35 on a CPU are the goals
# Small sizes have narrow buckets of their own: the median of batches of 1 is then 1 and not 0.5.
BATCH = (0.9, 1.0, 1.9, 2.0, 2.9, 3.0, 3.9, 4.0, 6.0, 7.9, 8.0, 12.0, 15.9, 16.0, 32.0, 64.0)

#: The exporter's counters (`Exporter.counters`) that say a kept trace, or a part of one, never reached Zipkin.
LOSSES = ("spool_full", "queue_full", "poison", "closed", "no_destination", "empty", "spans_rejected", "spool_damaged")
EVERY_S = 5.0  #: between looks at what is counted elsewhere


class Instrument(Protocol):
    """What `ray.serve.metrics` has of each kind: a Histogram's `observe`, a Counter's `inc`, a Gauge's `set`."""


class Metrics:
    """One ingress replica's. `registry`: the dialects whose tags may be labels. `kinds`: a module with Histogram,
    Counter and Gauge as `ray.serve.metrics` has them, which is the default."""

    def __init__(self, registry: Registry, kinds=None) -> None:
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
            "cosygraph_queue_wait_seconds", "On the way to a replica; of ADMISSION: to be let in", WAIT_S, ("stage",)
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
        self._voices = kinds.Counter(
            "cosygraph_voice_cache", "Requests by whether the ingress knew their voice", ("result",)
        )
        self._fallback = kinds.Counter(
            "cosygraph_fallback_requests", "Requests that went to the fallback engine", ("outcome",)
        )
        self._spans = kinds.Counter("cosygraph_spans", "Spans by what became of them", ("fate",))
        self._untraced = kinds.Counter("cosygraph_untraced_requests", "Requests made while tracing was off", ())
        self._lost = kinds.Counter("cosygraph_traces_lost", "Kept traces that never reached Zipkin", ("cause",))
        self._sending_failed = kinds.Counter("cosygraph_trace_sending_failures", "Attempts that failed", ())
        self._waiting = kinds.Gauge("cosygraph_traces_waiting", "Kept traces not sent yet", ())
        self._in_flight = kinds.Gauge("cosygraph_requests_in_flight", "Inside the graph", ())
        self._queued = kinds.Gauge("cosygraph_requests_waiting", "Waiting to be let into the graph", ())
        self._gpu = kinds.Gauge("cosygraph_gpu_utilization", "Percent, as a stage's replica last said", ("stage",))
        self.on = True  #: False: nothing is told
        self._seen: dict[str, int] = {}
        self._looking: asyncio.Task | None = None
        self._failures = 0

    def tell(self, run: RequestContext, records: list[FinishedSpan], status: int, kept: bool) -> None:
        """A request that has ended. `records`: its whole trace, the root first, or nothing; `kept`: what became of it."""
        if not self.on:
            return
        try:
            self._tell_request(run, status)
            if records:
                self._tell_spans(records, kept)
            else:
                self._untraced.inc(1, {})
        except Exception as error:
            self._failed(error)

    def _tell_request(self, run: RequestContext, status: int) -> None:
        error_type, outcome = _judged(run.error, status)
        seconds = run.seconds
        labels = {
            "route": run.route or NONE,
            "outcome": outcome,
            "dialect": run.dialect if run.dialect in self._dialects else NONE,
            "mode": run.mode if run.mode in MODES else NONE,
        }
        self._request_s.observe(seconds, labels)
        self._requests.inc(1, {**labels, "error_type": error_type})
        if run.fallback:
            self._fallback.inc(1, {"outcome": outcome})
        if run.first_audio_s is not None:
            self._first_audio_s.observe(run.first_audio_s, {"dialect": labels["dialect"]})
        if outcome == OK and run.audio_s:
            self._real_time.observe(seconds / run.audio_s, {"answer": "stream" if run.streaming else "whole"})

    def _tell_spans(self, records: list[FinishedSpan], kept: bool) -> None:
        self._spans.inc(len(records), {"fate": "kept" if kept else "dropped"})
        root = records[0].tags
        if (cache := root.get(vocabulary.VOICE_CACHE)) in _CACHE:
            self._voices.inc(1, {"result": cache})
        self._waited(self._queue_s, root.get(vocabulary.QUEUE_WAIT_MS), {"stage": ADMISSION})
        for record in records:
            if record.kind is not None and record.name in vocabulary.STAGE_SERVICE:
                self._tell_stage(record)

    def _tell_stage(self, record: FinishedSpan) -> None:
        tags, stage = record.tags, {"stage": record.name}
        self._stage_s.observe(record.seconds, {"stage": record.name, "outcome": _stage_outcome(record)})
        self._waited(self._queue_s, tags.get(vocabulary.QUEUE_WAIT_MS), stage)
        self._waited(self._batch_wait_s, tags.get(vocabulary.BATCH_WAIT_MS), stage)
        if (size := tags.get(vocabulary.BATCH_SIZE)) is not None:
            self._batch_size.observe(float(size), stage)
        if (load := tags.get(vocabulary.GPU_UTILIZATION)) is not None:
            self._gpu.set(float(load), stage)

    @staticmethod
    def _waited(histogram: Instrument, ms: float | None, labels: dict[str, str]) -> None:
        if ms is not None:
            histogram.observe(float(ms) / 1000, labels)

    def watch(self, counters: Callable[[], Mapping[str, int]]) -> None:
        """Look every few seconds, on the running event loop, at what is counted elsewhere: the exporter's counters
        (`Exporter.counters`, below `export_`), `in_flight` and `waiting`."""

        async def look() -> None:
            while True:
                self.look(counters)
                await asyncio.sleep(EVERY_S)

        # In a fresh context: Serve cancels what shares a cancelled request's.
        self._looking = asyncio.get_running_loop().create_task(look(), context=contextvars.Context())

    def look(self, counters: Callable[[], Mapping[str, int]]) -> None:
        if not self.on:
            return
        try:
            now = counters()
            self._waiting.set(now["export_waiting"], {})
            self._in_flight.set(now["in_flight"], {})
            self._queued.set(now["waiting"], {})
            for cause in LOSSES:
                self._grew(self._lost, now, f"export_dropped_{cause}", {"cause": cause})
            self._grew(self._sending_failed, now, "export_failed_batches", {})
        except Exception as error:
            self._failed(error)

    def _grew(self, counter: Instrument, now: Mapping[str, int], name: str, labels: dict[str, str]) -> None:
        count = now.get(name, 0)
        if count > self._seen.get(name, 0):
            counter.inc(count - self._seen.get(name, 0), labels)
        self._seen[name] = count

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


def _judged(error: errors.SpeechError | None, status: int) -> tuple[str, str]:
    """(error type, outcome). The error's own status counts: a stream that broke off was answered with 200."""
    if error is None:
        return NONE, OK if status < 400 else REFUSED if status < 500 else FAILED
    kind = error.type if error.type in ERROR_TYPES else NONE
    if isinstance(error, errors.Cancelled):
        return kind, CANCELLED
    return kind, REFUSED if error.status < 500 else FAILED


def _stage_outcome(record: FinishedSpan) -> str:
    kind = record.tags.get(vocabulary.ERROR_TYPE)
    if kind is None:
        return OK
    if kind == errors.Cancelled.type:
        return CANCELLED
    if record.kind == "CLIENT":  # the ingress speaks for it
        return LOST
    return REFUSED if kind in _REFUSED else FAILED
