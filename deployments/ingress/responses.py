"""Audio as an HTTP response: one whole file, the file in chunks as it is made, or events that report progress too.

All of it is marked as synthetic: by the header X-AIGC, and in the file where its format has a place for that. Where
timestamps are asked for, events carry them, and a whole file comes in a JSON answer with them.

An error before the response begins has its HTTP status. A raw stream begins with its first audio, a stream of events
with its first stage. An error after that is an event, or leaves a raw stream without an end: never a whole one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple

from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.ingress.context import FitProgress, RequestContext, StageProgress
from deployments.ingress.server_sent_events import EventFormat, StreamSummary, timestamps
from deployments.safe_traceback import safe_traceback
from speech import pcm
from speech.encoding import FORMATS, Encoder, Format, encode
from speech.errors import SpeechError, internal_error
from speech.mark import HEADER, Mark
from speech.requests import SpeechRequest
from speech.words import AudioPart, Word

log = logging.getLogger("ray.serve")

AudioStream = AsyncGenerator[AudioPart, None]  #: as it is made; admission included


class EncodedPart(NamedTuple):
    """Bytes of the file, the seconds of audio that went into them, and the words that begin in that audio."""

    data: bytes
    seconds: float
    words: tuple[Word, ...] = ()

    @property
    def empty(self) -> bool:
        """True if nothing is in it: no data and no words."""
        return not (self.data or self.words)


Event = EncodedPart | StageProgress | FitProgress


class _ClosingResponse(StreamingResponse):
    """A StreamingResponse that closes its iterator on a disconnect, so that the graph stops working.

    Args:
        parts: the body.
        media_type: of the body.
        mark: for the header.
        stop: ends the work behind `parts`. A client may leave before the first part is asked for; closing a generator
            that has not begun runs none of its `finally`.
    """

    def __init__(
        self, parts: AsyncGenerator[bytes, None], media_type: str, mark: Mark, stop: Callable[[], Awaitable[None]]
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", HEADER: mark.value()}
        super().__init__(parts, media_type=media_type, headers=headers)
        self._parts = parts
        self._stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            try:
                await self._parts.aclose()
            finally:
                await self._stop()


async def whole(request: SpeechRequest, audio: AudioPart, rate: int, mark: Mark) -> Response:
    """Return one whole file of audio at `rate` Hz."""
    format = FORMATS[request.response_format]
    if format.name == "wav":
        body = pcm.wav(audio.samples, rate, mark)
    else:
        body = await asyncio.to_thread(encode, pcm.from_pcm(audio.samples), rate, format.name, mark)
    headers = {HEADER: mark.value()}
    if request.timestamps is None:
        return Response(body, media_type=format.media_type, headers=headers)
    answer = await asyncio.to_thread(_with_timestamps, body, format, audio, rate)
    return Response(answer, media_type="application/json", headers=headers)


def _with_timestamps(body: bytes, format: Format, audio: AudioPart, rate: int) -> bytes:
    fields = {
        "audio": base64.b64encode(body).decode(),
        "format": format.name,
        "media_type": format.media_type,
        "seconds": round(len(audio.samples) / rate, 4),
    }
    return json.dumps(fields | timestamps(audio.words), ensure_ascii=False).encode()


async def stream(request: SpeechRequest, audio: AudioStream, rate: int, ctx: RequestContext, mark: Mark) -> Response:
    """Return the file in chunks. Raises errors that come before the first audio."""
    parts = _encode(audio, Encoder(request.response_format, rate, mark), rate)
    first = await anext(parts)
    ctx.streaming = True
    return _ClosingResponse(_raw(first, parts, ctx), FORMATS[request.response_format].media_type, mark, parts.aclose)


async def _raw(
    first: EncodedPart, parts: AsyncGenerator[EncodedPart, None], ctx: RequestContext
) -> AsyncGenerator[bytes, None]:
    async with aclosing(parts):
        with ctx.continuity.sending(first.seconds):
            yield first.data
        try:
            async for part in parts:
                with ctx.continuity.sending(part.seconds):
                    yield part.data
        except Exception as error:
            ctx.error = _as_speech_error(error, ctx)
            ctx.broken_off = True


async def events(
    request: SpeechRequest, audio: AudioStream, rate: int, ctx: RequestContext, event_format: EventFormat, mark: Mark
) -> Response:
    """Return a stream of events, written by `event_format`. Raises errors that come before the first event."""
    queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
    if event_format.progress:
        ctx.on_progress = queue.put_nowait

    async def produce() -> None:
        try:
            async with aclosing(_encode(audio, Encoder(request.response_format, rate, mark), rate)) as parts:
                async for part in parts:
                    queue.put_nowait(part)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    producer = asyncio.create_task(produce())

    async def stop() -> None:
        producer.cancel()
        await asyncio.gather(producer, return_exceptions=True)

    try:
        first = await queue.get()
        if isinstance(first, Exception):
            raise first
    except BaseException:
        producer.cancel()
        raise
    ctx.streaming = True
    summary = StreamSummary(len(request.utterance.text))
    parts = _events(first, queue, summary, ctx, event_format, request.timestamps is not None)
    return _ClosingResponse(parts, "text/event-stream", mark, stop)


async def _events(
    event: Event | Exception | None,
    queue: asyncio.Queue[Event | Exception | None],
    summary: StreamSummary,
    ctx: RequestContext,
    event_format: EventFormat,
    timed: bool,
) -> AsyncGenerator[bytes, None]:
    while event is not None and not isinstance(event, Exception):
        if isinstance(event, StageProgress):
            with ctx.continuity.sending(0.0):
                yield event_format.stage(event)
        elif isinstance(event, FitProgress):
            with ctx.continuity.sending(0.0):
                yield event_format.fit(event)
        else:
            summary.add(event.seconds)
            words = event.words if timed else None
            with ctx.continuity.sending(event.seconds):
                yield event_format.audio(event.data, event.seconds, words)
        event = await queue.get()
    if event is None:
        yield event_format.done(summary, ctx)
        return
    ctx.error = _as_speech_error(event, ctx)
    yield event_format.error(ctx.error, ctx)


async def _encode(audio: AudioStream, encoder: Encoder, rate: int) -> AsyncGenerator[EncodedPart, None]:
    """Yield the file's bytes, with what went into them. The first have audio behind them."""
    seconds = 0.0
    words: tuple[Word, ...] = ()
    async with aclosing(audio):
        async for part in audio:
            data = await asyncio.to_thread(encoder.add, pcm.from_pcm(part.samples))
            seconds += len(part.samples) / rate
            words += part.words
            if data:
                yield EncodedPart(data, seconds, words)
                seconds, words = 0.0, ()
    last = EncodedPart(await asyncio.to_thread(encoder.finish), seconds, words)
    if not last.empty:
        yield last


def _as_speech_error(error: Exception, ctx: RequestContext) -> SpeechError:
    if isinstance(error, SpeechError):
        return error
    log.error("a stream failed, trace %s: %s", ctx.trace_id, safe_traceback(error))
    return internal_error()
