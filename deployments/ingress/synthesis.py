"""Makes a request's audio: one utterance or many in a row, whole or while it is made.

A long text is said in pieces, which go through the graph side by side and are joined in their order. So is a streamed
text if the engine can't stream by itself: sentence by sentence. `stream_plan.py` decides how far a stream runs ahead of
its listener, and when it is first heard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial

import numpy as np

from deployments.arrays import ArrayStore
from deployments.ingress.context import RequestContext
from deployments.ingress.piece_audio import PieceAudio, Pieces, Wish
from deployments.ingress.run_ahead import RunAhead
from deployments.ingress.speech_graph import SpeechGraph
from deployments.ingress.stage_result import VoiceRef, unpacked
from deployments.ingress.stream_plan import StreamPlan
from deployments.ingress.voice_cache import CachedVoice
from deployments.ingress.voice_resolver import VoiceResolver, VoiceSource
from engines.contract import Capabilities
from speech.pauses import Pauses
from speech.requests import SpeechRequest
from speech.utterance import Utterance
from speech.words import AudioPart
from tracing import vocabulary


class Synthesizer:
    """Makes audio with one engine, in one ingress replica.

    Args:
        graph: the DAG.
        voices: resolves a request's voice.
        engine: the graph's engine.
        arrays: fetches the arrays of the stages' replies.
        max_concurrent_pieces: pieces of one request that are in the graph at a time.
        first_audio_hold_s: by how much a first sound may be put back, so that no listener runs dry.
        run_ahead: what recent pieces have shown.
    """

    def __init__(
        self,
        graph: SpeechGraph,
        voices: VoiceResolver,
        engine: Capabilities,
        arrays: ArrayStore,
        max_concurrent_pieces: int = 4,
        first_audio_hold_s: float = 0.0,
        run_ahead: RunAhead | None = None,
    ) -> None:
        self._graph = graph
        self._voices = voices
        self._engine = engine
        self._arrays = arrays
        self._max_concurrent_pieces = max_concurrent_pieces
        self._first_audio_hold_s = first_audio_hold_s
        self._run_ahead = run_ahead or RunAhead()
        self._pieces = Pieces(graph, engine, arrays)

    async def synthesize(self, request: SpeechRequest, source: VoiceSource, ctx: RequestContext) -> AudioPart:
        """Return all of a request's audio at the engine's rate. Raises the SpeechErrors of the stages."""
        ctx.due_ns = ctx.usual_due_ns + int(self._first_audio_hold_s * 1e9)  # as for a stream's first sound
        utterances, pauses = self._split(request, False, ctx)
        wish = Wish.of(request)
        voice = await self._voices.resolve(source, ctx)
        if len(utterances) == 1 and not pauses:
            samples, said = await self._pieces.whole(utterances[0], voice, ctx, wish)
            return AudioPart(samples, said.words(wish, 0.0, (0.0, len(samples) / self._engine.sample_rate)))
        voice = await self._hold(voice)
        pieces = self._in_order(utterances, voice, ctx, False, wish)
        parts = [part async for part in self._pieces.join(pieces, pauses, wish)]
        return AudioPart(
            np.concatenate([part.samples for part in parts]), tuple(word for part in parts for word in part.words)
        )

    async def stream(
        self, request: SpeechRequest, source: VoiceSource, ctx: RequestContext
    ) -> AsyncGenerator[AudioPart, None]:
        """Yield the same audio as it is made, in the order in which it is heard."""
        chunked = self._engine.streaming
        if by_rule := self._first_audio_hold_s > 0:
            ctx.due_ns = time.time_ns() + int(self._first_audio_hold_s * 1e9)
        utterances, pauses = self._split(request, not chunked, ctx)
        wish = Wish.of(request)
        voice = await self._voices.resolve(source, ctx)
        if len(utterances) > 1:
            voice = await self._hold(voice)
        at_once = self._max_concurrent_pieces
        plan = StreamPlan(self._run_ahead, chunked, at_once, ctx.continuity, by_rule, utterances)
        pieces = self._in_order(utterances, voice, ctx, chunked, wish, plan)
        if len(utterances) == 1 and not pauses:
            joined = self._pieces.plain(pieces, wish)
        else:
            joined = self._pieces.join(pieces, pauses, wish)
        async with aclosing(joined) as chunks:
            async for part in chunks:
                if not len(part.samples) and not part.words:
                    continue
                if ctx.first_audio_s is None:
                    held_s = await plan.hold(self._first_audio_hold_s)
                    ctx.root.tag(vocabulary.STREAM_HOLD_MS, round(held_s * 1000, 1) if held_s else None)
                    ctx.note_first_audio()
                yield part

    async def find_voice(self, source: VoiceSource, ctx: RequestContext) -> CachedVoice:
        """Resolve a voice, and fetch it for many utterances. Raises the SpeechErrors of the stages."""
        return await self._hold(await self._voices.resolve(source, ctx))

    def _split(self, request: SpeechRequest, early: bool, ctx: RequestContext) -> tuple[list[Utterance], Pauses]:
        utterances, pauses = request.paced_pieces(early)
        ctx.root.tag(vocabulary.PIECES, len(utterances) if len(utterances) > 1 else None)
        return utterances, pauses

    async def _hold(self, voice: VoiceRef) -> CachedVoice:
        """Fetch a voice that many pieces need: the stage that found it would let it go meanwhile."""
        return voice if isinstance(voice, CachedVoice) else CachedVoice.copy_of(await unpacked(voice, self._arrays))

    async def _in_order(
        self,
        utterances: list[Utterance],
        voice: VoiceRef,
        ctx: RequestContext,
        chunked: bool,
        wish: Wish,
        plan: StreamPlan | None = None,
    ) -> AsyncGenerator[PieceAudio, None]:
        """Yield the pieces' audio in order.

        `plan` says when each piece of a stream is started. Of a whole answer, as many run as may run at a time, counted
        from the one that is next.
        """
        queues: list[asyncio.Queue[PieceAudio | Exception]] = [asyncio.Queue() for _ in utterances]
        tasks: list[asyncio.Task[None]] = []
        places = asyncio.Semaphore(self._max_concurrent_pieces)

        async def start() -> None:
            for number, utterance in enumerate(utterances):
                try:
                    due_ns, divided = ctx.due_ns, None
                    if plan is None:
                        await places.acquire()
                    else:
                        await plan.room(utterance)
                        due_in_s = plan.start(utterance)
                        divided = plan.divided(number, due_in_s)
                        if number and plan.by_rule:
                            due_ns = time.time_ns() + int(due_in_s * 1e9)
                    segment = ctx.segment(number + 1, len(utterances), due_ns)
                except Exception as error:  # whoever waits for this piece must not wait for ever
                    put(number, error)
                    return
                run = self._pieces.run(utterance, voice, segment, chunked, wish, partial(put, number), divided)
                tasks.append(asyncio.create_task(run))

        def put(number: int, audio: PieceAudio | Exception) -> None:
            if plan is not None and not isinstance(audio, Exception):
                plan.add(number, len(audio.samples) / self._engine.sample_rate, audio.ends)
            queues[number].put_nowait(audio)

        tasks.append(asyncio.create_task(start()))
        try:
            for number, queue in enumerate(queues):
                ended = False
                while not ended:
                    audio = await queue.get()
                    if isinstance(audio, Exception):
                        ctx.abandoned = True
                        raise audio
                    ended = audio.ends
                    yield audio
                if plan is None:
                    places.release()
                else:
                    plan.taken(number)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
