"""Server-sent events (WHATWG HTML): the format of `/api/generate`, and what every stream of events sums up."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from deployments.ingress.context import FitProgress, RequestContext, StageProgress
from speech.errors import SpeechError
from speech.words import Word
from tracing import vocabulary


class StreamSummary:
    """Sums up what a stream of events has sent so far.

    Attributes:
        characters: of the text that is said.
        seconds: of audio sent.
        first_audio_ns: when the first audio was sent, ns since the epoch; None before it.
    """

    def __init__(self, characters: int) -> None:
        self.characters = characters
        self.seconds = 0.0
        self.first_audio_ns: int | None = None

    def add(self, seconds: float) -> None:
        """Count an event with so many seconds of audio."""
        self.seconds += seconds
        self.first_audio_ns = self.first_audio_ns or time.time_ns()


class EventFormat:
    """Writes server-sent events (WHATWG HTML): ours, for `/api/generate` (docs/api.md).

    Args:
        trace_url: returns where a request's trace is to be found, if it is kept for certain.
    """

    progress = True  #: the stages' starts and ends are sent too

    def __init__(self, trace_url: Callable[[RequestContext], str | None]) -> None:
        self._trace_url = trace_url

    def stage(self, progress: StageProgress) -> bytes:
        """Return an event for a stage's start or end."""
        data = asdict(progress) | {"state": "started" if progress.ms is None else "done"}
        return event("stage", {name: value for name, value in data.items() if value is not None})

    def fit(self, progress: FitProgress) -> bytes:
        """Return an event for a step of the fit that the request waits for."""
        return event("fit", asdict(progress))

    def audio(self, data: bytes, seconds: float, words: tuple[Word, ...] | None = None) -> bytes:
        """Return an event with a part of the file.

        Args:
            data: bytes of the file.
            seconds: of audio that went into them.
            words: those that are complete with that audio; None if no timestamps were asked for.
        """
        fields = {"audio": base64.b64encode(data).decode(), "seconds": round(seconds, 4)}
        return event("audio", fields | timestamps(words))

    def done(self, summary: StreamSummary, ctx: RequestContext) -> bytes:
        """Return the last event of a whole stream."""
        total_ms = (time.time_ns() - ctx.started_ns) / 1e6
        return event(
            "done",
            {
                "trace_id": ctx.trace_id,
                "trace_url": self._trace_url(ctx),
                "seconds": round(summary.seconds, 4),
                "first_audio_ms": round(((summary.first_audio_ns or time.time_ns()) - ctx.started_ns) / 1e6, 1),
                "total_ms": round(total_ms, 1),
                "real_time_factor": round(total_ms / 1000 / summary.seconds, 4) if summary.seconds else None,
                "stages": stages(ctx),
                **({"voice_fit": ctx.voice_fit} if ctx.voice_fit else {}),
            },
        )

    def error(self, error: SpeechError, ctx: RequestContext) -> bytes:
        """Return the last event of a stream that failed."""
        return event("error", {**error.body(), "status": error.status, "trace_id": ctx.trace_id})


def timestamps(words: tuple[Word, ...] | None) -> dict[str, Any]:
    """Return the field with the words' times, as events and whole answers have it; none if none were asked for."""
    return {} if words is None else {"timestamps": [word.as_json() for word in words]}


def stages(ctx: RequestContext) -> list[dict[str, Any]]:
    """Return what each stage's span says of its time, in the order of their starts; empty if tracing is off."""
    spans = sorted((span for span in ctx.stage_spans if span.kind is not None), key=lambda span: span.start_ns)
    return [
        {
            "stage": span.name,
            "service": span.remote or span.service,
            "piece": span.tags.get(vocabulary.PIECE, 1),
            "start_ms": round((span.start_ns - ctx.started_ns) / 1e6, 1),
            "duration_ms": round(span.seconds * 1000, 1),
            "queue_ms": span.tags.get(vocabulary.QUEUE_WAIT_MS),
            "batch_wait_ms": span.tags.get(vocabulary.BATCH_WAIT_MS),
            "batch_size": span.tags.get(vocabulary.BATCH_SIZE),
            "compute_ms": span.tags.get(vocabulary.COMPUTE_MS),
            "error": span.tags.get(vocabulary.ERROR_TYPE),
        }
        for span in spans
    ]


def event(name: str | None, data: dict[str, Any]) -> bytes:
    """Return one event. JSON has no line breaks of its own, so the data is one line."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
