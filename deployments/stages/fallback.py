"""fallback: another engine, all four stages of it in one replica, ready for the time when the graph's own can't serve.

It stands in for the four services, so its spans bear their names; `model.name` says whose work it is. One deployment
keeps a second engine cheap: one process, one place on the node, nothing that scales.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from deployments.arrays import Parts
from deployments.settings import StageConfig
from deployments.stages.audio import AudioService
from deployments.stages.base import Stage
from deployments.stages.embedding import EmbeddingService
from deployments.stages.tts import TtsService
from deployments.stages.vocoder import VocoderService
from deployments.wire import Reply, SoFar
from engines.contract import Utterance
from tracing import CallContext


class Fallback:
    """The stages' methods, as their clients call them (`deployments/ingress/stage_clients.py`)."""

    service = "fallback"

    def __init__(self, config: StageConfig) -> None:
        self._audio, self._embedding = AudioService(config), EmbeddingService(config)
        self._tts, self._vocoder = TtsService(config), VocoderService(config)
        self._stages: tuple[Stage, ...] = (self._audio, self._embedding, self._tts, self._vocoder)

    async def prepare(self, carrier: CallContext, parts: Parts, transcript: str | None) -> Reply:
        return await self._audio.prepare(carrier, parts, transcript)

    async def extract(self, carrier: CallContext, facts: dict, parts: Parts) -> Reply:
        return await self._embedding.extract(carrier, facts, parts)

    async def generate(self, carrier: CallContext, utterance: Utterance, parts: Parts) -> Reply:
        return await self._tts.generate(carrier, utterance, parts)

    async def stream(self, carrier: CallContext, utterance: Utterance, parts: Parts) -> AsyncIterator[Reply]:
        async for reply in self._tts.stream(carrier, utterance, parts):
            yield reply

    async def vocode(self, carrier: CallContext, facts: dict, parts: Parts) -> Reply:
        return await self._vocoder.vocode(carrier, facts, parts)

    async def vocode_chunk(self, carrier: CallContext, facts: dict, parts: Parts, so_far: SoFar) -> Reply:
        return await self._vocoder.vocode_chunk(carrier, facts, parts, so_far)

    async def ping(self) -> str:
        return await self._audio.ping()

    async def check_health(self) -> None:
        for stage in self._stages:
            await stage.check_health()
