"""embedding-service: EXTRACT_SPEAKER. A reference clip in, the speaker's voice out."""

from __future__ import annotations

from deployments.settings import StageConfig
from deployments.stage import Stage
from deployments.wire import Reply, pack
from engines.contract import Reference
from tracing import Carrier, Span, vocabulary

VIEW = "view_"


class EmbeddingService(Stage):
    name = vocabulary.EXTRACT_SPEAKER
    service = "embedding-service"

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._encoder = self.engine.load_speaker_encoder(self.device, config.threads)

    def compute(self, items):
        return self._encoder.encode(items)

    async def extract(self, carrier: Carrier, facts: dict, **parts) -> Reply:
        """`parts`: what audio-service put. Reply parts: the engine's voice arrays."""
        views = {int(name.removeprefix(VIEW)): array for name, array in parts.items() if name.startswith(VIEW)}
        arrays = {name: array for name, array in parts.items() if not name.startswith(VIEW)}
        reference = Reference(views, arrays, facts["transcript"])

        async def work(span: Span) -> dict:
            done = await self.batched(span, reference)
            return {"parts": pack(done.value.arrays)}
        return await self.answer(carrier, work)
