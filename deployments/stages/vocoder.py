"""vocoder-service: VOCODE_WAV. Acoustic features in, audio out, whole or as far as a stream has come.

Where `marking.watermark` says so, the last step puts a watermark into each piece of audio, and the service finds it
again (FIND_WATERMARK).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from deployments.arrays import Array, Packed
from deployments.settings import VOCODER_BATCHING, StageConfig
from deployments.stages.base import AnySpan
from deployments.stages.batched import BatchedStage, tag_batch
from deployments.stages.compute_queue import Batched
from deployments.wire import AudioChunkReply, AudioReply, MelChunkReply, MelReply, StageReply, StreamState
from engines.contract import ChunkAudio, Mel, MelChunk, StreamingVocoder, TimedVocoder
from speech.errors import SpeechError
from speech.pcm import to_pcm
from tracing import CallContext, vocabulary

if TYPE_CHECKING:
    from engines.watermark import Watermark

Item = Mel | tuple[MelChunk, int]  #: a chunk goes with the number of samples of its part that were given out


@dataclass(frozen=True)
class Sound:
    """Holds what an item has become."""

    samples: Array  #: float32 (n,) from the engine, then int16
    cut_s: float = 0.0  #: of the mel's sound that was cut off before it
    complete: bool = False  #: `ChunkAudio.complete`
    kept: Array | None = None  #: `ChunkAudio.kept`


class VocoderService(BatchedStage[Item, Sound]):
    """Runs the engine's vocoder and makes its audio 16 bit."""

    name = vocabulary.VOCODE_WAV
    service = vocabulary.VOCODER
    # Vocoding a batch is slower than vocoding its members one by one on a CPU; a GPU config raises this.
    batching = VOCODER_BATCHING

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._vocoder = self.load(self.engine.load_vocoder)
        self._watermark = self.batcher.in_thread(self._load_watermark) if config.watermark == "perth" else None

    def _load_watermark(self) -> Watermark:
        # It brings torch, which the simulated engine does without.
        from engines.watermark import Watermark

        watermark = Watermark(self.device)
        rate = self.engine.capabilities.sample_rate
        watermark.put(np.zeros(rate, np.float32), rate)  # the first use of a network takes longer
        return watermark

    def compute(self, items: Sequence[Item]) -> list[Sound | Exception]:
        """Vocode a batch of mels and chunks into int16 (n,) each.

        Making it 16 bit happens here too: it belongs in the compute thread, not on the event loop.
        """
        mels = {index: item for index, item in enumerate(items) if isinstance(item, Mel)}
        chunks = {index: item for index, item in enumerate(items) if not isinstance(item, Mel)}
        waves: dict[int, Sound | SpeechError] = {}
        if mels:
            waves.update(zip(mels, self._vocoded(list(mels.values())), strict=True))
        if chunks:
            streaming = cast(StreamingVocoder, self._vocoder)  # chunks come where the engine streams
            waves.update(zip(chunks, map(_sound, streaming.vocode_chunks(list(chunks.values()))), strict=True))
        return [
            wave if isinstance(wave, SpeechError) else replace(wave, samples=to_pcm(self._marked(wave.samples)))
            for wave in (waves[index] for index in range(len(items)))
        ]

    def _vocoded(self, mels: list[Mel]) -> list[Sound | SpeechError]:
        if isinstance(self._vocoder, TimedVocoder):
            timed = self._vocoder.vocode_timed(mels)
            return [sound if isinstance(sound, SpeechError) else Sound(*sound) for sound in timed]
        return [_sound(wave) for wave in self._vocoder.vocode(mels)]

    def _marked(self, wave: Array) -> Array:
        return wave if self._watermark is None else self._watermark.put(wave, self.engine.capabilities.sample_rate)

    async def find_watermark(self, call: CallContext, sound: Packed, rate: int) -> StageReply[float]:
        """Look for the watermark in mono float32 (n,) at `rate` Hz: how sure the detector is of it, 0 to 1."""
        call = call.on_clock_of(self.node_id)
        waited_ms = round(call.waited_ms(), 3)
        span = self.tracer.server(vocabulary.FIND_WATERMARK, parent=call)
        span.tags({vocabulary.DEVICE: self.device, vocabulary.QUEUE_WAIT_MS: waited_ms})

        async def work(span: AnySpan) -> float:
            assert self._watermark is not None, "the ingress asks only where there is one"
            samples = await self.arrays.unpack(sound)
            # In the compute thread, between two batches: another one would need its own OpenMP team.
            sure = await asyncio.get_running_loop().run_in_executor(
                self.batcher.executor, self._watermark.find, samples, rate
            )
            span.tag(vocabulary.AUDIO_WATERMARK, round(sure, 4))
            return sure

        return await self.answer(call, work, span)

    async def vocode(self, call: CallContext, mel: MelReply) -> StageReply[AudioReply]:
        """Vocode tts-service's mel."""
        call = call.on_clock_of(self.node_id)

        async def work(span: AnySpan) -> AudioReply:
            item = Mel(await self.arrays.unpack_all(mel.arrays), mel.seconds)
            sound = await self.batched(span, item, call.order_ns)
            seconds = self._seconds(sound.samples)
            timings = mel.timings and mel.timings.cut(sound.cut_s, seconds)
            return AudioReply(self.arrays.pack(sound.samples), seconds, timings=timings)

        return await self.answer(call, work)

    async def vocode_chunk(
        self, call: CallContext, chunk: MelChunkReply, state: StreamState
    ) -> StageReply[AudioChunkReply]:
        """Vocode a chunk of tts-service's stream: the audio that follows what was given out, maybe none.

        Only the reply that completes the stream, or an error's, has the span: one for all calls of the stream.

        Args:
            call: the call's trace context and deadline.
            chunk: a chunk of tts-service's stream.
            state: as the stream's previous reply had it.
        """
        call = call.on_clock_of(self.node_id)
        span = self.open_span(call, state.started_ns)
        state_now = replace(
            state,
            started_ns=span.start_ns,
            chunks=state.chunks + 1,
            queue_ms=state.queue_ms + call.waited_ms(),
        )

        ends = chunk.last

        async def work(span: AnySpan) -> AudioChunkReply:
            nonlocal state_now, ends
            arrays = await self.arrays.unpack_all(chunk.arrays)
            mel = MelChunk(arrays, chunk.seconds, chunk.part, chunk.final, kept=state.kept)
            outcome = await self.queue.submit((mel, state.given), call.order_ns)
            state_now = _with_outcome(state_now, outcome)
            _tag_stream(span, state_now, outcome)
            if isinstance(outcome.value, Exception):
                raise outcome.value
            sound = outcome.value
            whole = mel.final or sound.complete
            ends = ends or sound.complete
            state_now = replace(
                state_now,
                reached=(mel.part, math.inf, True) if sound.complete else mel.reaches,
                given=0 if whole else state.given + len(sound.samples),
                kept=None if whole else sound.kept,
            )
            so_far_s = self._seconds(sound.samples) + state.given / self.engine.capabilities.sample_rate
            return AudioChunkReply(
                self.arrays.pack(sound.samples),
                self._seconds(sound.samples),
                state_now,
                timings=chunk.timings and chunk.timings.cut(sound.cut_s, so_far_s if whole else math.inf),
            )

        reply = await self.answer(call, work, span)
        return reply if ends or reply.error is not None else replace(reply, spans=[])

    def _seconds(self, pcm: Array) -> float:
        return len(pcm) / self.engine.capabilities.sample_rate


def _sound(made: Array | ChunkAudio | SpeechError) -> Sound | SpeechError:
    if isinstance(made, SpeechError):
        return made
    if isinstance(made, ChunkAudio):
        return Sound(made.samples, made.cut_s, made.complete, made.kept)
    return Sound(made)


def _tag_stream(span: AnySpan, state: StreamState, outcome: Batched[Any]) -> None:
    """Tag the span of a whole stream: waits and compute are sums over its calls, the batch is the last call's."""
    tag_batch(span, outcome)
    span.tags(
        {
            vocabulary.QUEUE_WAIT_MS: round(state.queue_ms, 3),
            vocabulary.BATCH_WAIT_MS: round(state.wait_ms, 3),
            vocabulary.COMPUTE_MS: round(state.compute_ms, 3),
            vocabulary.STREAM_CHUNKS: state.chunks,
        }
    )
    if state.first_ns is not None:
        span.annotate(vocabulary.FIRST_CHUNK, at_ns=state.first_ns)


def _with_outcome(state: StreamState, outcome: Batched[Any]) -> StreamState:
    has_audio = not isinstance(outcome.value, Exception) and len(outcome.value.samples) > 0
    return replace(
        state,
        wait_ms=state.wait_ms + outcome.wait_ms,
        compute_ms=state.compute_ms + outcome.compute_ms,
        first_ns=state.first_ns or (outcome.ended_ns if has_audio else None),
    )
