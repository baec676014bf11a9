"""vocoder-service: VOCODE_WAV. Acoustic features in, a WAV file out."""

from __future__ import annotations

import numpy as np

from deployments.arrays import Parts
from deployments.settings import StageConfig
from deployments.stage import Stage
from deployments.wire import WAV, Reply
from engines.contract import Mel
from speech.audio import to_wav
from speech.errors import SpeechError
from tracing import Carrier, Span, vocabulary


class VocoderService(Stage):
    name = vocabulary.VOCODE_WAV
    service = "vocoder-service"
    # Vocoding a batch is slower than vocoding its members one by one on a CPU; a GPU config raises this.
    batching = {"max_batch_size": 1, "batch_wait_ms": 0.0}

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._vocoder = self.load(self.engine.load_vocoder)

    def compute(self, items):
        """Encoding to 16 bit happens here too: it belongs in the compute thread, not on the event loop."""
        rate = self.engine.capabilities.sample_rate
        return [wav if isinstance(wav, SpeechError) else (len(wav) / rate, to_wav(wav, rate))
                for wav in self._vocoder.vocode(items)]

    async def vocode(self, carrier: Carrier, facts: dict, parts: Parts) -> Reply:
        """`parts`: tts-service's. Reply part: a 16-bit PCM WAV file at the engine's sample rate."""
        async def work(span: Span) -> dict:
            done = await self.batched(span, Mel(await self.shelf.unpack(parts), facts["seconds"]))
            seconds, wav = done.value
            return {"parts": self.shelf.pack({WAV: np.frombuffer(wav, np.uint8)}), "facts": {"seconds": seconds}}
        return await self.answer(carrier, work)
