"""Makes a request's audio: one utterance or many in a row, whole or while it is made.

A long text is said in pieces, which go through the graph side by side and are joined in their order. So is a streamed
text if the engine can't stream by itself: sentence by sentence. `run_ahead.py` decides how far a stream runs ahead of
its listener, and when it is first heard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from deployments import trace_error_messages
from deployments.arrays import Array, ArrayStore, InputLost
from deployments.ingress.context import RequestContext, SegmentContext, StageContext
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.run_ahead import RunAhead, StreamPlan
from deployments.ingress.speech_graph import SpeechGraph
from deployments.ingress.stage_clients import StageResult, VoiceRef, unpacked
from deployments.ingress.voice_cache import CachedVoice
from deployments.ingress.voice_resolver import VoiceResolver, VoiceSource
from deployments.wire import AudioReply
from engines.contract import Capabilities
from speech import pcm
from speech.errors import StageUnavailable, stage_unavailable
from speech.joining import Joiner, pause_after
from speech.pauses import Pauses
from speech.requests import SpeechRequest
from speech.utterance import Utterance
from speech.words import AudioPart, Timings, Word, part_of
from tracing import vocabulary


@dataclass(frozen=True)
class _Wish:
    """The times that a request asks for.

    Attributes:
        timestamps: what gets a time, of `speech.words.GRANULARITIES`; None: nothing.
        written: the text that offsets are positions in; None where each piece is a text of its own.
    """

    timestamps: str | None
    written: str | None = None

    @classmethod
    def of(cls, request: SpeechRequest) -> _Wish:
        return cls(request.timestamps, request.written)


@dataclass(frozen=True)
class _Said:
    """The text of a piece, and the times of its words if the engine tells them."""

    text: str
    timings: Timings | None = None

    def words(self, wish: _Wish, origin_s: float, kept_s: tuple[float, float]) -> tuple[Word, ...]:
        """Return the words that the request asks for.

        Args:
            wish: what it asks for.
            origin_s: seconds in the request's audio of the piece's first sample, as it was made.
            kept_s: start and end there of what is left of it.
        """
        if wish.timestamps is None:
            return ()
        text = self.text if wish.written is None else wish.written
        if wish.timestamps == "part":
            return part_of(self.text, text, *kept_s)
        if self.timings is None:
            return ()
        return tuple(
            word.moved(origin_s).within(*kept_s) for word in self.timings.heard(wish.timestamps, self.text, text)
        )


@dataclass(frozen=True)
class _PieceAudio:
    """Audio of a piece, int16 (n,). `ends`: the piece is complete, and `pause_s` of silence belong behind it."""

    samples: Array
    ends: bool
    pause_s: float
    said: _Said


@dataclass(frozen=True)
class FollowedPart:
    """A part of the audio of utterances that come one by one. `ends`: the utterance of that number is complete."""

    number: int  #: of the utterance, from 0
    audio: AudioPart
    ends: bool


@dataclass
class _Position:
    """The place of the audio that `_join` gives out: it has one part for each that it takes."""

    number: int = 0
    ends: bool = False


Admit = Callable[[], AbstractAsyncContextManager[None]]


class SharedEntry:
    """Holds one place in the graph for as long as anybody inside needs it.

    Args:
        admit: enters the graph; it is entered again after the last one has left.
    """

    def __init__(self, admit: Admit) -> None:
        self._admit = admit
        self._entering = asyncio.Lock()
        self._inside = 0
        self._place: AbstractAsyncContextManager[None] | None = None

    async def __aenter__(self) -> None:
        async with self._entering:
            if not self._inside:
                place = self._admit()
                await place.__aenter__()
                self._place = place
            self._inside += 1

    async def __aexit__(self, *error: object) -> None:
        self._inside -= 1
        if not self._inside and self._place is not None:
            place, self._place = self._place, None
            await place.__aexit__(None, None, None)


class Synthesizer:
    """Makes audio with one engine, in one ingress replica.

    Args:
        graph: the DAG.
        voices: resolves a request's voice.
        engine: the graph's engine.
        arrays: fetches the arrays of the stages' replies.
        max_concurrent_pieces: pieces of one request that are in the graph at a time.
        first_audio_hold_s: by how much a first sound may be put back, so that no listener runs dry.
    """

    def __init__(
        self,
        graph: SpeechGraph,
        voices: VoiceResolver,
        engine: Capabilities,
        arrays: ArrayStore,
        max_concurrent_pieces: int = 4,
        first_audio_hold_s: float = 0.0,
    ) -> None:
        self._graph = graph
        self._voices = voices
        self._engine = engine
        self._arrays = arrays
        self._max_concurrent_pieces = max_concurrent_pieces
        self._first_audio_hold_s = first_audio_hold_s
        self._run_ahead = RunAhead()

    async def synthesize(self, request: SpeechRequest, source: VoiceSource, ctx: RequestContext) -> AudioPart:
        """Return all of a request's audio at the engine's rate. Raises the SpeechErrors of the stages."""
        ctx.due_ns = ctx.usual_due_ns + int(self._first_audio_hold_s * 1e9)  # as for a stream's first sound
        utterances, pauses = self._split(request, False, ctx)
        voice = await self._voices.resolve(source, ctx)
        if len(utterances) == 1 and not pauses:
            samples, timings = await self._audio(await self._graph.speech(utterances[0], voice, ctx), ctx)
            whole_s = 0.0, len(samples) / self._engine.sample_rate
            return AudioPart(samples, _Said(utterances[0].text, timings).words(_Wish.of(request), 0.0, whole_s))
        voice = await self._hold(voice)
        pieces = self._in_order(utterances, voice, ctx, False)
        parts = [part async for part in self._join(pieces, pauses, _Wish.of(request))]
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
        voice = await self._voices.resolve(source, ctx)
        if len(utterances) > 1:
            voice = await self._hold(voice)
        plan = StreamPlan(self._run_ahead, utterances, chunked, self._max_concurrent_pieces, ctx.continuity)
        pieces = self._in_order(utterances, voice, ctx, chunked, plan, by_rule)
        if len(utterances) == 1 and not pauses:
            joined = self._plain(pieces, _Wish.of(request))
        else:
            joined = self._join(pieces, pauses, _Wish.of(request))
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

    async def follow(
        self,
        utterances: AsyncIterator[Utterance],
        voice: CachedVoice,
        ctx: RequestContext,
        admit: Admit,
        timestamps: str | None = None,
    ) -> AsyncGenerator[FollowedPart, None]:
        """Yield the audio of utterances that come one by one, joined into one, each as soon as it is there.

        The first one has the graph for itself until it is heard. Then the next ones run while their predecessors are
        heard, as many at a time as of a long text.

        Args:
            utterances: in the order in which they are heard.
            voice: the voice of all of them.
            ctx: the request.
            admit: lets the request into the graph. It is left again while there is nothing to say.
            timestamps: what gets a time. Offsets are positions in the utterance's own text.

        Raises:
            SpeechError: a stage's, or what `utterances` raises.
        """
        at = _Position()
        pieces = self._as_they_come(utterances, voice, ctx, SharedEntry(admit), at)
        async with aclosing(self._join(pieces, Pauses(), _Wish(timestamps))) as parts:
            async for part in parts:
                if len(part.samples):
                    ctx.note_first_audio()
                if len(part.samples) or at.ends:
                    yield FollowedPart(at.number, part, at.ends)
                at.ends = False
        ctx.root.tag(vocabulary.PIECES, at.number + 1 if at.number > 0 else None)

    async def _as_they_come(
        self,
        utterances: AsyncIterator[Utterance],
        voice: CachedVoice,
        ctx: RequestContext,
        entry: SharedEntry,
        at: _Position,
    ) -> AsyncGenerator[_PieceAudio, None]:
        pieces: asyncio.Queue[asyncio.Queue[_PieceAudio | Exception] | Exception | None] = asyncio.Queue()
        room = asyncio.Semaphore(1)
        tasks: list[asyncio.Task[None]] = []

        async def run(utterance: Utterance, number: int, out: asyncio.Queue[_PieceAudio | Exception]) -> None:
            # Its listener needs it when what was sent so far is played.
            due_ns = time.time_ns() + int(ctx.continuity.margin_s * 1e9)
            segment = ctx.segment(number, 0, due_ns)
            try:
                async with entry:
                    await self._run_piece(utterance, voice, segment, self._engine.streaming, out.put_nowait)
            except Exception as error:
                out.put_nowait(error)

        async def start() -> None:
            try:
                number = 0
                await room.acquire()
                async for utterance in utterances:
                    number += 1
                    out: asyncio.Queue[_PieceAudio | Exception] = asyncio.Queue()
                    pieces.put_nowait(out)
                    tasks.append(asyncio.create_task(run(utterance, number, out)))
                    await room.acquire()
                pieces.put_nowait(None)
            except Exception as error:
                pieces.put_nowait(error)

        tasks.append(asyncio.create_task(start()))
        try:
            heard = False
            while True:
                with ctx.continuity.waiting_for_text():
                    out = await pieces.get()
                if out is None:
                    break
                if isinstance(out, Exception):
                    raise out
                ended = False
                while not ended:
                    audio = await out.get()
                    if isinstance(audio, Exception):
                        raise audio
                    for _ in range(0 if heard else self._max_concurrent_pieces - 1):
                        room.release()
                    heard = True
                    at.ends = ended = audio.ends
                    if ended:
                        room.release()
                    yield audio
                at.number += 1
            at.number -= 1
        except Exception:
            ctx.abandoned = True
            raise
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def follow_live(
        self,
        text: IncomingText,
        utterance: Utterance,
        voice: CachedVoice,
        ctx: RequestContext,
        admit: Admit,
        deadline_s: float | None = None,
    ) -> AsyncGenerator[FollowedPart, None]:
        """Yield the audio of a text that is said while it comes, as one utterance; where `Capabilities.live_text`.

        Args:
            text: the text; it is closed at the end.
            utterance: how to say it; its own text is not used.
            voice: the voice.
            ctx: the request.
            admit: lets the request into the graph. It is left again while there is nothing to say.
            deadline_s: seconds for what can be said of the text so far, each time; None: one deadline for all of it.

        Raises:
            SpeechError: the engine can't do it (`Capabilities.check_live_text`), a stage's error, or one of
                `IncomingText.take`.
        """
        self._engine.check_live_text()

        @asynccontextmanager
        async def entered() -> AsyncGenerator[None, None]:
            if not ctx.first_piece_s:
                ctx.first_piece_s = ctx.elapsed_s
                ctx.root.annotate(vocabulary.FIRST_PIECE)
            if deadline_s is not None:
                await ctx.extend_deadline(ctx.elapsed_s + deadline_s)
            async with admit():
                yield

        paced = deadline_s is not None
        async with aclosing(self._graph.speech_stream_live(text, utterance, voice, ctx, entered, paced)) as chunks:
            async for chunk in chunks:
                samples, _ = await self._audio(chunk, ctx)
                if not len(samples):
                    continue
                ctx.note_first_audio()
                yield FollowedPart(0, AudioPart(samples), False)
        yield FollowedPart(0, AudioPart(np.zeros(0, np.int16)), True)

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
        plan: StreamPlan | None = None,
        by_rule: bool = True,
    ) -> AsyncGenerator[_PieceAudio, None]:
        """Yield the pieces' audio in order.

        Of a stream, one piece is started before anything is heard, or `plan.at_first` by the rule. Then as many run as
        may run at a time, counted from the one that is listened to: a slow listener delays those that are not started.
        """
        queues: list[asyncio.Queue[_PieceAudio | Exception]] = [asyncio.Queue() for _ in utterances]
        tasks: list[asyncio.Task[None]] = []

        def start_up_to(count: int) -> None:
            for number in range(len(tasks), min(count, len(utterances))):
                due_ns = ctx.due_ns
                if plan is not None:
                    due_in_s = plan.start(number)
                    if number and by_rule:
                        due_ns = time.time_ns() + int(due_in_s * 1e9)
                segment = ctx.segment(number + 1, len(utterances), due_ns)
                tasks.append(
                    asyncio.create_task(
                        self._run_piece(utterances[number], voice, segment, chunked, partial(put, number))
                    )
                )

        def put(number: int, audio: _PieceAudio | Exception) -> None:
            if plan is not None and not isinstance(audio, Exception):
                plan.add(number, len(audio.samples) / self._engine.sample_rate, audio.ends)
            queues[number].put_nowait(audio)

        try:
            start_up_to(self._max_concurrent_pieces if plan is None else plan.at_first if by_rule else 1)
            for number, queue in enumerate(queues):
                start_up_to(number + 1)
                ended = False
                while not ended:
                    audio = await queue.get()
                    if isinstance(audio, Exception):
                        ctx.abandoned = True
                        raise audio
                    start_up_to(number + self._max_concurrent_pieces)
                    ended = audio.ends
                    yield audio
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_piece(
        self,
        utterance: Utterance,
        voice: VoiceRef,
        segment: SegmentContext,
        chunked: bool,
        put: Callable[[_PieceAudio | Exception], None],
    ) -> None:
        pause_s = pause_after(utterance.text)
        try:
            if not chunked:
                samples, timings = await self._audio(await self._graph.speech(utterance, voice, segment), segment)
                put(_PieceAudio(samples, True, pause_s, _Said(utterance.text, timings)))
                return
            said = _Said(utterance.text)
            async with aclosing(self._graph.speech_stream(utterance, voice, segment)) as chunks:
                async for chunk in chunks:
                    put(_PieceAudio((await self._audio(chunk, segment))[0], False, pause_s, said))
            put(_PieceAudio(np.zeros(0, np.int16), True, pause_s, said))
        except Exception as error:
            put(error)

    async def _join(
        self, pieces: AsyncGenerator[_PieceAudio, None], pauses: Pauses, wish: _Wish
    ) -> AsyncGenerator[AudioPart, None]:
        rate = self._engine.sample_rate
        joiner = Joiner(rate, lead_s=pauses.before_s)
        async with aclosing(_paced(pieces, pauses)) as paced:
            async for audio in paced:
                joined = joiner.add(pcm.from_pcm(audio.samples), audio.pause_s, last=audio.ends)
                words: tuple[Word, ...] = ()
                if audio.ends and joiner.origin is not None:
                    first, end = joiner.kept
                    words = audio.said.words(wish, joiner.origin / rate, (first / rate, end / rate))
                yield AudioPart(pcm.to_pcm(joined), words)
        yield AudioPart(pcm.to_pcm(joiner.finish(pause=pauses.last_is_heard)))

    async def _plain(self, pieces: AsyncGenerator[_PieceAudio, None], wish: _Wish) -> AsyncGenerator[AudioPart, None]:
        count = 0
        async with aclosing(pieces):
            async for audio in pieces:
                count += len(audio.samples)
                whole_s = 0.0, count / self._engine.sample_rate
                yield AudioPart(audio.samples, audio.said.words(wish, 0.0, whole_s) if audio.ends else ())

    async def _audio(self, audio: StageResult[AudioReply], ctx: StageContext) -> tuple[Array, Timings | None]:
        """Fetch finished audio and its times; it is made again once if its replica has died with it."""
        try:
            return await self._arrays.unpack(audio.value.pcm), audio.value.timings
        except InputLost:
            ctx.record_lost_stage(
                vocabulary.VOCODE_WAV,
                vocabulary.VOCODER,
                time.time_ns(),
                StageUnavailable.type,
                trace_error_messages.LOST_ARRAY,
            )
            try:
                again = (await audio.remake()).value
                return await self._arrays.unpack(again.pcm), again.timings
            except InputLost as error:
                raise stage_unavailable(vocabulary.VOCODER) from error


async def _paced(pieces: AsyncGenerator[_PieceAudio, None], pauses: Pauses) -> AsyncGenerator[_PieceAudio, None]:
    """Yield the pieces with the pauses that the text asks for in place of their own."""
    number = 0
    async with aclosing(pieces):
        async for audio in pieces:
            yield replace(audio, pause_s=pauses.after_s.get(number, audio.pause_s))
            number += audio.ends
