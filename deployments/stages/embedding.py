"""embedding-service: EXTRACT_SPEAKER. A reference clip in, the speaker's voice out."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.settings import StageConfig
from deployments.stages.base import AnySpan
from deployments.stages.batched import BatchedStage
from deployments.wire import ClipReply, StageReply, VoiceReply
from engines.contract import Reference, Voice
from speech.errors import SpeechError
from tracing import CallContext, vocabulary

#: Facts of the clip that PREPROCESS_AUDIO found and this stage's span repeats.
_CLIP_TAGS = (vocabulary.AUDIO_SAMPLE_RATE, vocabulary.AUDIO_DURATION)


class EmbeddingService(BatchedStage[Reference, Voice]):
    """Runs the engine's speaker encoder."""

    name = vocabulary.EXTRACT_SPEAKER
    service = vocabulary.EMBEDDING

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._encoder = self.load(self.engine.load_speaker_encoder)

    def compute(self, items: Sequence[Reference]) -> list[Voice | SpeechError]:
        """Encode a batch of reference clips."""
        return self._encoder.encode(items)

    async def extract(self, call: CallContext, clip: ClipReply, for_fit: bool = False) -> StageReply[VoiceReply]:
        """Find the voice in audio-service's clip; `for_fit` also finds what a fit without the clip needs."""
        call = call.on_clock_of(self.node_id)

        async def work(span: AnySpan) -> VoiceReply:
            views, features = await self.arrays.unpack_all(clip.views), await self.arrays.unpack_all(clip.features)
            voice = await self.batched(span, Reference(views, features, clip.transcript, for_fit), call.order_ns)
            engine = self.engine.capabilities
            return VoiceReply(self.arrays.pack_all(voice.arrays), (engine.name, engine.version))

        span = self.open_span(call)
        span.tags({key: clip.tags[key] for key in _CLIP_TAGS if key in clip.tags})
        return await self.answer(call, work, span)
