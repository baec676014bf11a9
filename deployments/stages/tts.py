"""tts-service: GENERATE_MEL. Text and a voice in, acoustic features out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from deployments.arrays import PackedArrays
from deployments.settings import StageConfig
from deployments.stages.base import AnySpan
from deployments.stages.batched import BatchedStage, tag_batch
from deployments.stages.continuous_batching import ContinuousBatcher
from deployments.wire import MelChunkReply, MelReply, StageReply
from engines.contract import ContinuousAcousticModel, Mel, MelChunk, Phase, Reach, Said, TextWanted, Voice
from speech.errors import SpeechError
from speech.utterance import Utterance
from tracing import CallContext, vocabulary


class TtsService(BatchedStage[tuple[Utterance, Voice], Mel | MelChunk | TextWanted]):
    """Runs the engine's acoustic model: in batches, or continuously where the model can."""

    name = vocabulary.GENERATE_MEL
    service = vocabulary.TTS

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._model = self.load(self.engine.load_acoustic_model)
        self._continuous: ContinuousBatcher | None = None
        if isinstance(self._model, ContinuousAcousticModel):
            self.queue = self._continuous = ContinuousBatcher(self._model, self.batcher.executor)

    async def rows(self) -> dict[str, int]:
        """Return the model's rows and how many of them decode and wait; empty for a model that takes whole batches.

        For tests and operators, through a handle.
        """
        if not isinstance(self._model, ContinuousAcousticModel):
            return {}
        return {"rows": self._model.rows, "decoding": self._model.decoding, "waiting": self._model.waiting}

    def compute(self, items: Sequence[tuple[Utterance, Voice]]) -> list[Mel | SpeechError]:
        """Compute a batch of utterances."""
        return self._model.generate(items)

    async def generate(self, call: CallContext, utterance: Utterance, voice: PackedArrays) -> StageReply[MelReply]:
        """Compute an utterance's mel. `voice`: the arrays of embedding-service's `VoiceReply`."""
        call = call.on_clock_of(self.node_id)

        async def work(span: AnySpan) -> MelReply:
            item = utterance, Voice(await self.arrays.unpack_all(voice))
            mel = await self.batched(span, item, call.order_ns)
            assert isinstance(mel, Mel), "chunks come from `stream` alone"
            _add_phases(span, mel.phases)
            return MelReply(self.arrays.pack_all(mel.arrays), mel.seconds, mel.timings, mel.divisible)

        return await self.answer(call, work, self._open_span_of(call, utterance))

    async def stream(
        self,
        call: CallContext,
        utterance: Utterance,
        voice: PackedArrays,
        said: Said = (),
        beyond: Reach | None = None,
    ) -> AsyncGenerator[StageReply[MelChunkReply | TextWanted], None]:
        """Compute a mel as `generate` does, in chunks as they are made. Only where the engine streams.

        Each chunk has all arrays of its part from the part's beginning. The last reply has the spans and no chunk. An
        open text ends with TextWanted before it.

        Args:
            call: the call's trace context and deadline.
            utterance: what to say.
            voice: the arrays of embedding-service's `VoiceReply`.
            said: `MelChunkReply.said` of the last chunk that a lost replica made of the same utterance, or
                `TextWanted.said` of a text that has grown since.
            beyond: `MelChunkReply.reaches` of the last chunk that was heard; only chunks that reach further are made.
        """
        call = call.on_clock_of(self.node_id)

        async def work(span: AnySpan) -> AsyncGenerator[MelChunkReply | TextWanted, None]:
            if utterance.live:
                self.engine.capabilities.check_live_text()
            assert self._continuous is not None, "the ingress asks for chunks where the engine streams"
            count = 0
            item = utterance, Voice(await self.arrays.unpack_all(voice))
            async with aclosing(self._continuous.stream(item, said, beyond)) as outcomes:
                async for outcome in outcomes:
                    chunk = outcome.value
                    if isinstance(chunk, TextWanted):
                        tag_batch(span, outcome)
                        span.tag(vocabulary.STREAM_CHUNKS, count)
                        span.annotate(vocabulary.TEXT_RAN_OUT)
                        yield chunk
                        return
                    if not isinstance(chunk, MelChunk):
                        tag_batch(span, outcome)
                        raise chunk if isinstance(chunk, Exception) else TypeError("a stream gave a whole mel")
                    count += 1
                    if count == 1:
                        span.annotate(vocabulary.FIRST_CHUNK)
                    if chunk.last:
                        tag_batch(span, outcome)
                        span.tag(vocabulary.STREAM_CHUNKS, count)
                        _add_phases(span, chunk.phases)
                    yield MelChunkReply(
                        self.arrays.pack_all(chunk.arrays),
                        chunk.seconds,
                        chunk.part,
                        chunk.final,
                        chunk.last,
                        chunk.said,
                    )

        span = self._open_span_of(call, utterance)
        async with aclosing(self.answer_stream(call, work, span)) as replies:
            async for reply in replies:
                yield reply

    def _open_span_of(self, call: CallContext, utterance: Utterance) -> AnySpan:
        """Open the stage's span with what is asked for, so that a call that fails at once says it too."""
        span = self.open_span(call)
        span.tags(
            {
                vocabulary.REQUEST_DIALECT: utterance.dialect_tag,
                vocabulary.REQUEST_DIALECT_CODE: utterance.dialect,
                vocabulary.REQUEST_MODE: utterance.mode,
                vocabulary.TEXT_LENGTH: len(utterance.text),
            }
        )
        return span


def _add_phases(span: AnySpan, phases: Iterable[Phase]) -> None:
    for phase in phases:
        span.add_child(phase.name, phase.start_ns, phase.end_ns, phase.tags)
