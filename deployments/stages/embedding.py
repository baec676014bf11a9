"""embedding-service: EXTRACT_SPEAKER. A reference clip in, the speaker's voice out."""

from __future__ import annotations

from deployments.arrays import Parts
from deployments.settings import StageConfig
from deployments.stages.base import Stage
from deployments.wire import ENGINE, Reply
from engines.contract import Reference
from tracing import CallContext, Span, vocabulary

VIEW = "view_"


class EmbeddingService(Stage):
    name = vocabulary.EXTRACT_SPEAKER
    service = "embedding-service"

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._encoder = self.load(self.engine.load_speaker_encoder)

    def compute(self, items):
        return self._encoder.encode(items)

    async def extract(self, carrier: CallContext, facts: dict, parts: Parts) -> Reply:
        """`parts`: audio-service's. Reply parts: the engine's voice arrays; facts: the engine's name and version."""

        async def work(span: Span) -> dict:
            found = await self.shelf.unpack(parts)
            views = {int(name.removeprefix(VIEW)): array for name, array in found.items() if name.startswith(VIEW)}
            arrays = {name: array for name, array in found.items() if not name.startswith(VIEW)}
            clip = Reference(views, arrays, facts["transcript"])
            done = await self.batched(span, clip, carrier.deadline_ns)
            can = self.engine.capabilities
            return {"parts": self.shelf.pack(done.value.arrays), "facts": {ENGINE: (can.name, can.version)}}

        return await self.answer(carrier, work)
