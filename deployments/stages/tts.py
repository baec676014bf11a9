"""tts-service: GENERATE_MEL. Text and a voice in, acoustic features out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from deployments.arrays import Parts
from deployments.settings import StageConfig
from deployments.stages.base import Stage
from deployments.stages.continuous_batching import ContinuousBatcher
from deployments.wire import FINAL, LAST, PART, SECONDS, Reply
from engines.contract import ContinuousAcousticModel, Utterance, Voice
from tracing import CallContext, Span, vocabulary


class TtsService(Stage):
    name = vocabulary.GENERATE_MEL
    service = "tts-service"

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._model = self.load(self.engine.load_acoustic_model)
        if isinstance(self._model, ContinuousAcousticModel):
            self.batcher = ContinuousBatcher(self._model, self.batcher.executor)

    async def rows(self) -> dict[str, int]:
        """For tests and operators, through a handle: rows that decode and that wait now; empty where the model takes
        whole batches."""
        if not isinstance(self._model, ContinuousAcousticModel):
            return {}
        return {"rows": self._model.rows, "decoding": self._model.decoding, "waiting": self._model.waiting}

    def compute(self, items):
        return self._model.generate(items)

    async def generate(self, carrier: CallContext, utterance: Utterance, parts: Parts) -> Reply:
        """`parts`: embedding-service's. Reply parts: the engine's mel arrays; facts: `seconds` of speech."""

        async def work(span: Span) -> dict:
            span.tag(vocabulary.TEXT_LENGTH, len(utterance.text))
            item = utterance, Voice(await self.shelf.unpack(parts))
            done = await self.batched(span, item, carrier.deadline_ns)
            mel = done.value
            for phase in mel.phases:
                span.child(phase.name, phase.start_ns, phase.end_ns, phase.tags)
            return {"parts": self.shelf.pack(mel.arrays), "facts": {SECONDS: mel.seconds}}

        return await self.answer(carrier, work)

    async def stream(self, carrier: CallContext, utterance: Utterance, parts: Parts) -> AsyncIterator[Reply]:
        """As `generate`, in chunks as they are made, and a last Reply with the spans. Reply parts: the engine's mel
        arrays, from their part's beginning; facts: a MelChunk's other fields. Only where the engine streams."""

        async def work(span: Span) -> AsyncIterator[dict]:
            span.tag(vocabulary.TEXT_LENGTH, len(utterance.text))
            count = 0
            async with aclosing(self.batcher.stream((utterance, Voice(await self.shelf.unpack(parts))))) as chunks:
                async for done in chunks:
                    chunk = done.value
                    if isinstance(chunk, Exception):
                        self.tell(span, done)
                        raise chunk
                    count += 1
                    if count == 1:
                        span.annotate(vocabulary.FIRST_CHUNK)
                    if chunk.last:
                        self.tell(span, done)
                        span.tag(vocabulary.STREAM_CHUNKS, count)
                        for phase in chunk.phases:
                            span.child(phase.name, phase.start_ns, phase.end_ns, phase.tags)
                    yield {
                        "parts": self.shelf.pack(chunk.arrays),
                        "facts": {SECONDS: chunk.seconds, PART: chunk.part, FINAL: chunk.final, LAST: chunk.last},
                    }

        async for reply in self.answer_in_parts(carrier, work):
            yield reply
