"""A WebSocket session: text comes in while it is written, and speech goes out while it is made.

Two tasks share a session. One reads the client's messages and gives their text to the utterance that is being written.
The other says the utterances, one after the other. So a client may send the next text, or `cancel`, at any time.

What a client does wrong is answered with an event `error`, and the session goes on. An error of an utterance ends that
utterance. Only a client that is refused, takes nothing, or goes on with nonsense is closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from deployments.ingress import live_messages as messages
from deployments.ingress import openai_fields
from deployments.ingress.context import RequestContext
from deployments.ingress.following import FollowedPart
from deployments.ingress.ingress_api import IngressApi
from deployments.ingress.live_flow import Stalled
from deployments.ingress.live_handshake import Handshake
from deployments.ingress.live_messages import AudioForm
from deployments.ingress.live_sentence import LiveSentence
from deployments.ingress.live_speech import SessionVoice
from deployments.ingress.live_utterance import LiveUtterance
from deployments.safe_traceback import safe_traceback
from speech.errors import Cancelled, DeadlineExceeded, InvalidInput, Overloaded, SpeechError, internal_error
from speech.mark import Mark
from tracing import vocabulary

log = logging.getLogger("ray.serve")

MOST_WRONG = 32  #: messages of one session that may be wrong
#: Seconds of audio that are sent before they can have been heard, where nothing tells what the client has taken.
AHEAD_S = 30.0
#: Of a frame, where audio comes in chunks: a client that plays while it reads takes one in a second.
MOST_BYTES = 48_000
DRAIN_S = 20.0  #: for what is being said when the replica stops
#: RFC 6455's codes for closing, by `metrics.SESSION_ENDS`.
CODES = {
    "closed": 1000,
    "idle": 1000,
    "too_long": 1000,
    "draining": 1001,
    "stalled": 1008,
    "full": 1008,
    "refused": 1008,
    "misused": 1008,
    "failed": 1011,
}


class _End(Exception):
    """The session ends.

    Args:
        reason: one of `metrics.SESSION_ENDS`.
        error: what the client is told before.
    """

    def __init__(self, reason: str, error: SpeechError | None = None) -> None:
        super().__init__(reason)
        self.reason, self.error = reason, error


class LiveSession:
    """One session.

    Args:
        websocket: its connection.
        handshake: its client.
        api: the ingress.
    """

    def __init__(self, websocket: WebSocket, handshake: Handshake, api: IngressApi) -> None:
        self._websocket, self._handshake, self._api = websocket, handshake, api
        self._limits = api.config.limits.sessions
        self._began = self._active = time.monotonic()
        self._voice: SessionVoice | None = None
        self._form = AudioForm()
        self._queue: asyncio.Queue[LiveUtterance | int | None] = asyncio.Queue()  # a number: one without any text
        self._unfinished: list[LiveUtterance] = []
        self._written: LiveUtterance | None = None  # the one whose text comes in
        self._saying: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()  # an utterance has gone on
        self._drained = asyncio.Event()
        self._index = 0
        self._wrong = 0
        self._told_dropped = False  # the client knows that the text which comes now is dropped

    # -- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live through the session, from the handshake on. Returns when it is closed."""
        try:
            self._handshake.check_origin(self._api.config.cors)
            if self._handshake.shows_a_key:
                self._handshake.authorize()
        except SpeechError as error:
            await self._deny(error)
            return
        self._handshake.flow.watch(messages.is_cancel, self._changed.set)
        await self._websocket.accept()
        await self._handshake.flow.open(self._handshake.session_id, self._limits.stall_timeout_s)
        end = _End("left")
        try:
            with self._api.sessions.entered(self, self._handshake.caller_name):
                end = await self._converse()
        except SpeechError as error:
            self._trace_refusal(error)
            end = _End(self._api.sessions.refusal(error), error)
        finally:
            self._api.sessions.ended(end.reason)
        await self._close(end)

    async def _deny(self, error: SpeechError) -> None:
        """Refuse the handshake with an HTTP answer, as any other request."""
        self._api.sessions.ended("refused")
        ctx = self._trace_refusal(error)
        headers = {"X-Trace-Id": ctx.trace_id, **error.headers()}
        await self._websocket.send_denial_response(JSONResponse(error.body(), error.status, headers))

    def _trace_refusal(self, error: SpeechError) -> RequestContext:
        ctx = self._handshake.open("refused")
        ctx.error = error
        self._handshake.submit(ctx)
        return ctx

    async def _converse(self) -> _End:
        """Read and speak until something ends the session."""
        tasks = [asyncio.create_task(work) for work in (self._read(), self._speak(), self._drain())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return _end_of(next(task for task in tasks if task.done()))
        finally:
            for task in tasks:
                task.cancel()
            await self._abandon(tasks)

    async def _abandon(self, tasks: list[asyncio.Task[Any]]) -> None:
        """End what is unfinished. Nothing may keep a trace from its end, also if this is cancelled in turn."""
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for utterance in self._unfinished:
                utterance.over = True
                if not utterance.ctx.cancelled:
                    utterance.ctx.error = utterance.ctx.error or Cancelled("The session ended before its answer.")
                self._handshake.submit(utterance.ctx)
            self._unfinished.clear()

    async def _close(self, end: _End) -> None:
        if end.reason == "left":
            return
        self._handshake.flow.ending = True
        try:
            if end.error is not None:
                await self._event(messages.error(end.error, session_id=self._handshake.session_id))
            await self._websocket.close(CODES[end.reason], end.reason)
        except (WebSocketDisconnect, RuntimeError):
            pass  # it has left by itself

    @property
    def speaking(self) -> bool:
        """An utterance of this session is not finished."""
        return bool(self._unfinished)

    def drain(self) -> None:
        """Finish what is being said, and close."""
        self._drained.set()

    async def _drain(self) -> None:
        await self._drained.wait()
        end = time.monotonic() + DRAIN_S
        while self._unfinished and time.monotonic() < end:
            await asyncio.sleep(0.1)
        raise _End(
            "draining",
            Overloaded("The service is stopping; connect again in a moment.", code="draining", retry_after_s=1),
        )

    # -- what comes in -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        closing = False
        while True:
            text = await self._next()
            try:
                message = messages.parse(text)
                if closing and message.type != messages.CANCEL:
                    raise InvalidInput("Nothing is read any more after `session.close`.", code="session_closed")
                if message.type == messages.CONFIG:
                    await self._configure(message.fields)
                elif self._voice is None:
                    raise _End("refused", _no_config())
                elif message.type == messages.TEXT:
                    traceparent = messages.traceparent_of(message)
                    if (dropped := self._take(messages.text_of(message), traceparent, self._voice)) is not None:
                        await self._event(messages.error(dropped))
                elif message.type == messages.DONE:
                    self._flush()
                elif message.type == messages.CANCEL:
                    self._cancel(self._unfinished)
                else:
                    closing = True
                    self._cancel([utterance for utterance in self._unfinished if not utterance.ended])
                    self._queue.put_nowait(None)
            except SpeechError as error:
                self._wrong += error.status < 500  # else it is the service's fault
                await self._event(messages.error(error))
                if self._voice is None:
                    raise _End("refused") from error
                if self._wrong >= MOST_WRONG:
                    raise _End("misused", _too_much_wrong()) from error
            await self._wait_until_spoken()

    async def _next(self) -> str | None:
        """Return the next message; None for a binary one."""
        while True:
            now, limits = time.monotonic(), self._limits
            life_s = self._began + limits.max_duration_s - now
            idle_s = limits.config_timeout_s if self._voice is None else limits.idle_timeout_s
            try:
                async with asyncio.timeout(max(0.0, min(life_s, self._active + idle_s - now))):
                    message = await self._websocket.receive()
            except TimeoutError:
                if time.monotonic() >= self._began + limits.max_duration_s:
                    raise _End("too_long", _too_long(limits.max_duration_s)) from None
                if any(utterance.busy for utterance in self._unfinished):
                    self._active = time.monotonic()
                elif time.monotonic() >= self._active + idle_s:
                    raise _End("idle", _idle(idle_s, self._voice is None)) from None
                continue
            if message["type"] == "websocket.disconnect":
                raise _End("left")
            self._active = time.monotonic()
            text: str | None = message.get("text")
            return text

    async def _wait_until_spoken(self) -> None:
        """Read no more while too much waits to be spoken: the client's connection fills up, and it waits too.

        A `cancel` that is here already is not held back by the text before it, which it cancels.
        """
        flow, ends = self._handshake.flow, self._began + self._limits.max_duration_s
        while not flow.left and sum(one.unspoken for one in self._unfinished) > self._limits.max_unspoken:
            self._changed.clear()
            if flow.hurried:
                return
            if time.monotonic() >= ends:
                raise _End("too_long", _too_long(self._limits.max_duration_s))
            with suppress(TimeoutError):
                async with asyncio.timeout(min(1.0, max(0.0, ends - time.monotonic()))):
                    await self._changed.wait()
            self._active = time.monotonic()

    async def _configure(self, fields: Mapping[str, Any]) -> None:
        if self._written is not None and not self._written.over:
            raise InvalidInput(
                "A session.config can't change an utterance whose text has begun; send input.done or cancel before it.",
                code="config_in_utterance",
            )
        if key := fields.get("api_key"):
            self._handshake.identify(str(key))
        ctx = self._handshake.open("config")
        try:
            self._handshake.authorize()
            form = messages.audio_form(fields)
            given = openai_fields.as_form(messages.speech_fields(fields))
            async with self._handshake.counted():
                ours, clip = openai_fields.fields_of({"response_format": "wav", **given}, None, self._api)
                found = await self._api.live.configure(ours, clip, ctx)
            if form.by_token:
                found.backend.engine.capabilities.check_live_text()
            self._voice = found
            self._form = form
            # What comes now is new, also where the last utterance has failed and had no `input.done`.
            self._written, self._told_dropped = None, False
        except SpeechError as error:
            error.rename_param(openai_fields.THEIR_NAMES)
            ctx.error = error
            raise
        except Exception as error:
            ctx.error = self._defect(error, ctx)
            raise ctx.error from None
        except asyncio.CancelledError:
            ctx.error = Cancelled("The client left before its session was configured.")
            raise
        finally:
            self._handshake.submit(ctx)
        await self._event(
            {
                "type": "session.configured",
                "session_id": self._handshake.session_id,
                "trace_id": ctx.trace_id,
                "dialect": self._voice.request.dialect.code,
                "format": self._voice.request.response_format,
                "sample_rate": self._voice.sample_rate,
                "channels": 1,
                "idle_timeout_s": self._limits.idle_timeout_s,
            }
        )

    def _take(self, text: str, traceparent: str | None, voice: SessionVoice) -> SpeechError | None:
        """Take more text; returns why it was dropped, where the client was not told yet."""
        if not text:
            return None
        if self._written is None:
            if self._drained.is_set():
                return self._dropped(_stopping())
            ctx = self._handshake.open("utterance", index=self._index, traceparent=traceparent)
            self._written = LiveUtterance(self._index, ctx, voice, self._form)
            self._index += 1
            self._unfinished.append(self._written)
            self._queue.put_nowait(self._written)
        if self._written.over:  # the rest of one that has failed is of no use
            return self._dropped(_over(self._written.index))
        self._written.add(text)
        return None

    def _dropped(self, error: SpeechError) -> SpeechError | None:
        """Return the error the first time since the last `input.done`."""
        told, self._told_dropped = self._told_dropped, True
        return None if told else error

    def _flush(self) -> None:
        self._told_dropped = False
        if self._written is None:
            self._queue.put_nowait(self._index)
            self._index += 1
            return
        if not self._written.over:
            self._written.finish()
        self._written = None

    def _cancel(self, utterances: list[LiveUtterance]) -> None:
        """Break utterances off. The one that is being said stops its work in the graph."""
        for utterance in utterances:
            utterance.ctx.cancelled = True
            if utterance is self._written:
                self._written = None
        if self._saying is not None and self._unfinished and self._unfinished[0].ctx.cancelled:
            self._saying.cancel()

    # -- what goes out -------------------------------------------------------------------------------------------------

    async def _speak(self) -> None:
        while (utterance := await self._queue.get()) is not None:
            if isinstance(utterance, int):
                await self._event({"type": "session.done", "utterance_index": utterance, "total_sentences": 0})
                continue
            if not utterance.ctx.cancelled:
                self._saying = asyncio.create_task(self._say(utterance))
                try:
                    await self._saying
                except asyncio.CancelledError:
                    self._saying.cancel()
                    await asyncio.gather(self._saying, return_exceptions=True)
                    if not utterance.ctx.cancelled or (task := asyncio.current_task()) and task.cancelling():
                        raise
                finally:
                    self._saying = None
            await self._finish(utterance)
        raise _End("closed")

    async def _finish(self, utterance: LiveUtterance) -> None:
        """Finish an utterance: its trace before its last event, so that an answered client finds it."""
        ctx = utterance.ctx
        utterance.over = True
        self._unfinished.remove(utterance)
        self._changed.set()
        self._active = time.monotonic()
        if ctx.cancelled:
            ctx.root.tag(vocabulary.UTTERANCE_CANCELLED, "true")
        url = self._handshake.trace_url(ctx)
        self._handshake.submit(ctx)
        if ctx.error is not None:
            await self._event(
                messages.error(ctx.error, utterance_index=utterance.index, trace_id=ctx.trace_id, trace_url=url)
            )
        done: dict[str, Any] = {
            "type": "session.done",
            "utterance_index": utterance.index,
            "total_sentences": utterance.said,
            "seconds": round(ctx.audio_s, 4),
            "first_audio_ms": None if ctx.first_audio_s is None else round(ctx.first_audio_s * 1000, 1),
            "trace_id": ctx.trace_id,
            "trace_url": url,
        }
        if ctx.cancelled:
            done["cancelled"] = True
        if ctx.error is not None:
            done["error"] = True
        await self._event(done)

    async def _say(self, utterance: LiveUtterance) -> None:
        """Say one utterance. Its error is left in its trace's context."""
        ctx = utterance.ctx
        try:
            self._handshake.authorize()
            async with self._handshake.counted():
                voice = await self._api.live.current(utterance.voice, ctx)
                live, deadline_s = self._api.live, self._api.config.limits.deadline_s
                if utterance.form.by_token:
                    parts = live.follow_by_token(
                        voice, utterance.pieces(), ctx, deadline_s, self._limits.idle_timeout_s
                    )
                else:
                    times = "word" if utterance.form.words else None
                    parts = live.follow(voice, utterance.pieces(), ctx, deadline_s, times)
                async with aclosing(parts):
                    sentence: LiveSentence | None = None
                    try:
                        async for part in parts:
                            self._changed.set()
                            sentence = sentence or await self._begin(utterance, voice, part.number)
                            await self._give(sentence, part)
                            if part.ends:
                                utterance.said += 1
                                await self._event(sentence.done())
                                sentence = None
                    except SpeechError:
                        if sentence is not None:
                            await self._event(sentence.done(error=True))
                        raise
            if not utterance.sentences:
                raise InvalidInput(
                    "The utterance has no text that can be spoken, only spaces or signs.",
                    param="text",
                    code="text_empty",
                )
        except SpeechError as error:
            ctx.error = error
        except (Stalled, WebSocketDisconnect):
            raise
        except Exception as error:
            ctx.error = self._defect(error, ctx)

    async def _begin(self, utterance: LiveUtterance, voice: SessionVoice, number: int) -> LiveSentence:
        mark = Mark(self._api.config.marking.producer, utterance.ctx.trace_id)
        sentence = LiveSentence(utterance, number, voice, mark)
        await self._event(sentence.start())
        return sentence

    async def _give(self, sentence: LiveSentence, part: FollowedPart) -> None:
        """Send what a part adds to a sentence's file: its audio, and the words that begin in it."""
        data, seconds = await sentence.add(part)
        ctx = sentence.utterance.ctx
        if not self._handshake.flow.counted:
            await asyncio.sleep(max(0.0, ctx.continuity.margin_s - AHEAD_S))
        form = sentence.utterance.form
        with ctx.continuity.sending(seconds):
            if form.base64:
                if (chunk := sentence.chunk(data, seconds, part)) is not None:
                    await self._event(chunk)
            else:
                most = MOST_BYTES if form.chunked else max(1, len(data))
                for at in range(0, len(data), most):
                    await self._websocket.send_bytes(data[at : at + most])
        if form.words and not form.base64 and part.audio.words:
            await self._event(sentence.words(part.audio))

    async def _event(self, event: Mapping[str, Any]) -> None:
        await self._websocket.send_text(messages.written(event))

    def _defect(self, error: Exception, ctx: RequestContext) -> SpeechError:
        log.error("a session failed, trace %s: %s", ctx.trace_id, safe_traceback(error))
        return internal_error()


def _end_of(task: asyncio.Task[None]) -> _End:
    """Return what a task of a session has ended it with."""
    error = task.exception()
    if isinstance(error, _End):
        return error
    if isinstance(error, Stalled):
        return _End("stalled", _stalled())
    if isinstance(error, WebSocketDisconnect):
        return _End("left")
    log.error("a session failed: %s", safe_traceback(error) if isinstance(error, Exception) else error)
    return _End("failed", internal_error())


def _stopping() -> SpeechError:
    return Overloaded("The service is stopping and says nothing new; connect again.", code="draining", retry_after_s=1)


def _over(index: int) -> SpeechError:
    return InvalidInput(
        f"Utterance {index} is over, so its text is dropped; send input.done before the text of the next one.",
        code="utterance_over",
    )


def _no_config() -> SpeechError:
    return InvalidInput(
        'The first message must be session.config, for example {"type": "session.config", "voice": "anna"}.',
        code="config_missing",
    )


def _idle(seconds: float, configuring: bool) -> SpeechError:
    what = "No session.config has come" if configuring else "No message has come"
    return DeadlineExceeded(f"{what} for {seconds:g} s; connect again when there is something to say.", code="idle")


def _too_long(seconds: float) -> SpeechError:
    return DeadlineExceeded(
        f"The session has lasted for {seconds:g} s, the longest that one may; connect again.", code="too_long"
    )


def _stalled() -> SpeechError:
    return DeadlineExceeded("The audio was not read; read it while it comes, or ask for less.", code="stalled")


def _too_much_wrong() -> SpeechError:
    return InvalidInput(
        f"{MOST_WRONG} messages of this session were wrong; the errors before this one say why.", code="misused"
    )
