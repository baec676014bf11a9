"""cosyvoice3-api: the HTTP ingress. Checks, admits, runs the DAG, and sees every trace to its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import numpy as np
import ray
from fastapi.responses import JSONResponse, Response
from ray import serve
from ray.serve.handle import DeploymentHandle

from access.authentication import Authenticator
from deployments.arrays import HOLD_S, ArrayStore, Nodes
from deployments.ingress import access_control, app, responses
from deployments.ingress.admission import Admission
from deployments.ingress.backends import FALLBACK, PRIMARY, Backend, Failover, Source
from deployments.ingress.context import RequestContext
from deployments.ingress.metrics import Metrics
from deployments.ingress.readiness import Readiness
from deployments.ingress.stored_voices import StoredVoices
from deployments.ingress.synthesis import Pipeline, Synthesizer
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.ingress.voice_cache import VoiceCache
from deployments.settings import ApiConfig, LiveApi
from engines import contract
from speech import requests
from speech.dialects import DIALECTS
from speech.errors import InvalidInput
from speech.requests import Fallback, SpeechRequest
from speech.script import check_script, script_of
from tracing import Tracer, vocabulary
from tracing.routes import Routes
from voices import VoiceRecord, Voices


@serve.ingress()
class CosyVoice3Api:
    """One ingress replica. Other services' handles are inside `pipeline`, and the other engine's inside `fallback`."""

    service = "cosyvoice3-api"

    def __init__(
        self,
        config: ApiConfig,
        pipeline: Pipeline,
        limiter: DeploymentHandle | None = None,
        fallback: Pipeline | None = None,
    ) -> None:
        self.config = config
        self.registry = DIALECTS.extended(config.dialects)
        self.admission = Admission(config.limits)
        self.tracer = Tracer(self.service, instance=serve.get_replica_context().replica_id.unique_id)
        self.shelf = ArrayStore(ray.get_runtime_context().get_node_id(), Nodes())
        self.voices_store = Voices.open(config.voices)
        primary = self._line(PRIMARY, config.engine, config.engine_options, pipeline, config.voice_cache_mb)
        # What the fallback engine finds in clips is not kept: it is in use for minutes.
        self.lines = Failover(
            primary,
            fallback and self._line(FALLBACK, config.fallback.engine, config.fallback.engine_options, fallback, 0.0),
        )
        self.engine = primary.engine
        self.started_s = int(time.time())
        self.keeper = TraceRecorder(config.tracing, self.registry)
        self.callers = Authenticator(config.keys_file, self.registry)
        self.entrance = access_control.entrance(config.access, self.callers, limiter)
        self.metrics = Metrics(self.registry)
        self.readiness = Readiness()

    def _line(self, name: str, engine: str, options: dict, pipeline: Pipeline, cache_mb: float) -> Backend:
        made = contract.create(engine, options)  # capabilities only: loads no weights
        can, unpack = made.capabilities, self.shelf.unpack
        voices = VoiceCache(can, unpack, cache_mb)
        return Backend(
            name,
            made,
            pipeline,
            voices,
            StoredVoices(self.voices_store, pipeline, voices, can, unpack),
            Synthesizer(pipeline, can, unpack, self.config.limits.pieces_at_once),
        )

    def __serve_build_asgi_app__(self):
        """Serve's hook: the ASGI app, built in the replica on its event loop."""
        for line in self.lines:
            for stage in line.pipeline.stages.values():
                stage.connect(self.shelf)
        self.entrance.counting.start()
        self.metrics.watch(self._counted)
        self.gateway = TracingMiddleware(
            app.build(self),
            self.tracer,
            self.keeper,
            self.callers,
            routes=Routes(vocabulary.ROUTES),
            deadline_s=self.config.limits.deadline_s,
            trace_url=self.config.tracing.trace_url,
            entrance=self.entrance,
            metrics=self.metrics,
        )
        return self.gateway

    def reconfigure(self, user_config: dict) -> None:
        """Serve calls this at start and whenever `user_config` changes; the process lives on."""
        live = LiveApi(**user_config)
        self.keeper.reconfigure(live)
        self.metrics.on = live.metrics
        self.lines.primary.voices.configure(
            self.config.voice_cache_mb if live.voice_cache_mb is None else live.voice_cache_mb
        )

    async def steer(self, line: str, for_s: float) -> str:
        """Called by the watchdog, through a handle: see `Failover.steer`."""
        return self.lines.steer(line, for_s)

    async def answer(
        self, ask: SpeechRequest, source: Source, run: RequestContext, written: responses.EventFormat | None = None
    ) -> Response:
        """A request for speech, whatever its route, as its HTTP answer. `written`: another form of events than ours."""
        engine = source.line.engine
        engine.check(ask.utterance)
        if ask.long_form:
            run.extend(self.config.limits.long_deadline_s)
        rate = engine.capabilities.sample_rate
        if ask.stream_format is None:
            async with self._admitted(run):
                samples = await source.line.speaking.whole(ask, source.find, run)
            run.audio_s = len(samples) / rate
            return await responses.whole(ask, samples, rate)
        sounds = self._sounds(ask, source, run)
        if ask.stream_format == "audio":
            return await responses.stream(ask, sounds, rate, run)
        return await responses.events(ask, sounds, rate, run, written or responses.EventFormat(self.gateway.trace_url))

    async def _sounds(self, ask: SpeechRequest, source: Source, run: RequestContext) -> AsyncIterator[np.ndarray]:
        line = source.line
        async with self._admitted(run), aclosing(line.speaking.stream(ask, source.find, run)) as sounds:
            async for samples in sounds:
                run.audio_s += len(samples) / line.engine.capabilities.sample_rate
                yield samples

    @asynccontextmanager
    async def _admitted(self, run: RequestContext) -> AsyncIterator[None]:
        arrived = time.time_ns()
        async with self.admission.enter():
            run.root.tag(vocabulary.QUEUE_WAIT_MS, round((time.time_ns() - arrived) / 1e6, 3))
            try:
                yield
            finally:  # a refused clip too was put there
                asyncio.get_running_loop().call_later(HOLD_S + 0.1, self.shelf.tidy)

    async def asked(
        self, fields: Mapping[str, str], clip: bytes | None, run: RequestContext, otherwise: str | None = None
    ) -> tuple[SpeechRequest, Source]:
        """What a request's fields ask for, and where its voice is: in the clip that came along, or in the store.

        Where no dialect is named, the stored voice's stands in, then the key's, then `otherwise`, the config's.
        """
        line = self._line_of(run)
        run.fallback = line is self.lines.fallback
        run.root.tag(vocabulary.REQUEST_FALLBACK, "true" if run.fallback else None)
        record = await self._record(fields.get("voice"), clip)
        stands_in = ((record and record.dialect, "voice"), (run.caller.dialect, "key"), (otherwise, "config"))
        fallback = next((Fallback(dialect, source) for dialect, source in stands_in if dialect), None)
        ask = requests.parse(fields, self.registry, fallback)
        run.root.tags(
            **{
                vocabulary.REQUEST_DIALECT: ask.dialect.tag,
                vocabulary.REQUEST_LANGUAGE: ask.dialect.language,
                vocabulary.REQUEST_DIALECT_SOURCE: ask.dialect_source,
                vocabulary.REQUEST_MODE: ask.utterance.mode,
                vocabulary.TEXT_LENGTH: len(ask.utterance.text),
                vocabulary.TEXT_SCRIPT: script_of(ask.utterance.text),
            }
        )
        run.dialect, run.mode = ask.dialect.tag, ask.utterance.mode
        line.engine.capabilities.check_dialect(ask.utterance.dialect)
        check_script(ask.utterance.text, ask.dialect.code, line.engine.capabilities.dialects, self.registry)
        if record is None:
            return ask, Source(line, lambda run: line.pipeline.voice(clip, ask.utterance.prompt_text, run, line.voices))
        if ask.utterance.prompt_text is not None:
            raise InvalidInput(
                "A stored voice has its own transcript, given when it was stored; leave 'prompt_text' out.",
                param="prompt_text",
                code="transcript_of_stored_voice",
            )
        ask = replace(ask, utterance=replace(ask.utterance, prompt_text=record.transcript))
        return ask, Source(line, lambda run: line.stored.use(record, run))

    def _line_of(self, run: RequestContext) -> Backend:
        return self.lines.primary if run.wants_primary else self.lines.current

    async def _record(self, voice: str | None, clip: bytes | None) -> VoiceRecord | None:
        if clip is not None and voice:
            raise InvalidInput(
                "Send either 'prompt_audio', a clip, or 'voice', a stored voice, and not both.",
                param="voice",
                code="two_voices",
            )
        if clip is None and not voice:
            raise InvalidInput(
                "The field 'prompt_audio' is missing: a recording of 3 to 15 s of the voice, sent as a "
                "file (curl: -F prompt_audio=@voice.wav). Or name a stored voice in 'voice'.",
                param="prompt_audio",
                code="clip_missing",
            )
        return await self.lines.primary.stored.find(voice) if voice else None

    async def get_ready(self, record: VoiceRecord, run: RequestContext) -> None:
        """Find a stored voice in its clip, so that its first request need not."""
        async with self._admitted(run):
            await self.lines.current.stored.use(record, run)

    def administers(self, run: RequestContext) -> bool:
        """Whether a request's caller may delete what others have stored."""
        return not self.entrance.required or "admin" in run.caller.roles

    async def dialects(self, run: RequestContext) -> JSONResponse:
        can = self._line_of(run).engine.capabilities
        return JSONResponse(
            {
                "engine": {
                    "name": can.name,
                    "version": can.version,
                    "notice": can.notice,
                    "modes": sorted(can.modes),
                    "sample_rate": can.sample_rate,
                },
                "languages": sorted({dialect.language for dialect in self.registry if dialect.code in can.dialects}),
                "dialects": self.registry.public(can.dialects),
            }
        )

    async def ready(self) -> JSONResponse:
        line = self.lines.current
        stages = await self.readiness.stages(line)
        ok = all(stages.values()) and not self.admission.draining
        return JSONResponse(
            {"ready": ok, "draining": self.admission.draining, "line": line.name, "stages": stages},
            200 if ok else 503,
            headers=None if ok else {"Retry-After": "1"},
        )

    async def drain(self) -> int:
        """Refuse new requests from now on; returns how many are still in the graph. Called through a handle."""
        self.admission.draining = True
        return self.admission.in_flight + self.admission.waiting

    def _counted(self) -> dict[str, int]:
        return self.keeper.counters() | {"in_flight": self.admission.in_flight, "waiting": self.admission.waiting}

    async def counters(self) -> dict[str, int]:
        """What became of this replica's traces, voices and callers at their limits, for tests and operators."""
        primary = self.lines.primary
        voices = {f"voice_cache_{name}": n for name, n in primary.voices.counters().items()}
        if self.voices_store is not None:
            voices |= {f"voice_store_{name}": n for name, n in self.voices_store.counters().items()}
        return (
            self.keeper.counters()
            | voices
            | primary.stored.counters()
            | self.entrance.counters()
            | {"pid": os.getpid()}
        )

    def __del__(self) -> None:
        if keeper := getattr(self, "keeper", None):  # absent where the constructor failed
            keeper.close(timeout_s=5.0)
