"""An ingress without Ray for tests of WebSocket sessions: everything but the graph is the real thing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from fastapi import FastAPI
from starlette.testclient import TestClient

from access.authentication import Authenticator
from access.authorization import AccessControl
from config.routes import LIVE
from deployments.arrays import ArrayStore
from deployments.ingress.admission import Admission
from deployments.ingress.backends import Backend
from deployments.ingress.following import Follower
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.live_sessions import Sessions
from deployments.ingress.live_speech import LiveSpeech
from deployments.ingress.routes import live
from deployments.ingress.stage_result import StageResult
from deployments.ingress.synthesis import Synthesizer
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.ingress.voice_cache import CachedVoice
from deployments.ingress.voice_resolver import Clip
from deployments.settings import ApiConfig, Tracing
from deployments.wire import AudioReply
from engines.contract import Capabilities
from speech import requests
from speech.dialects import DIALECTS
from speech.errors import VoiceNotFound
from tracing import Tracer
from tracing.routes import Routes
from tracing.sampling import SamplingSettings

RATE = 24_000
CONFIG = {"type": "session.config", "voice": "anna", "dialect": "en-US", "response_format": "pcm"}


class Pipeline:
    """A graph that says a second of a tone for each piece, or what a test tells it to do."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.cancelled: list[str] = []
        self.holds = 0.0  #: seconds that a piece takes
        self.fails: Exception | None = None
        self.seconds = 1.0

    async def speech(self, utterance: Any, voice: Any, ctx: Any) -> StageResult[AudioReply]:
        self.said.append(utterance.text)
        try:
            await asyncio.sleep(self.holds)
        except asyncio.CancelledError:
            self.cancelled.append(utterance.text)
            ctx.record_lost_stage("GENERATE_MEL", "tts-service", time.time_ns(), "cancelled", "the client left")
            raise
        if self.fails is not None:
            raise self.fails
        wave = np.sin(np.arange(int(self.seconds * RATE)) / 20) * 9000
        return StageResult(AudioReply(wave.astype(np.int16), self.seconds), None)  # type: ignore[arg-type]

    async def speech_in_parts(
        self, utterance: Any, voice: Any, ctx: Any, ends: Any
    ) -> AsyncGenerator[StageResult[AudioReply], None]:
        made = await self.speech(utterance, voice, ctx)

        async def whole() -> AsyncGenerator[StageResult[AudioReply], None]:
            yield made

        return whole()

    async def speech_stream_live(
        self, text: IncomingText, utterance: Any, voice: Any, ctx: Any, enter: Any, paced: bool
    ) -> AsyncGenerator[StageResult[AudioReply], None]:
        """Say half a second for each new part of the text, until it is complete."""
        taken, complete = "", False
        try:
            while not complete:
                with ctx.continuity.waiting_for_text():
                    taken, complete = await text.take(1, taken)
                self.said.append(taken)
                wave = np.sin(np.arange(RATE // 2) / 20) * 9000
                async with enter():
                    yield StageResult(AudioReply(wave.astype(np.int16), 0.5), None)  # type: ignore[arg-type]
        finally:
            await text.close()


class Engine:
    """An engine that takes any text; only its capabilities matter."""

    capabilities = Capabilities("fake", "1", RATE, frozenset({"en-US", "zh-CN"}), frozenset({"fast"}), (16_000,))

    def check(self, utterance: Any) -> None:
        """Take any text."""


class Ingress:
    """The ingress's WebSocket around a pipeline.

    Args:
        folder: gets the traces.
        keys_file: the keys; None for no keys.
        required: keys are in force.
        live_text: the engine says a text while it comes.
        settings: of the ingress.
    """

    def __init__(
        self,
        folder: Path,
        keys_file: str | None = None,
        required: bool = False,
        live_text: bool = False,
        **settings: Any,
    ) -> None:
        self.config = ApiConfig(engine="simulated", **settings)
        self.registry = DIALECTS
        self.pipeline, self.engine = Pipeline(), Engine()
        self.engine.capabilities = replace(Engine.capabilities, live_text=live_text, streaming=live_text)
        self.voices = {"anna": CachedVoice({"embedding": np.ones(4)})}
        self.sessions = Sessions(self.config.limits.sessions)
        self.admission = Admission(self.config.limits)
        arrays = ArrayStore("here", lambda: False)
        synthesizer = Synthesizer(self.pipeline, self, self.engine.capabilities, arrays)  # type: ignore[arg-type]
        follower = Follower(self.pipeline, self.engine.capabilities, arrays)  # type: ignore[arg-type]
        self.backend = Backend("primary", self.engine, self.pipeline, self, synthesizer, follower)  # type: ignore[arg-type]
        self.live = LiveSpeech(DIALECTS, self._parse, lambda ctx: self.backend, self._admitted)
        self._running = 0  # sessions whose application has not returned
        self._file = folder / "spans.jsonl"
        self.recorder = TraceRecorder(Tracing(spans_file=self._file, sampling=SamplingSettings(ratio=1.0)), DIALECTS)
        app = FastAPI(openapi_url=None)
        live.add(app, self)  # type: ignore[arg-type]
        authenticator = Authenticator(keys_file, DIALECTS)
        self.app = TracingMiddleware(
            app,
            Tracer("cosyvoice3-api"),
            self.recorder,
            authenticator,
            routes=Routes({LIVE}),
            deadline_s=60,
            trace_url=lambda trace_id: f"http://zipkin/{trace_id}",
            access_control=AccessControl(required),
        )

    async def _parse(self, fields: Any, upload: bytes | None, ctx: Any) -> Any:
        request = requests.parse({**fields, "text": "a"}, DIALECTS)
        if request.voice not in self.voices and upload is None:
            raise VoiceNotFound("There is no voice of this name or id here.", param="voice", code="voice_unknown")
        return request, Clip(upload, None) if upload else self.voices[str(request.voice)], self.backend

    async def resolve(self, source: Any, ctx: Any) -> CachedVoice:
        """Resolve any voice, as `VoiceResolver` does."""
        return source if isinstance(source, CachedVoice) else self.voices["anna"]

    @asynccontextmanager
    async def _admitted(self, ctx: Any) -> Any:
        async with self.admission.enter(ctx.came_ns):
            yield

    @contextmanager
    def connected(self, **more: Any) -> Iterator[Session]:
        """Open a session, without its configuration."""
        before = self._running  # sessions around this one
        with TestClient(self._counted, client=("127.0.0.1", 5)) as client:
            with client.websocket_connect(LIVE, **more) as socket:
                yield Session(socket)
                socket.close()
                # The test client cancels what still runs, and takes that for a failure now and then.
                end = time.monotonic() + 10
                while self._running > before and time.monotonic() < end:
                    time.sleep(0.005)

    async def _counted(self, scope: Any, receive: Any, send: Any) -> None:
        self._running += scope["type"] == "websocket"
        try:
            await self.app(scope, receive, send)
        finally:
            self._running -= scope["type"] == "websocket"

    def traces(self) -> list[list[dict[str, Any]]]:
        """Return the traces so far, each as its spans."""
        self.recorder.close(5)
        return [json.loads(line) for line in self._file.read_text().splitlines()] if self._file.exists() else []

    def roots(self) -> list[SimpleNamespace]:
        """Return the traces' roots: their tags, and the names of the spans below."""
        return [
            SimpleNamespace(name=spans[0]["name"], tags=spans[0].get("tags", {}), spans=spans)
            for spans in self.traces()
        ]


class Session:
    """A client's end of a session."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.audio: list[bytes] = []

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message."""
        self.socket.send_text(json.dumps({"type": kind, **fields}))

    def configure(self, **fields: Any) -> dict[str, Any]:
        """Send a configuration, and return the answer."""
        self.send("session.config", **({name: CONFIG[name] for name in CONFIG if name != "type"} | fields))
        return self.event()

    def say(self, *texts: str) -> list[dict[str, Any]]:
        """Say an utterance, and return its events."""
        for text in texts:
            self.send("input.text", text=text)
        self.send("input.done")
        return self.until("session.done")

    def event(self) -> dict[str, Any]:
        """Return the next event; audio on the way to it is kept."""
        while True:
            message = self.socket.receive()
            if message["type"] == "websocket.close":
                return {"type": "closed", "code": message["code"], "reason": message.get("reason")}
            if message.get("text") is not None:
                found: dict[str, Any] = json.loads(message["text"])
                return found
            self.audio.append(message["bytes"])

    def until(self, kind: str) -> list[dict[str, Any]]:
        """Return the events up to one of this type, or to the end."""
        events = [self.event()]
        while events[-1]["type"] not in (kind, "closed"):
            events.append(self.event())
        return events
