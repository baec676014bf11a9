"""audio-service: PREPROCESS_AUDIO. Bytes in, a checked and resampled reference clip out."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident
from typing import Any

import numpy as np

from deployments.arrays import Array, Packed
from deployments.scaling.work_log import WorkLog
from deployments.settings import StageConfig
from deployments.stages.base import AnySpan, Stage
from deployments.wire import ClipReply, StageReply
from speech import audio
from tracing import CallContext, vocabulary

#: Decoding releases the GIL for most of its time; more threads than this gain nothing on a CPU share.
DECODERS = 2


class AudioService(Stage):
    """Decodes, checks and resamples clips in threads; it has no model, and so no batches."""

    name = vocabulary.PREPROCESS_AUDIO
    service = vocabulary.AUDIO
    uses_device = False  # decoding and resampling are the CPU's

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._started_s: dict[int, float] = {}  # by thread: when its present clip was begun
        self._work = WorkLog()
        self._inside = 0  # clips that wait or are decoded
        self.health = self.watch(self._decoders, self._probe)

    def _probe(self) -> Array:
        """Return a bit of what the engine makes of half a second of noise."""
        noise = np.random.default_rng(0).normal(0, 0.1, 12_000).astype(np.float32)
        reference = self.engine.prepare(noise, 24_000)
        arrays = [*reference.views.values(), *reference.arrays.values()]
        return np.concatenate([array.ravel()[:100].astype(np.float32) for array in arrays])

    def running_s(self) -> float:
        """Return the seconds for which the oldest clip in the threads has been decoded; 0 when idle."""
        started = tuple(self._started_s.values())
        return time.monotonic() - min(started) if started else 0.0

    async def preprocess(self, call: CallContext, upload: Packed, transcript: str | None) -> StageReply[ClipReply]:
        """Check and resample a clip.

        Args:
            call: the call's trace context and deadline.
            upload: the file as sent, uint8 (n,).
            transcript: what is said in the clip, where known.
        """
        call = call.on_clock_of(self.node_id)

        async def work(span: AnySpan) -> ClipReply:
            clip = (await self.arrays.unpack(upload)).tobytes()
            return await asyncio.get_running_loop().run_in_executor(
                self._decoders, self._preprocess, span, clip, transcript, time.monotonic()
            )

        self._work.arrive()
        self._inside += 1
        try:
            return await self.answer(call, work)
        finally:
            self._inside -= 1
            self._work.finish()

    def work_stats(self) -> dict[str, float]:
        """Return what this replica has done, for the scaling policy."""
        computing = len(self._started_s)
        return self._work.stats(waiting=max(0, self._inside - computing), computing=computing, lanes=DECODERS)

    def _preprocess(self, span: AnySpan, upload: bytes, transcript: str | None, arrived_s: float) -> ClipReply:
        started = time.time_ns()
        began_s = time.monotonic()
        self._work.wait(began_s - arrived_s)
        span.annotate(vocabulary.DEQUEUED, at_ns=started)
        self._started_s[get_ident()] = began_s
        tags: dict[str, Any] = {}
        try:
            seconds = self.engine.capabilities.reference_seconds
            found = audio.read(upload, seconds=seconds)
            tags = {  # before any check: a refused clip's span must say what it was
                vocabulary.AUDIO_SAMPLE_RATE: found.rate,
                vocabulary.AUDIO_FORMAT: found.format,
                vocabulary.AUDIO_DURATION: round(found.seconds, 3),
            }
            clip = audio.checked(found, seconds=seconds)
            tags[vocabulary.AUDIO_CLIPPING] = round(clip.clipped_ratio, 5)
            reference = self.engine.prepare(clip.samples, clip.rate, transcript)
        finally:
            del self._started_s[get_ident()]
            self._work.step(1, time.monotonic() - began_s)
            span.tags(tags)
            span.tag(vocabulary.COMPUTE_MS, round((time.time_ns() - started) / 1e6, 3))
        return ClipReply(
            self.arrays.pack_all(reference.views), self.arrays.pack_all(reference.arrays), transcript, tags
        )
