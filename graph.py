"""The deployment graph: the stages, and the order in which a request goes through them.

                    audio-service      embedding-service    tts-service     vocoder-service
    client ─HTTP─► cosyvoice3-api ─► PREPROCESS_AUDIO ─► EXTRACT_SPEAKER ─► GENERATE_MEL ─► VOCODE_WAV ─► audio

    serve run graph:build engine=embedded

or a Serve config file whose application imports `graph:build` and whose `args` are the fields of `GraphConfig`
(`cluster/serve.cpu.yaml`). Replicas, GPU fractions and autoscaling belong to that file's `deployments:` section.
"""

# No `from __future__ import annotations` here: Serve reads the builder's type, and would find a string.
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from ray.serve import Application

from access.limiter import Limiter
from deployments.ingress.context import StageContext
from deployments.ingress.deployment import INGRESS_OPTIONS, CosyVoice3Api
from deployments.ingress.draining import drain as drain  # `python -m cluster.drain` asks the application's module
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.part_plan import PartEnds
from deployments.ingress.stage_clients import AudioClient, EmbeddingClient, StageClient, TtsClient
from deployments.ingress.stage_result import StageResult, VoiceRef
from deployments.ingress.vocoder_client import VocoderClient
from deployments.serve_options import deployment
from deployments.settings import GraphConfig
from deployments.stages.audio import AudioService
from deployments.stages.embedding import EmbeddingService
from deployments.stages.fallback import Fallback
from deployments.stages.fitting import FITTING_OPTIONS, FittingService
from deployments.stages.tts import TtsService
from deployments.stages.vocoder import VocoderService
from deployments.wire import AudioChunkReply, AudioReply, ClipReply, VoiceReply
from speech.utterance import Utterance


class Graph:
    """The DAG. Arrays go from stage to stage by reference; small replies come back here, and the finished audio."""

    # The builder puts in a deployment's application, which Serve replaces by its handle.
    def __init__(self, audio: Any, embedding: Any, tts: Any, vocoder: Any) -> None:
        self.audio = AudioClient(audio)
        self.embedding = EmbeddingClient(embedding)
        self.tts = TtsClient(tts)
        self.vocoder = VocoderClient(vocoder)

    async def speaker(
        self, upload: bytes, transcript: str | None, ctx: StageContext, *, for_fit: bool = False
    ) -> tuple[StageResult[ClipReply], StageResult[VoiceReply]]:
        """PREPROCESS_AUDIO ─► EXTRACT_SPEAKER: find the voice in a clip."""
        clip = await self.audio.preprocess(upload, transcript, ctx)
        return clip, await self.embedding.extract(clip, for_fit, ctx)

    async def speech(self, utterance: Utterance, voice: VoiceRef, ctx: StageContext) -> StageResult[AudioReply]:
        """GENERATE_MEL ─► VOCODE_WAV: say an utterance in that voice."""
        mel = await self.tts.generate(utterance, voice, ctx)
        return await self.vocoder.vocode(mel, ctx)

    async def speech_in_parts(
        self, utterance: Utterance, voice: VoiceRef, ctx: StageContext, ends: PartEnds
    ) -> AsyncGenerator[StageResult[AudioReply], None]:
        """GENERATE_MEL ─► VOCODE_WAV, in several parts where the mel is divisible."""
        return self.vocoder.vocode_parts(await self.tts.generate(utterance, voice, ctx), ends, ctx)

    def speech_stream(
        self, utterance: Utterance, voice: VoiceRef, ctx: StageContext
    ) -> AsyncGenerator[StageResult[AudioChunkReply], None]:
        """GENERATE_MEL ─► VOCODE_WAV, chunk by chunk, where the engine streams."""
        return self.vocoder.vocode_stream(self.tts.stream(utterance, voice, ctx), ctx)

    def speech_stream_live(
        self,
        text: IncomingText,
        utterance: Utterance,
        voice: VoiceRef,
        ctx: StageContext,
        enter: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        paced: bool = False,
    ) -> AsyncGenerator[StageResult[AudioChunkReply], None]:
        """GENERATE_MEL, again and again while the text comes, ─► VOCODE_WAV, where the engine has live text."""
        return self.vocoder.vocode_stream(self.tts.stream_live(text, utterance, voice, ctx, enter, paced), ctx)

    @property
    def stages(self) -> Mapping[str, StageClient]:
        """The four clients by service name."""
        return {client.service: client for client in (self.audio, self.embedding, self.tts, self.vocoder)}


def build(args: GraphConfig) -> Application:
    """Build the application; Serve calls this with the config's `args`."""
    graph = Graph(
        audio=deployment(AudioService).bind(args.stage(args.audio)),
        embedding=deployment(EmbeddingService).bind(args.stage(args.embedding)),
        tts=deployment(TtsService).bind(args.stage(args.tts)),
        vocoder=deployment(VocoderService).bind(args.stage(args.vocoder)),
    )
    limiter = None
    if args.limits_callers:  # one replica, or its counts would not be all; hardly any work, so hardly any CPU
        options = {"num_replicas": 1, "max_ongoing_requests": 10_000, "ray_actor_options": {"num_cpus": 0.05}}
        limiter = deployment(Limiter, **options).bind()
    fitting = None
    if config := args.fits():  # FIT_VOICE: in the background, on no request's way
        fitting = deployment(FittingService, **FITTING_OPTIONS).bind(config)
    return deployment(CosyVoice3Api, **INGRESS_OPTIONS).bind(args.api(), graph, limiter, _fallback(args), fitting)


def _fallback(args: GraphConfig) -> Graph | None:
    if args.fallback is None:
        return None
    stages = deployment(Fallback, graceful_shutdown_timeout_s=60).bind(args.fallback_stages())
    return Graph(stages, stages, stages, stages)
