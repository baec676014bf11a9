"""fallback: another engine, all four stages of it in one replica, ready for the time when the graph's own can't serve.

It stands in for the four services, so its spans bear their names; `model.name` says whose work it is. One deployment
keeps a second engine cheap: one process, one place on the node, nothing that scales.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from deployments.arrays import Packed, PackedArrays
from deployments.settings import StageConfig
from deployments.stages.audio import AudioService
from deployments.stages.base import Stage
from deployments.stages.embedding import EmbeddingService
from deployments.stages.tts import TtsService
from deployments.stages.vocoder import VocoderService
from deployments.wire import (
    AudioChunkReply,
    AudioReply,
    ClipReply,
    MelChunkReply,
    MelReply,
    StageReply,
    StreamState,
    VoiceReply,
)
from engines.contract import Reach, Said, TextWanted
from speech.utterance import Utterance
from tracing import CallContext
from tracing.vocabulary import FALLBACK


class Fallback:
    """Has the four stages' methods, as their clients call them (`deployments/ingress/stage_clients.py`)."""

    service = FALLBACK

    def __init__(self, config: StageConfig) -> None:
        self._audio, self._embedding = AudioService(config), EmbeddingService(config)
        self._tts, self._vocoder = TtsService(config), VocoderService(config)
        self._stages: tuple[Stage, ...] = (self._audio, self._embedding, self._tts, self._vocoder)

    async def preprocess(self, call: CallContext, upload: Packed, transcript: str | None) -> StageReply[ClipReply]:
        """Call `AudioService.preprocess`."""
        return await self._audio.preprocess(call, upload, transcript)

    async def extract(self, call: CallContext, clip: ClipReply, for_fit: bool = False) -> StageReply[VoiceReply]:
        """Call `EmbeddingService.extract`."""
        return await self._embedding.extract(call, clip, for_fit)

    async def generate(self, call: CallContext, utterance: Utterance, voice: PackedArrays) -> StageReply[MelReply]:
        """Call `TtsService.generate`."""
        return await self._tts.generate(call, utterance, voice)

    async def stream(
        self,
        call: CallContext,
        utterance: Utterance,
        voice: PackedArrays,
        said: Said = (),
        beyond: Reach | None = None,
    ) -> AsyncGenerator[StageReply[MelChunkReply | TextWanted], None]:
        """Call `TtsService.stream`."""
        async with aclosing(self._tts.stream(call, utterance, voice, said, beyond)) as replies:
            async for reply in replies:
                yield reply

    async def vocode(self, call: CallContext, mel: MelReply) -> StageReply[AudioReply]:
        """Call `VocoderService.vocode`."""
        return await self._vocoder.vocode(call, mel)

    async def vocode_chunk(
        self, call: CallContext, chunk: MelChunkReply, state: StreamState
    ) -> StageReply[AudioChunkReply]:
        """Call `VocoderService.vocode_chunk`."""
        return await self._vocoder.vocode_chunk(call, chunk, state)

    async def find_watermark(self, call: CallContext, sound: Packed, rate: int) -> StageReply[float]:
        """Call `VocoderService.find_watermark`."""
        return await self._vocoder.find_watermark(call, sound, rate)

    async def ping(self) -> str:
        """Return the replica's id."""
        return await self._audio.ping()

    async def check_health(self) -> None:
        """Raise if one of the four stages no longer computes."""
        for stage in self._stages:
            await stage.check_health()
