"""Audio as an HTTP response: one whole file, the file in chunks as it is made, or events that report progress too.

An error before the response begins has its HTTP status. A raw stream begins with its first audio, a stream of events
with its first stage. An error after that is an event, or leaves a raw stream without an end: never a whole one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.arrays import Array
from deployments.ingress.context import RequestContext, StageProgress
from deployments.safe_traceback import safe_traceback
from speech import pcm
from speech.encoding import FORMATS, Encoder, encode
from speech.errors import SpeechError, internal_error
from speech.requests import SpeechRequest
from tracing import vocabulary

log = logging.getLogger("ray.serve")

AudioStream = AsyncGenerator[Array, None]  #: int16, as it is made; admission included
EncodedPart = tuple[bytes, float]  #: bytes of the file, and the seconds of audio in them
Event = EncodedPart | StageProgress


class _ClosingResponse(StreamingResponse):
    """A StreamingResponse that closes its iterator on a disconnect, so that the graph stops working."""

    def __init__(self, parts: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(parts, media_type=media_type, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._parts.aclose()


async def whole(request: SpeechRequest, samples: Array, rate: int) -> Response:
    """Return one whole file of `samples`, int16 (n,) at `rate` Hz."""
    if request.response_format == "wav":
        return Response(pcm.wav(samples, rate), media_type=FORMATS["wav"].media_type)
    body = await asyncio.to_thread(encode, pcm.from_pcm(samples), rate, request.response_format)
    return Response(body, media_type=FORMATS[request.response_format].media_type)


async def stream(request: SpeechRequest, audio: AudioStream, rate: int, ctx: RequestContext) -> Response:
    """Return the file in chunks. Raises errors that come before the first audio."""
    parts = _encode(audio, Encoder(request.response_format, rate), rate)
    first = await anext(parts)
    ctx.streaming = True
    return _ClosingResponse(_raw(first, parts, ctx), FORMATS[request.response_format].media_type)


async def _raw(
    first: EncodedPart, parts: AsyncGenerator[EncodedPart, None], ctx: RequestContext
) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        yield first[0]
        try:
            async for data, _ in parts:
                yield data
        except Exception as error:
            ctx.error = _as_speech_error(error, ctx)
            ctx.broken_off = True


async def events(
    request: SpeechRequest, audio: AudioStream, rate: int, ctx: RequestContext, event_format: EventFormat
) -> Response:
    """Return a stream of events, written by `event_format`. Raises errors that come before the first event."""
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
    if event_format.progress:
        ctx.on_progress = queue.put_nowait

    async def produce() -> None:
        try:
            async with aclosing(_encode(audio, Encoder(request.response_format, rate), rate)) as parts:
                async for part in parts:
                    queue.put_nowait(part)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    producer = asyncio.create_task(produce())
    try:
        first = await queue.get()
        if isinstance(first, Exception):
            raise first
    except BaseException:
        producer.cancel()
        raise
    ctx.streaming = True
    summary = StreamSummary(len(request.utterance.text))
    return _ClosingResponse(_events(first, queue, producer, summary, ctx, event_format), "text/event-stream")


async def _events(
    event: Event | Exception | None,
    queue: asyncio.Queue[Event | Exception | None],
    producer: asyncio.Task[None],
    summary: StreamSummary,
    ctx: RequestContext,
    event_format: EventFormat,
) -> AsyncGenerator[bytes, None]:
    try:
        while event is not None and not isinstance(event, Exception):
            if isinstance(event, StageProgress):
                yield event_format.stage(event)
            else:
                summary.add(event[1])
                yield event_format.audio(*event)
            event = await queue.get()
        if event is None:
            yield event_format.done(summary, ctx)
            return
        ctx.error = _as_speech_error(event, ctx)
        yield event_format.error(ctx.error, ctx)
    finally:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)


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


async def _encode(audio: AudioStream, encoder: Encoder, rate: int) -> AsyncGenerator[EncodedPart, None]:
    """Yield the file's bytes, with the seconds of audio that went into them. The first have audio behind them."""
    seconds = 0.0
    async with aclosing(audio):
        async for samples in audio:
            data = await asyncio.to_thread(encoder.add, pcm.from_pcm(samples))
            seconds += len(samples) / rate
            if data:
                yield data, seconds
                seconds = 0.0
    if data := await asyncio.to_thread(encoder.finish):
        yield data, seconds


def _as_speech_error(error: Exception, ctx: RequestContext) -> SpeechError:
    if isinstance(error, SpeechError):
        return error
    log.error("a stream failed, trace %s: %s", ctx.trace_id, safe_traceback(error))
    return internal_error()


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

    def audio(self, data: bytes, seconds: float) -> bytes:
        """Return an event with a part of the file."""
        return event("audio", {"audio": base64.b64encode(data).decode(), "seconds": round(seconds, 4)})

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
            },
        )

    def error(self, error: SpeechError, ctx: RequestContext) -> bytes:
        """Return the last event of a stream that failed."""
        return event("error", {**error.body(), "status": error.status, "trace_id": ctx.trace_id})


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
