"""How a request becomes sound: one utterance or many in a row, whole or while it is made.

A long text is said in pieces, which go through the graph side by side and are put together in their order. So is a
streamed text where the engine can't stream by itself: sentence by sentence. The first one of a stream has the graph for
itself until it is heard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from deployments import error_messages
from deployments.arrays import InputLost
from deployments.ingress.context import RequestContext, SegmentContext
from deployments.ingress.stage_clients import Made, Result, StageClient, Unpack, unpacked
from deployments.ingress.voice_cache import KeptVoice, VoiceCache
from deployments.wire import PCM
from engines.contract import Capabilities, Utterance
from speech import pcm
from speech.errors import StageUnavailable
from speech.joining import Joiner, pause_after
from speech.requests import SpeechRequest
from tracing import vocabulary


class Pipeline(Protocol):
    """The DAG, as `graph.py` defines it."""

    stages: Mapping[str, StageClient]  #: by service name

    def voice(
        self, upload: bytes, transcript: str | None, run: RequestContext, voices: VoiceCache
    ) -> Awaitable[Made]: ...

    def speak(self, utterance: Utterance, voice: Made, run: RequestContext | SegmentContext) -> Awaitable[Result]: ...

    def stream(
        self, utterance: Utterance, voice: Made, run: RequestContext | SegmentContext
    ) -> AsyncIterator[Result]: ...


Source = Callable[[RequestContext], Awaitable[Made]]  #: finds the request's voice


@dataclass(frozen=True)
class _Sound:
    """int16 audio of a piece; `ends`: nothing more comes of that piece, and `pause_s` of silence belong behind it."""

    samples: np.ndarray
    ends: bool
    pause_s: float


class Synthesizer:
    """One ingress replica's.

    Args:
        unpack: takes a reply's arrays from where they wait: `ArrayStore.unpack`.
        at_once: how many pieces of one request are in the graph at a time.
    """

    def __init__(self, pipeline: Pipeline, engine: Capabilities, unpack: Unpack, at_once: int = 4) -> None:
        self._pipeline = pipeline
        self._engine = engine
        self._unpack = unpack
        self._at_once = at_once

    async def whole(self, ask: SpeechRequest, source: Source, run: RequestContext) -> np.ndarray:
        """All of it, int16 (n,) at the engine's rate. Raises the SpeechErrors of the stages."""
        utterances = self._utterances(ask, False, run)
        voice = await source(run)
        if len(utterances) == 1:
            return await self._samples(await self._pipeline.speak(utterances[0], voice, run), run)
        voice = await self._held(voice)
        sounds = self._in_order(utterances, voice, run, False, self._at_once)
        return np.concatenate([samples async for samples in self._joined(sounds)])

    async def stream(self, ask: SpeechRequest, source: Source, run: RequestContext) -> AsyncIterator[np.ndarray]:
        """The same as it is made, in the order in which it is heard."""
        chunked = self._engine.streaming
        utterances = self._utterances(ask, not chunked, run)
        voice = await source(run)
        if len(utterances) > 1:
            voice = await self._held(voice)
        sounds = self._in_order(utterances, voice, run, chunked, 1)
        first = True
        async with aclosing(sounds if len(utterances) == 1 else self._joined(sounds)) as found:
            async for sound in found:
                samples = sound.samples if isinstance(sound, _Sound) else sound
                if not len(samples):
                    continue
                if first:
                    run.root.annotate(vocabulary.FIRST_CHUNK)
                    run.first_audio_s = run.seconds
                first = False
                yield samples

    def _utterances(self, ask: SpeechRequest, early: bool, run: RequestContext) -> list[Utterance]:
        found = ask.pieces(early)
        run.root.tag(vocabulary.PIECES, len(found) if len(found) > 1 else None)
        return found

    async def _held(self, voice: Made) -> KeptVoice:
        """A voice for many pieces is kept by the ingress meanwhile: the stage that found it would let it go."""
        if isinstance(voice, KeptVoice):
            return voice
        return KeptVoice.copied(await unpacked(voice, self._unpack))

    async def _in_order(
        self, utterances: list[Utterance], voice: Made, run: RequestContext, chunked: bool, at_first: int
    ) -> AsyncIterator[_Sound]:
        """The pieces' sounds. `at_first` pieces are begun before anything is heard, then as many as may be at once,
        counted from the one that is listened to: a slow listener holds up what isn't begun."""
        queues: list[asyncio.Queue[_Sound | Exception]] = [asyncio.Queue() for _ in utterances]
        tasks: list[asyncio.Task] = []

        def begin_up_to(count: int) -> None:
            for number in range(len(tasks), min(count, len(utterances))):
                piece = run.piece(number + 1, len(utterances))
                tasks.append(asyncio.create_task(self._say(utterances[number], voice, piece, chunked, queues[number])))

        try:
            begin_up_to(at_first)
            for number, queue in enumerate(queues):
                ended = False
                while not ended:
                    sound = await queue.get()
                    if isinstance(sound, Exception):
                        run.abandoned = True
                        raise sound
                    begin_up_to(number + self._at_once)
                    ended = sound.ends
                    yield sound
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say(
        self, utterance: Utterance, voice: Made, piece: SegmentContext, chunked: bool, out: asyncio.Queue
    ) -> None:
        pause_s = pause_after(utterance.text)
        try:
            if not chunked:
                samples = await self._samples(await self._pipeline.speak(utterance, voice, piece), piece)
                out.put_nowait(_Sound(samples, True, pause_s))
                return
            async with aclosing(self._pipeline.stream(utterance, voice, piece)) as chunks:
                async for chunk in chunks:
                    out.put_nowait(_Sound(await self._samples(chunk, piece), False, pause_s))
            out.put_nowait(_Sound(np.zeros(0, np.int16), True, pause_s))
        except Exception as error:
            out.put_nowait(error)

    async def _joined(self, sounds: AsyncIterator[_Sound]) -> AsyncIterator[np.ndarray]:
        joiner = Joiner(self._engine.sample_rate)
        async with aclosing(sounds):
            async for sound in sounds:
                yield pcm.to_pcm(joiner.add(pcm.from_pcm(sound.samples), sound.pause_s, last=sound.ends))
        yield pcm.to_pcm(joiner.finish())

    async def _samples(self, audio: Result, run: RequestContext | SegmentContext) -> np.ndarray:
        """The finished audio, made again once if its replica has died with it."""
        try:
            parts = await self._unpack(audio.reply.parts)
        except InputLost:
            run.lost(
                vocabulary.VOCODE_WAV,
                vocabulary.VOCODER,
                time.time_ns(),
                StageUnavailable.type,
                error_messages.LOST_ARRAY,
            )
            try:
                parts = await self._unpack((await audio.remake()).reply.parts)
            except InputLost as error:
                raise StageUnavailable(
                    "vocoder-service is not available; it is being restarted, try again shortly.", retry_after_s=5
                ) from error
        return parts[PCM]
