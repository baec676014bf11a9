"""tts-service: GENERATE_MEL. Text and a voice in, acoustic features out."""

from __future__ import annotations

from deployments.arrays import Parts
from deployments.continuous import Continuous
from deployments.settings import StageConfig
from deployments.stage import Stage
from deployments.wire import Reply
from engines.contract import ContinuousAcousticModel, Utterance, Voice
from tracing import Carrier, Span, vocabulary


class TtsService(Stage):
    name = vocabulary.GENERATE_MEL
    service = "tts-service"

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._model = self.load(self.engine.load_acoustic_model)
        if isinstance(self._model, ContinuousAcousticModel):
            self.batcher = Continuous(self._model, self.batcher.executor)

    async def rows(self) -> dict[str, int]:
        """For tests and operators, through a handle: rows that decode and that wait now; empty where the model takes
        whole batches."""
        if not isinstance(self._model, ContinuousAcousticModel):
            return {}
        return {"rows": self._model.rows, "decoding": self._model.decoding, "waiting": self._model.waiting}

    def compute(self, items):
        return self._model.generate(items)

    async def generate(self, carrier: Carrier, utterance: Utterance, parts: Parts) -> Reply:
        """`parts`: embedding-service's. Reply parts: the engine's mel arrays; facts: `seconds` of speech."""
        async def work(span: Span) -> dict:
            span.tag(vocabulary.TEXT_LENGTH, len(utterance.text))
            done = await self.batched(span, (utterance, Voice(await self.shelf.unpack(parts))))
            mel = done.value
            for phase in mel.phases:
                span.child(phase.name, phase.start_ns, phase.end_ns, phase.tags)
            return {"parts": self.shelf.pack(mel.arrays), "facts": {"seconds": mel.seconds}}
        return await self.answer(carrier, work)
