"""cosyvoice3-api: the HTTP ingress. It checks and admits requests, runs the DAG, and sees every trace to its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any

import ray
from fastapi.responses import JSONResponse, Response
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp

from access.authentication import Authenticator
from deployments import place, ray_internals, serve_log
from deployments.arrays import HOLD_S, Array, ArrayStore, Nodes
from deployments.ingress import access_control, app, cors, environment_check, responses, server_sent_events
from deployments.ingress.admission import Admission
from deployments.ingress.backends import Backend, Failover
from deployments.ingress.context import RequestContext
from deployments.ingress.fitting import Fitting
from deployments.ingress.following import Follower
from deployments.ingress.http10 import WholeAnswers
from deployments.ingress.live_sessions import Sessions
from deployments.ingress.live_speech import NO_TEXT_YET, LiveSpeech
from deployments.ingress.metrics import Metrics
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.readiness import Readiness
from deployments.ingress.request_tags import tag_speech
from deployments.ingress.run_ahead import RunAhead
from deployments.ingress.speech_graph import SpeechGraph
from deployments.ingress.stage_clients import WatermarkClient
from deployments.ingress.stage_result import unpacked
from deployments.ingress.synthesis import Synthesizer
from deployments.ingress.trace_recorder import TraceRecorder
from deployments.ingress.tracing_middleware import TracingMiddleware
from deployments.ingress.voice_cache import CachedVoice, VoiceCache
from deployments.ingress.voice_resolver import Clip, StoredVoice, VoiceMix, VoiceResolver, VoiceSource
from deployments.settings import ApiConfig, LiveApi
from engines import contract
from speech import requests
from speech.errors import RETRY_AFTER_SUCCESSOR_S, InvalidInput
from speech.limits import CLIP_DURATION
from speech.mark import Mark
from speech.requests import Fallback, SpeechRequest
from speech.script import check_script
from speech.words import AudioPart
from tracing import vocabulary
from tracing.routes import Routes
from voices import VoiceRecord, Voices, mix

#: A WebSocket session is one of Serve's ongoing requests as long as it is open.
INGRESS_OPTIONS = {"max_ongoing_requests": 1024}


@serve.ingress()
class CosyVoice3Api:
    """One ingress replica; an `IngressApi` to its routes.

    Args:
        config: the ingress's settings.
        graph: the DAG, with the handles of the stages in it.
        limiter: the handle of `access/limiter.py`; None if callers have no limits.
        fallback: the DAG of the other engine; None if none is configured.
        fitting: the handle of fitting-service; None where it does not run.
    """

    service = vocabulary.INGRESS

    def __init__(
        self,
        config: ApiConfig,
        graph: SpeechGraph,
        limiter: DeploymentHandle[Any] | None = None,
        fallback: SpeechGraph | None = None,
        fitting: DeploymentHandle[Any] | None = None,
    ) -> None:
        serve_log.attach()
        environment_check.warn()
        self.config = config
        self.registry = config.registry
        self.admission = Admission(config.limits)
        self.tracer = place.tracer(self.service, serve.get_replica_context().replica_id.unique_id)
        self.arrays = ArrayStore(ray.get_runtime_context().get_node_id(), Nodes(), host=place.node_address())
        self.voices_store = Voices.open(config.voices)
        primary = self._backend(vocabulary.PRIMARY, config.engine, config.engine_options, graph, config.voice_cache_mb)
        other = None
        if fallback is not None and config.fallback is not None:
            # What the fallback engine finds in clips is not cached: it is in use for minutes.
            other = self._backend(
                vocabulary.FALLBACK, config.fallback.engine, config.fallback.engine_options, fallback, 0.0
            )
        self.backends = Failover(primary, other)
        self.engine = primary.engine
        self.fitting = Fitting(fitting, self.voices_store, primary.engine.capabilities, config.limits)
        self.started_s = int(time.time())
        self.recorder = TraceRecorder(config.tracing, self.registry)
        self.authenticator = Authenticator(config.keys_file, self.registry)
        self.access_control = access_control.for_replica(config.access, self.authenticator, limiter)
        self.metrics = Metrics(self.registry)
        self.readiness = Readiness()
        self.sessions = Sessions(config.limits.sessions)
        self.live = LiveSpeech(
            self.registry, self.parse_session, self._backend_for, self._admitted, has_fallback=other is not None
        )
        self.watermarks: dict[str, WatermarkClient] = {}  # by backend; empty where there is no watermark

    def _backend(
        self, name: str, engine_name: str, options: dict[str, Any], graph: SpeechGraph, cache_mb: float
    ) -> Backend:
        engine = contract.create(engine_name, options)  # capabilities only: loads no weights
        capabilities = engine.capabilities
        cache = VoiceCache(capabilities, self.arrays.unpack_all, cache_mb)
        mixer = getattr(engine, "mix", None) if capabilities.mixes_voices else None
        voices = VoiceResolver(graph, capabilities, cache, self.voices_store, self.arrays, mixer)
        limits, ahead = self.config.limits, RunAhead()
        synthesizer = Synthesizer(
            graph, voices, capabilities, self.arrays, limits.pieces_at_once, limits.first_audio_hold_s, ahead
        )
        hold_s = limits.first_audio_hold_s
        follower = Follower(graph, capabilities, self.arrays, limits.pieces_at_once, hold_s, ahead)
        return Backend(name, engine, graph, voices, synthesizer, follower)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Build the ASGI app; Serve calls this in the replica, on its event loop."""
        clocks = PeerClocks(ray.get_runtime_context().get_node_id())
        for backend in self.backends:
            for stage in backend.graph.stages.values():
                stage.connect(self.arrays, clocks)
        if self.config.marking.watermark != "off":
            for backend in self.backends:
                finder = WatermarkClient(backend.graph.stages[vocabulary.VOCODER].handle)
                finder.connect(self.arrays, clocks)
                self.watermarks[backend.name] = finder
        self.access_control.rate_limits.start()
        self.fitting.start()
        self.sessions.start(ray_internals.replica_is_stopping)
        self.metrics.watch(self._watched_counters)
        self.middleware = TracingMiddleware(
            app.build(self),
            self.tracer,
            self.recorder,
            self.authenticator,
            routes=Routes(vocabulary.ROUTES),
            deadline_s=self.config.limits.deadline_s,
            trace_url=self.config.tracing.trace_url,
            access_control=self.access_control,
            metrics=self.metrics,
        )
        return WholeAnswers(cors.around(self.middleware, self.config.cors))

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new live settings. Serve calls this at start and on every change; the process lives on."""
        live = LiveApi(**user_config)
        self.recorder.reconfigure(live)
        self.metrics.on = live.metrics
        self.backends.primary.voices.cache.configure(
            self.config.voice_cache_mb if live.voice_cache_mb is None else live.voice_cache_mb
        )

    async def switch_backend(self, name: str, for_s: float) -> str:
        """Use a backend for some seconds: `Failover.switch`, called by the watchdog through a handle."""
        return self.backends.switch(name, for_s)

    async def speak(
        self,
        fields: Mapping[str, str],
        upload: bytes | None,
        ctx: RequestContext,
        *,
        default_dialect: str | None = None,
        event_format: server_sent_events.EventFormat | None = None,
    ) -> Response:
        """Answer a request for speech: see `IngressApi.speak`."""
        backend = self._backend_for(ctx)
        request, source = await self._parse(fields, upload, ctx, backend, default_dialect)
        backend.engine.capabilities.check_timestamps(request.timestamps)
        backend.engine.check(request.utterance)
        limits = self.config.limits
        if request.waits_for_fit:
            self.fitting.require()
            await ctx.extend_deadline(limits.fit_deadline_s + limits.deadline_s)
        elif request.long_form:
            await ctx.extend_deadline(limits.long_deadline_s)
        rate = backend.engine.capabilities.sample_rate
        mark = Mark(self.config.marking.producer, ctx.trace_id)
        # Without chunks there is no streaming: a whole file has a status for errors, and a length.
        if request.stream_format is None or (request.stream_format == "audio" and not ctx.takes_chunks):
            source = await self._fitted(request, source, ctx, backend)
            async with self._admitted(ctx):
                audio = await backend.synthesizer.synthesize(request, source, ctx)
            ctx.audio_s = len(audio.samples) / rate
            return await responses.whole(request, audio, rate, mark)
        parts = self._stream(request, source, ctx, backend)
        if request.stream_format == "audio":
            return await responses.stream(request, parts, rate, ctx, mark)
        event_format = event_format or server_sent_events.EventFormat(self.middleware.trace_url)
        return await responses.events(request, parts, rate, ctx, event_format, mark)

    async def _stream(
        self, request: SpeechRequest, source: VoiceSource, ctx: RequestContext, backend: Backend
    ) -> AsyncGenerator[AudioPart, None]:
        source = await self._fitted(request, source, ctx, backend)
        async with self._admitted(ctx), aclosing(backend.synthesizer.stream(request, source, ctx)) as parts:
            async for part in parts:
                ctx.audio_s += len(part.samples) / backend.engine.capabilities.sample_rate
                yield part

    async def _fitted(
        self, request: SpeechRequest, source: VoiceSource, ctx: RequestContext, backend: Backend
    ) -> VoiceSource:
        """Wait for the voice's fit where the request says so. Its own deadline begins afterwards."""
        if not request.waits_for_fit or backend is not self.backends.primary:
            return source
        if isinstance(source, VoiceRecord):
            await self.fitting.wait_for_voice(source, ctx)
            source = await backend.voices.find_stored(source.id)  # its record says now that it wants a fit
        elif isinstance(source, Clip):
            async with self._admitted(ctx):
                voice = await backend.voices.resolve(replace(source, for_fit=True), ctx)
                steered = await unpacked(voice, self.arrays)
            fitted = await self.fitting.fitted_clip(source.upload, CachedVoice.copy_of(steered).arrays, ctx)
            ctx.voice_fit = "steered" if fitted is None else "fitted"
            ctx.root.tag(vocabulary.VOICE_FIT, ctx.voice_fit)
            source = CachedVoice.copy_of(steered if fitted is None else fitted)
        limits = self.config.limits
        await ctx.extend_deadline(ctx.elapsed_s + (limits.long_deadline_s if request.long_form else limits.deadline_s))
        return source

    @asynccontextmanager
    async def _admitted(self, ctx: RequestContext) -> AsyncIterator[None]:
        arrived = time.time_ns()
        async with self.admission.enter(ctx.came_ns):
            ctx.root.tag(vocabulary.QUEUE_WAIT_MS, round((time.time_ns() - arrived) / 1e6, 3))
            try:
                yield
            finally:  # a refused clip too was put there
                asyncio.get_running_loop().call_later(HOLD_S + 0.1, self.arrays.expire)

    async def _parse(
        self,
        fields: Mapping[str, str],
        upload: bytes | None,
        ctx: RequestContext,
        backend: Backend,
        default_dialect: str | None,
    ) -> tuple[SpeechRequest, VoiceSource]:
        """Check a request's fields. If no dialect is named, the stored voice's stands in, then the key's, then ours."""
        record = await self._stored_voice(fields.get("voice"), upload, backend)
        if isinstance(record, VoiceMix):
            _check_mix(record, fields)
        stand_ins = (
            (record.dialect if record else None, "voice"),
            (ctx.caller.dialect, "key"),
            (default_dialect, "config"),
        )
        stand_in = next((Fallback(dialect, source) for dialect, source in stand_ins if dialect), None)
        request = requests.parse(fields, self.registry, stand_in)
        tag_speech(ctx, request)
        backend.engine.capabilities.check_dialect(request.utterance.dialect)
        check_script(request.utterance.text, request.dialect.code, backend.engine.capabilities.dialects, self.registry)
        if record is None:
            assert upload is not None, "_stored_voice has refused a request with neither"
            return request, Clip(upload, request.utterance.prompt_text)
        if request.utterance.prompt_text is not None:
            raise InvalidInput(
                "A stored voice has its own transcript, given when it was stored; leave 'prompt_text' out.",
                param="prompt_text",
                code="transcript_of_stored_voice",
            )
        return replace(request, utterance=replace(request.utterance, prompt_text=record.transcript)), record

    async def _stored_voice(self, voice: str | None, upload: bytes | None, backend: Backend) -> StoredVoice | None:
        if upload is not None and voice:
            raise InvalidInput(
                "Send either 'prompt_audio', a clip, or 'voice', a stored voice, and not both.",
                param="voice",
                code="two_voices",
            )
        if upload is None and not voice:
            raise InvalidInput(
                f"The field 'prompt_audio' is missing: a recording of {CLIP_DURATION} of the voice, sent as a "
                "file (curl: -F prompt_audio=@voice.wav). Or name a stored voice in 'voice'.",
                param="prompt_audio",
                code="clip_missing",
            )
        if not voice:
            return None
        aliases = self.config.aliases.voices
        voice = aliases.get(voice, voice)
        members = mix.parse(voice)
        if members is None:
            return await backend.voices.find_stored(voice)
        return await backend.voices.find_mix([replace(one, name=aliases.get(one.name, one.name)) for one in members])

    def _backend_for(self, ctx: RequestContext) -> Backend:
        """Choose the request's backend, and say so in its trace and its metrics."""
        backend = self.backends.primary if ctx.wants_primary else self.backends.current
        ctx.on_fallback = backend is self.backends.fallback
        ctx.root.tag(vocabulary.REQUEST_FALLBACK, "true" if ctx.on_fallback else None)
        return backend

    def subrequest(
        self, parent: RequestContext, name: str, *, deadline_s: float, tags: Mapping[str, Any] | None = None
    ) -> AbstractAsyncContextManager[RequestContext]:
        """Open a traced request without an HTTP request of its own: see `IngressApi.subrequest`."""
        return self.middleware.subrequests.open(parent, name, deadline_s=deadline_s, tags=tags)

    def trace_url(self, ctx: RequestContext) -> str | None:
        """Return where people find the trace of a subrequest: see `IngressApi.trace_url`."""
        return self.middleware.trace_url(ctx, bool(ctx.kept))

    async def prepare_voice(self, record: VoiceRecord, ctx: RequestContext) -> None:
        """Find a stored voice in its clip, so that its first request need not."""
        async with self._admitted(ctx):
            await self.backends.current.voices.resolve(record, ctx)

    async def find_watermark(self, samples: Array, rate: int, ctx: RequestContext) -> float | None:
        """Look for the watermark in a file's audio: see `IngressApi.find_watermark`."""
        finder = self.watermarks.get(self._backend_for(ctx).name)
        if finder is None:
            return None
        async with self._admitted(ctx):
            return await finder.find(samples, rate, ctx)

    async def parse_session(
        self, fields: Mapping[str, str], upload: bytes | None, ctx: RequestContext
    ) -> tuple[SpeechRequest, VoiceSource, Backend]:
        """Check the fields of a session, whose text comes later."""
        backend = self._backend_for(ctx)
        request, source = await self._parse({**fields, "text": NO_TEXT_YET}, upload, ctx, backend, None)
        ctx.root.tags({vocabulary.TEXT_LENGTH: 0, vocabulary.TEXT_SCRIPT: "none"})
        backend.engine.check(request.utterance)
        return request, source, backend

    def is_admin(self, ctx: RequestContext) -> bool:
        """Tell whether the caller may change voices of others."""
        return not self.access_control.required or "admin" in ctx.caller.roles

    def engine_for(self, ctx: RequestContext) -> contract.Engine:
        """Return the engine in use; the primary one for a request that asks for it."""
        return (self.backends.primary if ctx.wants_primary else self.backends.current).engine

    async def ready(self) -> JSONResponse:
        """Answer `/ready`: which stages of the backend in use have a replica that answers."""
        backend = self.backends.current
        stages = await self.readiness.stages(backend)
        ok = all(stages.values()) and not self.admission.draining
        return JSONResponse(
            {"ready": ok, "draining": self.admission.draining, "line": backend.name, "stages": stages},
            200 if ok else 503,
            headers=None if ok else {"Retry-After": str(round(RETRY_AFTER_SUCCESSOR_S))},
        )

    async def drain(self) -> int:
        """Refuse new requests from now on; returns how many are still to be finished. Called through a handle."""
        self.admission.drain()
        self.sessions.drain()
        return self.admission.in_flight + self.admission.waiting + self.sessions.speaking

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the scaling policy reads. Serve calls this by its name, where the ingress is autoscaled."""
        return self.admission.work_stats()

    def _watched_counters(self) -> dict[str, int]:
        return (
            self.recorder.counters()
            | self.sessions.counters()
            | {"in_flight": self.admission.in_flight, "waiting": self.admission.waiting}
        )

    async def counters(self) -> dict[str, int]:
        """Return what became of this replica's traces, voices and callers at their limits, for tests and operators."""
        voices = self.backends.primary.voices
        counts = {f"voice_cache_{name}": n for name, n in voices.cache.counters().items()}
        if self.voices_store is not None:
            counts |= {f"voice_store_{name}": n for name, n in self.voices_store.counters().items()}
        return (
            self.recorder.counters()
            | counts
            | voices.counters()
            | self.fitting.counters()
            | self.access_control.counters()
            | self.sessions.counters()
            | {"pid": os.getpid()}
        )

    def __del__(self) -> None:
        if recorder := getattr(self, "recorder", None):  # absent if the constructor failed
            recorder.close(timeout_s=5.0)


def _check_mix(voices: VoiceMix, fields: Mapping[str, str]) -> None:
    """Refuse what one stored voice can have and a mix can't: a dialect of its own, and a wait for its fit."""
    if voices.dialect is None and not fields.get("dialect"):
        raise InvalidInput(
            "The voices of the mix have different dialects, so none of them stands in. Name the dialect to speak in "
            "the field 'dialect'.",
            param="dialect",
            code="mix_dialects_differ",
        )
    if fields.get("fit"):
        raise InvalidInput(
            "A mix has no fit to wait for: it uses those that its voices have. Leave 'fit' out, or ask for each "
            "voice's own fit (POST /v1/audio/voices/{voice}/fit).",
            param="fit",
            code="mix_has_no_fit",
        )
