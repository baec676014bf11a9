"""audio-service: PREPROCESS_AUDIO. Bytes in, a checked and resampled reference clip out."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import numpy as np

from deployments.arrays import Parts
from deployments.settings import StageConfig
from deployments.stages.base import Stage
from deployments.wire import CLIP, UPLOAD, Reply
from speech import audio
from tracing import CallContext, Span, vocabulary

#: Decoding releases the GIL for most of its time; more threads than this gain nothing on a CPU share.
DECODERS = 2


class AudioService(Stage):
    name = vocabulary.PREPROCESS_AUDIO
    service = "audio-service"
    uses_device = False  # decoding and resampling are the CPU's

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._begun: dict[int, float] = {}  # by thread: when what it does now was begun
        self.vitals = self.watched(self._decoders, self._probe)

    def _probe(self) -> np.ndarray:
        """A bit of what the engine makes of half a second of noise."""
        noise = np.random.default_rng(0).normal(0, 0.1, 12_000).astype(np.float32)
        reference = self.engine.prepare(noise, 24_000)
        arrays = [*reference.views.values(), *reference.arrays.values()]
        return np.concatenate([array.ravel()[:100].astype(np.float32) for array in arrays])

    def running_s(self) -> float:
        begun = tuple(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    async def prepare(self, carrier: CallContext, parts: Parts, transcript: str | None) -> Reply:
        """`parts`: the file as sent. Reply parts: `view_<rate>` (n,) float32 and the engine's own arrays;
        facts: the transcript, and what the clip is like, as the span's tags say it."""

        async def work(span: Span) -> dict:
            upload = (await self.shelf.unpack(parts))[UPLOAD].tobytes()
            return await asyncio.get_running_loop().run_in_executor(
                self._decoders, self._prepare, span, upload, transcript
            )

        return await self.answer(carrier, work)

    def _prepare(self, span: Span, upload: bytes, transcript: str | None) -> dict:
        started = time.time_ns()
        self._begun[get_ident()] = time.monotonic()
        about = {}
        try:
            seconds = self.engine.capabilities.reference_seconds
            heard = audio.read(upload, seconds=seconds)
            about = {  # before any check: a refused clip's span must say what it was
                vocabulary.AUDIO_SAMPLE_RATE: heard.rate,
                vocabulary.AUDIO_FORMAT: heard.format,
                vocabulary.AUDIO_DURATION: round(heard.seconds, 3),
            }
            clip = audio.checked(heard, seconds=seconds)
            about[vocabulary.AUDIO_CLIPPING] = round(clip.clipped_ratio, 5)
            reference = self.engine.prepare(clip.samples, clip.rate, transcript)
        finally:
            del self._begun[get_ident()]
            span.tags(about)
            span.tag(vocabulary.COMPUTE_MS, round((time.time_ns() - started) / 1e6, 3))
        views = {f"view_{rate}": view for rate, view in reference.views.items()}
        return {
            "parts": self.shelf.pack(views | dict(reference.arrays)),
            "facts": {"transcript": transcript, CLIP: about},
        }
