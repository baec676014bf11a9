"""Sound as an HTTP answer: one whole file, the file in chunks as it is made, or events that tell of its making too.

What is wrong before an answer begins has its HTTP status. A raw stream begins with its first audio, a stream of events
with its first stage. What goes wrong afterwards is an event, or leaves a raw stream without an end: never a whole one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict

import numpy as np
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.ingress.context import RequestContext, StageProgress
from deployments.safe_traceback import safe_traceback
from speech import pcm
from speech.encoding import FORMATS, Encoder, encode
from speech.errors import InternalError, SpeechError
from speech.requests import SpeechRequest
from tracing import vocabulary

log = logging.getLogger("ray.serve")

Sounds = AsyncIterator[np.ndarray]  #: int16, as they are made; admission included

#: What an event says: bytes of the file and how many seconds of audio they hold; a stage's progress.
Event = tuple[bytes, float] | StageProgress


class _Streamed(StreamingResponse):
    """Whose body is closed as soon as nobody reads it: what it waits for is the graph's work."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.body_iterator.aclose()


_NO_BUFFERING = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def whole(ask: SpeechRequest, samples: np.ndarray, rate: int) -> Response:
    """`samples`: int16 (n,)."""
    if ask.response_format == "wav":
        return Response(pcm.wav(samples, rate), media_type=FORMATS["wav"].media_type)
    body = await asyncio.to_thread(encode, pcm.from_pcm(samples), rate, ask.response_format)
    return Response(body, media_type=FORMATS[ask.response_format].media_type)


async def stream(ask: SpeechRequest, sounds: Sounds, rate: int, run: RequestContext) -> Response:
    """Raises what goes wrong before the first audio."""
    parts = _encoded(sounds, Encoder(ask.response_format, rate), rate)
    first = await anext(parts)
    run.streaming = True
    return _Streamed(_raw(first, parts, run), media_type=FORMATS[ask.response_format].media_type, headers=_NO_BUFFERING)


async def _raw(
    first: tuple[bytes, float], parts: AsyncIterator[tuple[bytes, float]], run: RequestContext
) -> AsyncIterator[bytes]:
    async with aclosing(parts):
        yield first[0]
        try:
            async for data, _ in parts:
                yield data
        except Exception as error:
            run.error = _told(error, run)
            run.broken_off = True


async def events(ask: SpeechRequest, sounds: Sounds, rate: int, run: RequestContext, written: EventFormat) -> Response:
    """`written` says how. Raises what goes wrong before the first event."""
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
    if written.progress:
        run.listener = queue.put_nowait

    async def produce() -> None:
        try:
            async with aclosing(_encoded(sounds, Encoder(ask.response_format, rate), rate)) as parts:
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
    run.streaming = True
    return _Streamed(
        _events(first, queue, producer, run, written), media_type="text/event-stream", headers=_NO_BUFFERING
    )


async def _events(
    event: Event | Exception | None,
    queue: asyncio.Queue,
    producer: asyncio.Task,
    run: RequestContext,
    written: EventFormat,
) -> AsyncIterator[bytes]:
    told = StreamSummary(time.time_ns())
    try:
        while event is not None and not isinstance(event, Exception):
            if isinstance(event, StageProgress):
                yield written.stage(event)
            else:
                told.count(event[1])
                yield written.audio(*event)
            event = await queue.get()
        if event is None:
            yield written.done(told, run)
            return
        run.error = _told(event, run)
        yield written.error(run.error, run)
    finally:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)


class StreamSummary:
    """What a stream of events has told so far."""

    def __init__(self, now_ns: int) -> None:
        self.began_ns = now_ns
        self.seconds = 0.0  #: of audio
        self.first_audio_ns: int | None = None

    def count(self, seconds: float) -> None:
        self.seconds += seconds
        self.first_audio_ns = self.first_audio_ns or time.time_ns()


async def _encoded(sounds: Sounds, encoder: Encoder, rate: int) -> AsyncIterator[tuple[bytes, float]]:
    """Bytes of the file, and the seconds of audio that went into them. The first have audio behind them."""
    seconds = 0.0
    async with aclosing(sounds):
        async for samples in sounds:
            data = await asyncio.to_thread(encoder.add, pcm.from_pcm(samples))
            seconds += len(samples) / rate
            if data:
                yield data, seconds
                seconds = 0.0
    if data := await asyncio.to_thread(encoder.finish):
        yield data, seconds


def _told(error: Exception, run: RequestContext) -> SpeechError:
    if isinstance(error, SpeechError):
        return error
    log.error("a stream failed, trace %s: %s", run.trace_id, safe_traceback(error))
    return InternalError("The service failed in a way it should not have; its log says where, under this trace's id.")


class EventFormat:
    """How server-sent events (WHATWG HTML) are written down: ours, for `/api/generate` (docs/api.md).

    `trace_url` says where a trace is to be found, if it is kept for certain.
    """

    progress = True  #: stages' beginnings and ends are told too

    def __init__(self, trace_url: Callable[[RequestContext], str | None]) -> None:
        self._trace_url = trace_url

    def stage(self, progress: StageProgress) -> bytes:
        about = asdict(progress) | {"state": "started" if progress.ms is None else "done"}
        return event("stage", {name: value for name, value in about.items() if value is not None})

    def audio(self, data: bytes, seconds: float) -> bytes:
        return event("audio", {"audio": base64.b64encode(data).decode(), "seconds": round(seconds, 4)})

    def done(self, told: StreamSummary, run: RequestContext) -> bytes:
        total_ms = (time.time_ns() - run.started_ns) / 1e6
        return event(
            "done",
            {
                "trace_id": run.trace_id,
                "trace_url": self._trace_url(run),
                "seconds": round(told.seconds, 4),
                "first_audio_ms": round(((told.first_audio_ns or time.time_ns()) - run.started_ns) / 1e6, 1),
                "total_ms": round(total_ms, 1),
                "real_time_factor": round(total_ms / 1000 / told.seconds, 4) if told.seconds else None,
                "stages": stages(run),
            },
        )

    def error(self, error: SpeechError, run: RequestContext) -> bytes:
        return event("error", {**error.body(), "status": error.status, "trace_id": run.trace_id})


def stages(run: RequestContext) -> list[dict]:
    """What each stage's span says of its time, in the order of their beginnings; empty where tracing is off."""
    spans = sorted((record for record in run.records if record.kind is not None), key=lambda record: record.start_ns)
    return [
        {
            "stage": span.name,
            "service": span.remote or span.service,
            "piece": span.tags.get(vocabulary.PIECE, 1),
            "start_ms": round((span.start_ns - run.started_ns) / 1e6, 1),
            "duration_ms": round(span.seconds * 1000, 1),
            "queue_ms": span.tags.get(vocabulary.QUEUE_WAIT_MS),
            "batch_wait_ms": span.tags.get(vocabulary.BATCH_WAIT_MS),
            "batch_size": span.tags.get(vocabulary.BATCH_SIZE),
            "compute_ms": span.tags.get(vocabulary.COMPUTE_MS),
            "error": span.tags.get(vocabulary.ERROR_TYPE),
        }
        for span in spans
    ]


def event(name: str | None, data: dict) -> bytes:
    """One event. JSON has no line breaks of its own, so the data is one line."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
