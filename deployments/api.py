"""cosyvoice3-api: the HTTP ingress. Checks, admits, runs the DAG, and sees every trace to its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Mapping
from typing import Protocol

import ray
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from ray import serve
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from deployments import form, messages
from deployments.admission import Admission
from deployments.api_docs import GENERATE
from deployments.arrays import HOLD_S, InputLost, Nodes, Shelf
from deployments.callers import Callers
from deployments.client import Result, StageClient
from deployments.gateway import Gateway
from deployments.keeper import Keeper
from deployments.run import Run
from deployments.settings import ApiConfig, LiveApi
from deployments.voice_cache import VoiceCache
from deployments.wire import WAV
from engines import contract
from engines.contract import Utterance
from speech import requests
from speech.dialects import DIALECTS
from speech.errors import InternalError, MethodNotAllowed, NotFound, SpeechError, StageUnavailable, UnsupportedDialect
from tracing import Tracer, vocabulary

READY_TIMEOUT_S = 2.0
READY_CACHE_S = 1.0


class Pipeline(Protocol):
    """The DAG, as `graph.py` defines it."""

    stages: Mapping[str, StageClient]  #: by service name

    def __call__(self, upload: bytes, utterance: Utterance, run: Run, voices: VoiceCache) -> Awaitable[Result]: ...


@serve.ingress()
class CosyVoice3Api:
    """One ingress replica. Other services' handles are inside `pipeline`."""

    service = "cosyvoice3-api"

    def __init__(self, config: ApiConfig, pipeline: Pipeline) -> None:
        self.config = config
        self.pipeline = pipeline
        self.engine = contract.create(config.engine, config.engine_options)  # capabilities only: loads no weights
        self.registry = DIALECTS.extended(config.dialects)
        self.admission = Admission(config.limits)
        self.tracer = Tracer(self.service, instance=serve.get_replica_context().replica_id.unique_id)
        self.shelf = Shelf(ray.get_runtime_context().get_node_id(), Nodes())
        self.voices = VoiceCache(self.engine.capabilities, self.shelf.unpack, config.voice_cache_mb)
        self.keeper = Keeper(config.tracing, self.registry)
        self.callers = Callers(config.tracing.keys_file)
        self._ready: tuple[float, dict[str, bool]] = (float("-inf"), {})

    def __serve_build_asgi_app__(self):
        """Serve's hook: the ASGI app, built in the replica on its event loop."""
        for stage in self.pipeline.stages.values():
            stage.connect(self.shelf)
        return Gateway(_app(self), self.tracer, self.keeper, self.callers, routes=frozenset(ROUTES),
                       deadline_s=self.config.limits.deadline_s, trace_url=self.config.tracing.trace_url)

    def reconfigure(self, user_config: dict) -> None:
        """Serve calls this at start and whenever `user_config` changes; the process lives on."""
        live = LiveApi(**user_config)
        self.keeper.reconfigure(live)
        self.voices.configure(self.config.voice_cache_mb if live.voice_cache_mb is None else live.voice_cache_mb)

    async def generate(self, request: Request) -> Response:
        run: Run = request.state.run
        asked = await form.read(request)
        utterance, dialect = requests.parse(asked.fields, self.registry)
        run.root.tags(**{
            vocabulary.REQUEST_DIALECT: dialect.tag, vocabulary.REQUEST_LANGUAGE: dialect.language,
            vocabulary.REQUEST_DIALECT_SOURCE: "request", vocabulary.REQUEST_MODE: utterance.mode,
            vocabulary.TEXT_LENGTH: len(utterance.text)})
        self._check_engine(utterance)
        arrived = time.time_ns()
        async with self.admission.enter():
            run.root.tag(vocabulary.QUEUE_WAIT_MS, round((time.time_ns() - arrived) / 1e6, 3))
            try:
                audio = await self.pipeline(asked.prompt_audio, utterance, run, self.voices)
            finally:  # a refused clip too was put there
                asyncio.get_running_loop().call_later(HOLD_S + 0.1, self.shelf.tidy)
            wav = await self._wav(audio, run)
        return Response(wav, media_type="audio/wav")

    async def _wav(self, audio: Result, run: Run) -> bytes:
        """The finished file, made again once if its replica has died with it."""
        try:
            parts = await self.shelf.unpack(audio.reply.parts)
        except InputLost:
            run.lost(vocabulary.VOCODE_WAV, vocabulary.VOCODER, time.time_ns(), StageUnavailable.type,
                     messages.LOST_ARRAY)
            try:
                parts = await self.shelf.unpack((await audio.remake()).reply.parts)
            except InputLost as error:
                raise StageUnavailable("vocoder-service is not available; it is being restarted, try again shortly.",
                                       retry_after_s=5) from error
        return parts[WAV].tobytes()

    def _check_engine(self, utterance: Utterance) -> None:
        can = self.engine.capabilities
        if utterance.dialect not in can.dialects:
            raise UnsupportedDialect(
                f"The running engine ({can.name}) can't speak this dialect. It speaks "
                f"{', '.join(sorted(can.dialects))}. Nothing is spoken in another dialect instead.",
                param="dialect", code="unsupported_dialect")
        self.engine.check(utterance)

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

    async def counters(self) -> dict[str, int]:
        """What became of this replica's traces, and of its voices, for tests and operators."""
        voices = {f"voice_cache_{name}": n for name, n in self.voices.counters().items()}
        return self.keeper.counters() | voices | {"pid": os.getpid()}

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


ROUTES = ("/api/generate", "/api/dialects", "/health", "/ready", "/docs", "/openapi.json")


def _app(api: CosyVoice3Api) -> FastAPI:
    # FastAPI's own OpenTelemetry would wake up as soon as anybody sets a global provider.
    app = FastAPI(title="Cosygraph", description="Voice cloning as a Ray Serve graph; one request, one trace.",
                  telemetry={"tracing": False})

    @app.post("/api/generate", summary="Speak a text in the voice of a clip", **GENERATE)
    async def generate(request: Request):
        return await api.generate(request)

    @app.get("/api/dialects", summary="Dialects and languages, and which of them the running engine can speak")
    async def dialects():
        return await api.dialects()

    @app.get("/health", summary="The ingress lives")
    async def health():
        return {"status": "ok"}

    @app.get("/ready", summary="Every stage has a replica that answers")
    async def ready():
        return await api.ready()

    @app.exception_handler(SpeechError)
    async def speech_error(request: Request, error: SpeechError):
        return _answer(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException):
        return _answer(request, _translated(error), error.headers)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception):
        # Without it Starlette answers in a shape of its own before the gateway, which logs it, knows of the error.
        return _answer(request, InternalError("The service failed in a way it should not have; its log says where, "
                                              "under this trace's id."))

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect):
        raise asyncio.CancelledError from error
    return app


def _translated(error: HTTPException) -> SpeechError:
    if error.status_code == 404:
        return NotFound("There is nothing at this path; GET /docs lists what there is.")
    if error.status_code == 405:
        return MethodNotAllowed("This path does not take this method; GET /docs says which it takes.")
    return InternalError("The service failed in a way it should not have.")


def _answer(request: Request, error: SpeechError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    request.state.run.error = error
    return JSONResponse(error.body(), error.status, {**(headers or {}), **error.headers()})
