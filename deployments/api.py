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
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from access.callers import Callers
from deployments import access_control, answers, api_docs
from deployments.admission import Admission
from deployments.arrays import HOLD_S, Nodes, Shelf
from deployments.client import StageClient
from deployments.gateway import Gateway
from deployments.keeper import Keeper
from deployments.metrics import Metrics
from deployments.routes import cosyvoice, generate, openai, voices
from deployments.run import Run
from deployments.settings import ApiConfig, LiveApi
from deployments.speaking import Pipeline, Source, Speaking
from deployments.stored_voices import StoredVoices
from deployments.voice_cache import VoiceCache
from engines import contract
from speech import requests
from speech.dialects import DIALECTS
from speech.errors import InternalError, InvalidInput, MethodNotAllowed, NotFound, SpeechError
from speech.requests import Ask, Fallback
from tracing import Tracer, vocabulary
from tracing.routes import Routes
from voices import VoiceRecord, Voices

READY_TIMEOUT_S = 2.0
READY_CACHE_S = 1.0


@serve.ingress()
class CosyVoice3Api:
    """One ingress replica. Other services' handles are inside `pipeline`."""

    service = "cosyvoice3-api"

    def __init__(self, config: ApiConfig, pipeline: Pipeline, limiter: DeploymentHandle | None = None) -> None:
        self.config = config
        self.pipeline = pipeline
        self.engine = contract.create(config.engine, config.engine_options)  # capabilities only: loads no weights
        self.registry = DIALECTS.extended(config.dialects)
        self.admission = Admission(config.limits)
        self.tracer = Tracer(self.service, instance=serve.get_replica_context().replica_id.unique_id)
        self.shelf = Shelf(ray.get_runtime_context().get_node_id(), Nodes())
        self.voices = VoiceCache(self.engine.capabilities, self.shelf.unpack, config.voice_cache_mb)
        self.voices_store = Voices.open(config.voices)
        self.stored = StoredVoices(self.voices_store, pipeline, self.voices, self.engine.capabilities,
                                   self.shelf.unpack)
        self.started_s = int(time.time())
        self.speaking = Speaking(pipeline, self.engine.capabilities, self.shelf.unpack, config.limits.pieces_at_once)
        self.keeper = Keeper(config.tracing, self.registry)
        self.callers = Callers(config.keys_file, self.registry)
        self.entrance = access_control.entrance(config.access, self.callers, limiter)
        self.metrics = Metrics(self.registry)
        self._ready: tuple[float, dict[str, bool]] = (float("-inf"), {})

    def __serve_build_asgi_app__(self):
        """Serve's hook: the ASGI app, built in the replica on its event loop."""
        for stage in self.pipeline.stages.values():
            stage.connect(self.shelf)
        self.entrance.counting.start()
        self.metrics.watch(self._counted)
        self.gateway = Gateway(_app(self), self.tracer, self.keeper, self.callers, routes=Routes(vocabulary.ROUTES),
                               deadline_s=self.config.limits.deadline_s, trace_url=self.config.tracing.trace_url,
                               entrance=self.entrance, metrics=self.metrics)
        return self.gateway

    def reconfigure(self, user_config: dict) -> None:
        """Serve calls this at start and whenever `user_config` changes; the process lives on."""
        live = LiveApi(**user_config)
        self.keeper.reconfigure(live)
        self.voices.configure(self.config.voice_cache_mb if live.voice_cache_mb is None else live.voice_cache_mb)

    async def answer(self, ask: Ask, source: Source, run: Run, written: answers.Written | None = None) -> Response:
        """A request for speech, whatever its route, as its HTTP answer. `written`: another form of events than ours."""
        self.engine.check(ask.utterance)
        if ask.long_form:
            run.extend(self.config.limits.long_deadline_s)
        rate = self.engine.capabilities.sample_rate
        if ask.stream_format is None:
            async with self._admitted(run):
                samples = await self.speaking.whole(ask, source, run)
            run.audio_s = len(samples) / rate
            return await answers.whole(ask, samples, rate)
        sounds = self._sounds(ask, source, run)
        if ask.stream_format == "audio":
            return await answers.stream(ask, sounds, rate, run)
        return await answers.events(ask, sounds, rate, run, written or answers.Written(self.gateway.trace_url))

    async def _sounds(self, ask: Ask, source: Source, run: Run) -> AsyncIterator[np.ndarray]:
        async with self._admitted(run), aclosing(self.speaking.stream(ask, source, run)) as sounds:
            async for samples in sounds:
                run.audio_s += len(samples) / self.engine.capabilities.sample_rate
                yield samples

    @asynccontextmanager
    async def _admitted(self, run: Run) -> AsyncIterator[None]:
        arrived = time.time_ns()
        async with self.admission.enter():
            run.root.tag(vocabulary.QUEUE_WAIT_MS, round((time.time_ns() - arrived) / 1e6, 3))
            try:
                yield
            finally:  # a refused clip too was put there
                asyncio.get_running_loop().call_later(HOLD_S + 0.1, self.shelf.tidy)

    async def asked(self, fields: Mapping[str, str], clip: bytes | None, run: Run,
                    otherwise: str | None = None) -> tuple[Ask, Source]:
        """What a request's fields ask for, and where its voice is: in the clip that came along, or in the store.

        Where no dialect is named, the stored voice's stands in, then the key's, then `otherwise`, the config's.
        """
        record = await self._record(fields.get("voice"), clip)
        stands_in = ((record and record.dialect, "voice"), (run.caller.dialect, "key"), (otherwise, "config"))
        fallback = next((Fallback(dialect, source) for dialect, source in stands_in if dialect), None)
        ask = requests.parse(fields, self.registry, fallback)
        run.root.tags(**{
            vocabulary.REQUEST_DIALECT: ask.dialect.tag, vocabulary.REQUEST_LANGUAGE: ask.dialect.language,
            vocabulary.REQUEST_DIALECT_SOURCE: ask.dialect_source, vocabulary.REQUEST_MODE: ask.utterance.mode,
            vocabulary.TEXT_LENGTH: len(ask.utterance.text)})
        run.dialect, run.mode = ask.dialect.tag, ask.utterance.mode
        self.engine.capabilities.check_dialect(ask.utterance.dialect)
        if record is None:
            return ask, lambda run: self.pipeline.voice(clip, ask.utterance.prompt_text, run, self.voices)
        if ask.utterance.prompt_text is not None:
            raise InvalidInput("A stored voice has its own transcript, given when it was stored; leave 'prompt_text' "
                               "out.", param="prompt_text", code="transcript_of_stored_voice")
        ask = replace(ask, utterance=replace(ask.utterance, prompt_text=record.transcript))
        return ask, lambda run: self.stored.use(record, run)

    async def _record(self, voice: str | None, clip: bytes | None) -> VoiceRecord | None:
        if clip is not None and voice:
            raise InvalidInput("Send either 'prompt_audio', a clip, or 'voice', a stored voice, and not both.",
                               param="voice", code="two_voices")
        if clip is None and not voice:
            raise InvalidInput("The field 'prompt_audio' is missing: a recording of 3 to 15 s of the voice, sent as a "
                               "file (curl: -F prompt_audio=@voice.wav). Or name a stored voice in 'voice'.",
                               param="prompt_audio", code="clip_missing")
        return await self.stored.find(voice) if voice else None

    async def get_ready(self, record: VoiceRecord, run: Run) -> None:
        """Find a stored voice in its clip, so that its first request need not."""
        async with self._admitted(run):
            await self.stored.use(record, run)

    def administers(self, run: Run) -> bool:
        """Whether a request's caller may delete what others have stored."""
        return not self.entrance.required or "admin" in run.caller.roles

    async def dialects(self) -> JSONResponse:
        can = self.engine.capabilities
        return JSONResponse({
            "engine": {"name": can.name, "version": can.version, "notice": can.notice,
                       "modes": sorted(can.modes), "sample_rate": can.sample_rate},
            "languages": sorted({dialect.language for dialect in self.registry if dialect.code in can.dialects}),
            "dialects": self.registry.public(can.dialects)})

    async def ready(self) -> JSONResponse:
        stages = await self._stages()
        ok = all(stages.values()) and not self.admission.draining
        return JSONResponse({"ready": ok, "draining": self.admission.draining, "stages": stages},
                            200 if ok else 503, headers=None if ok else {"Retry-After": "1"})

    async def _stages(self) -> dict[str, bool]:
        """Whether a replica of each stage answers, asked at most once a second: probes must not become load."""
        asked, stages = self._ready
        if time.monotonic() - asked > READY_CACHE_S:
            answers = await asyncio.gather(*map(_answers, self.pipeline.stages.values()))
            stages = dict(zip(self.pipeline.stages, answers, strict=True))
            self._ready = (time.monotonic(), stages)
        return stages

    async def drain(self) -> int:
        """Refuse new requests from now on; returns how many are still in the graph. Called through a handle."""
        self.admission.draining = True
        return self.admission.in_flight + self.admission.waiting

    def _counted(self) -> dict[str, int]:
        return self.keeper.counters() | {"in_flight": self.admission.in_flight, "waiting": self.admission.waiting}

    async def counters(self) -> dict[str, int]:
        """What became of this replica's traces, voices and callers at their limits, for tests and operators."""
        voices = {f"voice_cache_{name}": n for name, n in self.voices.counters().items()}
        if self.voices_store is not None:
            voices |= {f"voice_store_{name}": n for name, n in self.voices_store.counters().items()}
        return (self.keeper.counters() | voices | self.stored.counters() | self.entrance.counters()
                | {"pid": os.getpid()})

    def __del__(self) -> None:
        if keeper := getattr(self, "keeper", None):  # absent where the constructor failed
            keeper.close(timeout_s=5.0)


async def _answers(stage: StageClient) -> bool:
    try:
        async with asyncio.timeout(READY_TIMEOUT_S):
            await stage.handle.ping.remote()
    except Exception:
        return False  # whatever the reason, this stage can't serve now
    return True


def _app(api: CosyVoice3Api) -> FastAPI:
    # FastAPI's own OpenTelemetry would wake up as soon as anybody sets a global provider. A redirect to where a slash
    # less is would quote the request's path and Host.
    app = FastAPI(title="Cosygraph", description="Voice cloning as a Ray Serve graph; one request, one trace.",
                  telemetry={"tracing": False}, redirect_slashes=False)

    for routes in (generate, openai, voices, cosyvoice):
        routes.add(app, api)

    @app.get("/api/dialects", summary="Dialects and languages, and which of them the running engine can speak",
             **api_docs.DIALECTS)
    async def dialects():
        return await api.dialects()

    @app.get("/health", summary="The ingress lives", **api_docs.HEALTH)
    async def health():
        return {"status": "ok"}

    @app.get("/ready", summary="Every stage has a replica that answers", **api_docs.READY)
    async def ready():
        return await api.ready()

    @app.exception_handler(SpeechError)
    async def speech_error(request: Request, error: SpeechError):
        return _answer(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException):
        more = {"Allow": _methods(request)} if error.status_code == 405 else error.headers
        return _answer(request, _translated(error), more)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception):
        # Without it Starlette answers in a shape of its own before the gateway, which logs it, knows of the error.
        return _answer(request, InternalError("The service failed in a way it should not have; its log says where, "
                                              "under this trace's id."))

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect):
        raise asyncio.CancelledError from error
    return app


def _methods(request: Request) -> str:
    """What a path takes; Starlette names the methods of the first of its routes alone."""
    return ", ".join(sorted({method for route in request.app.routes if route.matches(request.scope)[0] is Match.PARTIAL
                             for method in route.methods}))


def _translated(error: HTTPException) -> SpeechError:
    if error.status_code == 404:
        return NotFound("There is nothing at this path; GET /docs lists what there is.")
    if error.status_code == 405:
        return MethodNotAllowed("This path does not take this method; GET /docs says which it takes.")
    return InternalError("The service failed in a way it should not have.")


def _answer(request: Request, error: SpeechError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    request.state.run.error = error
    return JSONResponse(error.body(), error.status, {**(headers or {}), **error.headers()})
