"""vocoder-service: VOCODE_WAV. Acoustic features in, audio out, whole or as far as a stream has come."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from deployments.arrays import Parts
from deployments.settings import StageConfig
from deployments.stages.base import Stage
from deployments.stages.batching import Batched
from deployments.wire import FINAL, LAST, PART, PCM, SECONDS, SO_FAR, Reply, SoFar
from engines.contract import Mel, MelChunk
from speech.errors import SpeechError
from speech.pcm import to_pcm
from tracing import CallContext, Span, vocabulary

Item = Mel | tuple[MelChunk, int]  #: a chunk goes with the samples of its part that are given out


class VocoderService(Stage):
    name = vocabulary.VOCODE_WAV
    service = "vocoder-service"
    # Vocoding a batch is slower than vocoding its members one by one on a CPU; a GPU config raises this.
    batching = {"max_batch_size": 1, "batch_wait_ms": 0.0}

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._vocoder = self.load(self.engine.load_vocoder)

    def compute(self, items: list[Item]):
        """Making it 16 bit happens here too: it belongs in the compute thread, not on the event loop."""
        whole = [index for index, item in enumerate(items) if isinstance(item, Mel)]
        begun = [index for index, item in enumerate(items) if not isinstance(item, Mel)]
        sounds: dict[int, np.ndarray | SpeechError] = {}
        if whole:
            sounds.update(zip(whole, self._vocoder.vocode([items[i] for i in whole]), strict=True))
        if begun:
            sounds.update(zip(begun, self._vocoder.vocode_chunks([items[i] for i in begun]), strict=True))
        return [
            sound if isinstance(sound, SpeechError) else to_pcm(sound)
            for sound in (sounds[index] for index in range(len(items)))
        ]

    async def vocode(self, carrier: CallContext, facts: dict, parts: Parts) -> Reply:
        """`parts`: tts-service's. Reply part: 16-bit PCM at the engine's sample rate."""

        async def work(span: Span) -> dict:
            mel = Mel(await self.shelf.unpack(parts), facts[SECONDS])
            done = await self.batched(span, mel, carrier.deadline_ns)
            return self._fields(done.value)

        return await self.answer(carrier, work)

    async def vocode_chunk(self, carrier: CallContext, facts: dict, parts: Parts, so_far: SoFar) -> Reply:
        """`facts`, `parts`: a chunk of tts-service's stream. Reply part: the audio that follows what was given out,
        maybe none; facts: the stream's new `SoFar`. Only with the last chunk, and with an error, comes the span.
        """
        span = self.open(carrier, so_far.started_ns)
        now_so_far = replace(
            so_far,
            started_ns=span.start_ns,
            chunks=so_far.chunks + 1,
            queue_ms=so_far.queue_ms + max(0.0, (time.time_ns() - carrier.sent_ns) / 1e6),
        )

        async def work(span: Span) -> dict:
            nonlocal now_so_far
            chunk = MelChunk(await self.shelf.unpack(parts), facts[SECONDS], facts[PART], facts[FINAL])
            done = await self.batcher.settle((chunk, so_far.given), carrier.deadline_ns)
            now_so_far = _later(now_so_far, done)
            self._tell_all(span, now_so_far, done)
            if isinstance(done.value, Exception):
                raise done.value
            now_so_far = replace(
                now_so_far, reached=chunk.reaches, given=0 if chunk.final else so_far.given + len(done.value)
            )
            fields = self._fields(done.value)
            return fields | {"facts": fields["facts"] | {SO_FAR: now_so_far}}

        reply = await self.answer(carrier, work, span)
        return reply if facts[LAST] or reply.error is not None else replace(reply, spans=[])

    def _fields(self, pcm: np.ndarray) -> dict:
        return {
            "parts": self.shelf.pack({PCM: pcm}),
            "facts": {SECONDS: len(pcm) / self.engine.capabilities.sample_rate},
        }

    def _tell_all(self, span: Span, so_far: SoFar, done: Batched) -> None:
        """Of all the stream's calls: waits and compute are sums, the batch is the last one's."""
        self.tell(span, done)
        span.tags(
            **{
                vocabulary.QUEUE_WAIT_MS: round(so_far.queue_ms, 3),
                vocabulary.BATCH_WAIT_MS: round(so_far.wait_ms, 3),
                vocabulary.COMPUTE_MS: round(so_far.compute_ms, 3),
                vocabulary.STREAM_CHUNKS: so_far.chunks,
            }
        )
        if so_far.first_ns is not None:
            span.annotate(vocabulary.FIRST_CHUNK, at_ns=so_far.first_ns)


def _later(so_far: SoFar, done: Batched) -> SoFar:
    sounded = not isinstance(done.value, Exception) and len(done.value) > 0
    return replace(
        so_far,
        wait_ms=so_far.wait_ms + done.wait_ms,
        compute_ms=so_far.compute_ms + done.compute_ms,
        first_ns=so_far.first_ns or (done.ended_ns if sounded else None),
    )
