"""The deployment graph: which stages there are, and in which order a request goes through them.

    serve run graph:build engine=embedded

or a Serve config file whose application imports `graph:build` and whose `args` are the fields of `GraphConfig`
(`cluster/serve.cpu.yaml`). Replicas, GPU fractions and autoscaling belong to that file's `deployments:` section.
"""

# No `from __future__ import annotations` here: Serve reads the builder's type, and would find a string.
import time
from collections.abc import AsyncIterator, Mapping

from pydantic import Field
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from access.limiter import Limiter
from deployments.ingress.context import RequestContext
from deployments.ingress.deployment import CosyVoice3Api
from deployments.ingress.stage_clients import (
    AudioClient,
    EmbeddingClient,
    Made,
    Result,
    StageClient,
    TtsClient,
    VocoderClient,
)
from deployments.ingress.voice_cache import VoiceCache
from deployments.settings import AccessConfig, ApiConfig, FallbackEngine, Limits, StageConfig, StrictModel, VoiceCacheMb
from deployments.stages.audio import AudioService
from deployments.stages.embedding import EmbeddingService
from deployments.stages.fallback import Fallback
from deployments.stages.tts import TtsService
from deployments.stages.vocoder import VocoderService
from engines.contract import Utterance
from tracing import vocabulary
from voices.settings import VoiceSettings

APP_NAME = "cosygraph"


class StageOptions(StrictModel):
    """Per stage, below the graph's own settings."""

    threads: int = Field(1, ge=1)
    device: str = "auto"
    stuck_after_s: float = Field(5.0, gt=0)
    wedged_after_s: float | None = Field(None, gt=0)


class GraphConfig(AccessConfig):
    """Everything the application builder takes; unknown keys are refused."""

    engine: str = "embedded"
    engine_options: dict = Field(default_factory=dict)
    fallback: FallbackEngine | None = None
    limits: Limits = Limits()
    voice_cache_mb: VoiceCacheMb = 0.0
    voices: VoiceSettings = VoiceSettings()
    cosyvoice_dialect: str | None = None
    dialects: tuple[dict[str, str], ...] = ()
    audio: StageOptions = StageOptions()
    embedding: StageOptions = StageOptions()
    tts: StageOptions = StageOptions()
    vocoder: StageOptions = StageOptions()

    def stage(self, options: StageOptions) -> StageConfig:
        return StageConfig(engine=self.engine, engine_options=self.engine_options, **options.model_dump())

    def api(self) -> ApiConfig:
        return ApiConfig(
            engine=self.engine,
            engine_options=self.engine_options,
            fallback=self.fallback,
            limits=self.limits,
            tracing=self.tracing,
            access=self.access,
            voice_cache_mb=self.voice_cache_mb,
            voices=self.voices,
            cosyvoice_dialect=self.cosyvoice_dialect,
            dialects=self.dialects,
        )


class Graph:
    """The DAG. Arrays go from stage to stage by ticket; only small replies come back here, and the finished audio."""

    def __init__(
        self, audio: DeploymentHandle, embedding: DeploymentHandle, tts: DeploymentHandle, vocoder: DeploymentHandle
    ) -> None:
        self.audio = AudioClient(audio)
        self.embedding = EmbeddingClient(embedding)
        self.tts = TtsClient(tts)
        self.vocoder = VocoderClient(vocoder)

    @property
    def stages(self) -> Mapping[str, StageClient]:
        return {client.service: client for client in (self.audio, self.embedding, self.tts, self.vocoder)}

    async def voice(self, upload: bytes, transcript: str | None, run: RequestContext, voices: VoiceCache) -> Made:
        """The voice in a clip, known already or found in it."""
        key = await voices.key(upload, transcript)
        if kept := voices.find(key):
            # What the clip is like is said by the root: the stage that would say it has no span.
            run.root.tags({vocabulary.VOICE_CACHE: "hit", **kept.clip})
            return kept
        run.root.tag(vocabulary.VOICE_CACHE, None if key is None else "miss")
        clip, voice = await self.extract(upload, transcript, run)
        voices.keep_later(key, clip.reply, voice.reply)
        return voice

    async def extract(self, upload: bytes, transcript: str | None, run: RequestContext) -> tuple[Result, Result]:
        """What audio-service makes of a clip, and the voice in it."""
        clip = await self.audio.prepare(upload, transcript, run)
        return clip, await self.embedding.extract(clip, run)

    async def speak(self, utterance: Utterance, voice: Made, run: RequestContext) -> Result:
        """The whole utterance's audio."""
        mel = await self.tts.generate(utterance, voice, run)
        return await self.vocoder.vocode(mel, run)

    def stream(self, utterance: Utterance, voice: Made, run: RequestContext) -> AsyncIterator[Result]:
        """Its audio in chunks as they are made; where the engine streams."""
        return self.vocoder.follow(self.tts.stream(utterance, voice, run), run)


def _deployment(cls: type, name: str, **options) -> serve.Deployment:
    # Waiting happens in our own queues, where it is measured: Serve's limits stay above the ingress's.
    defaults = {
        "max_ongoing_requests": 256,
        "max_queued_requests": -1,
        "ray_actor_options": {"num_cpus": 0.25},
        "health_check_period_s": 3,
        "health_check_timeout_s": 3,
        "graceful_shutdown_timeout_s": 30,
    }
    return serve.deployment(cls, name=name, **(defaults | options))


def build(args: GraphConfig) -> Application:
    """Serve's application builder."""
    graph = Graph(
        audio=_deployment(AudioService, AudioService.service).bind(args.stage(args.audio)),
        embedding=_deployment(EmbeddingService, EmbeddingService.service).bind(args.stage(args.embedding)),
        tts=_deployment(TtsService, TtsService.service).bind(args.stage(args.tts)),
        vocoder=_deployment(VocoderService, VocoderService.service).bind(args.stage(args.vocoder)),
    )
    # One replica, or its counts would not be all; hardly any work, so hardly any CPU.
    limiter = (
        _deployment(
            Limiter, Limiter.service, num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0.05}
        ).bind()
        if args.limits_callers
        else None
    )
    fallback = None
    if args.fallback is not None:
        config = StageConfig(**args.fallback.model_dump())
        whole = _deployment(Fallback, Fallback.service, graceful_shutdown_timeout_s=60).bind(config)
        fallback = Graph(whole, whole, whole, whole)
    return _deployment(CosyVoice3Api, CosyVoice3Api.service).bind(args.api(), graph, limiter, fallback)


def drain(app_name: str = APP_NAME, timeout_s: float = 30.0) -> int:
    """Close the door of every ingress replica and wait until what is inside is done; returns how many are left.

    Needs a process connected to the application's Ray cluster. Serve's own shutdown would stop idle later stages
    first and break the requests under way.
    """
    api = serve.get_deployment_handle(CosyVoice3Api.service, app_name)
    end = time.monotonic() + timeout_s
    while True:
        left = sum(api.broadcast("drain").results(timeout_s=5))
        if left == 0 or time.monotonic() > end:
            return left
        time.sleep(0.1)
