"""Reports fits: a kept trace and a metric for each."""

from __future__ import annotations

import re
from typing import Any

from deployments import trace_error_messages
from deployments.settings import Tracing
from deployments.span_errors import record_error
from deployments.stages.fit_worker import Made
from engines.contract import Capabilities
from speech.errors import SpeechError
from tracing import Exporter, NonRecordingSpan, Span, Tracer, encode, vocabulary
from tracing.export_settings import Allow
from voices.fits import Work

#: Outcomes of a fit, beside `done` and `kept_steered`. `lost`: the voice was deleted, or another service has the fit.
#: `interrupted`: the store of voices failed; the fit goes on later.
FAILED, LOST, INTERRUPTED = "failed", "lost", "interrupted"
FIT_S = (1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0)


class FitReporter:
    """Writes to Zipkin and Prometheus.

    Args:
        tracing: where traces go; those of fits are kept whatever the sampling.
        tracer: of fitting-service.
        engine: the engine that fits.
        device: torch device.
        kinds: has Histogram, Counter and Gauge; by default `ray.serve.metrics`.
    """

    def __init__(self, tracing: Tracing, tracer: Tracer, engine: Capabilities, device: str, kinds: Any = None) -> None:
        if kinds is None:
            from ray.serve import metrics as kinds
        self.exporter = Exporter(tracing.export_settings(Allow(error_messages=trace_error_messages.IN_TRACES)))
        self._tracer = tracer
        self._tags = {
            vocabulary.MODEL_NAME: engine.name,
            vocabulary.MODEL_VERSION: engine.version,
            vocabulary.DEVICE: device,
            vocabulary.SAMPLING_REASON: "fit",
            vocabulary.SAMPLING_ADJUSTED_COUNT: "1",
        }
        self._fits = kinds.Counter("cosygraph_fits", "Fits of voices that have ended", ("outcome",))
        self._fit_s = kinds.Histogram("cosygraph_fit_seconds", "Seconds of computing of a fit", FIT_S, ("outcome",))
        self._pending = kinds.Gauge("cosygraph_fits_pending", "Fits to be made, or under way", ())

    def pending(self, count: int) -> None:
        """Set the number of fits that are to be made or under way."""
        self._pending.set(count, {})

    def begin(self, work: Work) -> Span | NonRecordingSpan:
        """Open the span of a fit: a trace of its own, which names the trace of the request that asked for it."""
        span = self._tracer.server(vocabulary.FIT_VOICE, parent=None)
        span.tags(
            {
                **self._tags,
                vocabulary.FIT_ASKED_BY: work.fit.asked_by,
                vocabulary.AUDIO_DURATION: work.record.clip.seconds if work.record else None,
            }
        )
        return span

    def made(self, span: Span | NonRecordingSpan, made: Made) -> None:
        """Report a fit that came to its end."""
        outcome = made.outcome
        span.tags(
            {
                vocabulary.FIT_STEPS: outcome.steps,
                vocabulary.FIT_TAKEN_UP_AT: made.taken_up_at or None,
                vocabulary.FIT_LOSS_BEFORE: round(outcome.loss_before, 4),
                vocabulary.FIT_LOSS_AFTER: round(outcome.loss_after, 4),
                vocabulary.FIT_SECONDS: round(outcome.seconds, 3),
                vocabulary.FIT_STOPPED: outcome.stopped,
                vocabulary.FIT_KEPT: "true" if outcome.kept else "false",
                vocabulary.FIT_WHY: joined(outcome.why) or None,
            }
        )
        kind = "done" if outcome.kept else "kept_steered"
        self._fit_s.observe(outcome.seconds, {"outcome": kind})
        self._end(span, kind)

    def lost(self, span: Span | NonRecordingSpan) -> None:
        """Report a fit whose voice was deleted, or that another service has."""
        span.tag(vocabulary.FIT_STOPPED, LOST)
        self._end(span, LOST)

    def failed(self, span: Span | NonRecordingSpan, error: SpeechError, outcome: str = FAILED) -> None:
        """Report a fit that an error ended, for good or for now (`INTERRUPTED`)."""
        span.tag(vocabulary.FIT_STOPPED, outcome)
        record_error(span, error)
        self._end(span, outcome)

    def _end(self, span: Span | NonRecordingSpan, outcome: str) -> None:
        self._fits.inc(1, {"outcome": outcome})
        if spans := span.end():
            self.exporter.submit(encode(spans))

    def close(self) -> None:
        """Send what waits, and let go of the spool."""
        self.exporter.close(timeout_s=5.0)


def joined(why: str) -> str:
    """Return a sentence as one word that may stand in a trace: `its-peaks-would-be-clipped`."""
    return re.sub(r"[^a-z0-9]+", "-", why.lower()).strip("-")[:40].rstrip("-")
