"""Makes the audio of texts that come bit by bit: utterances one by one, or a text that the engine says while it comes.

`start_plan.py` decides when an utterance is started.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from deployments.arrays import Array, ArrayStore
from deployments.ingress.context import RequestContext
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.piece_audio import PieceAudio, Pieces, Wish
from deployments.ingress.run_ahead import RunAhead
from deployments.ingress.speech_graph import SpeechGraph
from deployments.ingress.start_plan import StartPlan
from deployments.ingress.voice_cache import CachedVoice
from deployments.ingress.written_plan import WrittenPlan
from engines.contract import Capabilities
from speech.pauses import Pauses
from speech.utterance import Utterance
from speech.words import AudioPart
from tracing import vocabulary


@dataclass(frozen=True)
class FollowedPart:
    """A part of the audio of utterances that come one by one. `ends`: the utterance of that number is complete."""

    number: int  #: of the utterance, from 0
    audio: AudioPart
    ends: bool


@dataclass
class _Position:
    """The place of the audio that `Pieces.join` gives out: it has one part for each that it takes."""

    number: int = 0
    ends: bool = False


Admit = Callable[[], AbstractAsyncContextManager[None]]
Put = Callable[[PieceAudio | Exception], None]


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


async def _enter(place: AsyncExitStack, entry: SharedEntry, plan: StartPlan, utterance: Utterance) -> None:
    """Wait until an utterance may be started, and enter the graph for it.

    While those before it are under way it holds their place too. Else the place would be lost between any two, and a
    busy graph could refuse the rest of a text. A wait for the listener alone holds none.
    """
    while plan.busy:
        await place.enter_async_context(entry)
        if await plan.room(utterance, while_busy=True):
            return
        await place.aclose()
    await plan.room(utterance)
    await place.enter_async_context(entry)


class Follower:
    """Makes audio for texts that come bit by bit with one engine, in one ingress replica.

    Args:
        graph: the DAG.
        engine: the graph's engine.
        arrays: fetches the arrays of the stages' replies.
        max_concurrent_pieces: utterances of one request that are in the graph at a time.
        first_audio_hold_s: by how much a first sound may be put back, so that no listener runs dry.
        run_ahead: what recent pieces have shown.
    """

    def __init__(
        self,
        graph: SpeechGraph,
        engine: Capabilities,
        arrays: ArrayStore,
        max_concurrent_pieces: int = 4,
        first_audio_hold_s: float = 0.0,
        run_ahead: RunAhead | None = None,
    ) -> None:
        self._graph = graph
        self._engine = engine
        self._pieces = Pieces(graph, engine, arrays)
        self._max_concurrent_pieces = max_concurrent_pieces
        self._first_audio_hold_s = first_audio_hold_s
        self._run_ahead = run_ahead or RunAhead()

    async def follow(
        self,
        utterances: AsyncIterator[Utterance],
        voice: CachedVoice,
        ctx: RequestContext,
        admit: Admit,
        timestamps: str | None = None,
    ) -> AsyncGenerator[FollowedPart, None]:
        """Yield the audio of utterances that come one by one, joined into one, each as soon as it is there.

        `WrittenPlan` says when each one is started, and for how long the first sound is held back.

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
        wish = Wish(timestamps)
        pieces = self._as_they_come(utterances, voice, ctx, SharedEntry(admit), wish, at)
        async with aclosing(self._pieces.join(pieces, Pauses(), wish)) as parts:
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
        wish: Wish,
        at: _Position,
    ) -> AsyncGenerator[PieceAudio, None]:
        chunked = self._engine.streaming
        at_once = self._max_concurrent_pieces
        plan = WrittenPlan(self._run_ahead, chunked, at_once, ctx.continuity, writing=ctx.writing)
        pieces: asyncio.Queue[asyncio.Queue[PieceAudio | Exception] | Exception | None] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []

        async def run(utterance: Utterance, number: int, put: Put, started: asyncio.Event) -> None:
            try:
                async with AsyncExitStack() as place:
                    try:
                        await _enter(place, entry, plan, utterance)
                        due_s = plan.start(utterance)
                        due_ns = time.time_ns() + int(due_s * 1e9)
                    finally:
                        started.set()
                    segment, divided = ctx.segment(number + 1, 0, due_ns), plan.divided(number, due_s)
                    await self._pieces.run(utterance, voice, segment, chunked, wish, put, divided)
            except Exception as error:
                put(error)

        async def start() -> None:
            try:
                number = 0
                async for utterance in utterances:
                    out: asyncio.Queue[PieceAudio | Exception] = asyncio.Queue()
                    pieces.put_nowait(out)
                    started = asyncio.Event()
                    put = partial(self._put, plan, number, out)
                    tasks.append(asyncio.create_task(run(utterance, number, put, started)))
                    await started.wait()
                    number += 1
                pieces.put_nowait(None)
            except Exception as error:
                pieces.put_nowait(error)

        tasks.append(asyncio.create_task(start()))
        heard = False
        try:
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
                    if not heard and len(audio.samples):
                        heard, held_s = True, await plan.hold(self._first_audio_hold_s)
                        ctx.root.tag(vocabulary.STREAM_HOLD_MS, round(held_s * 1000, 1) if held_s else None)
                    at.ends = ended = audio.ends
                    if ended:
                        plan.taken(at.number)
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

    def _put(
        self,
        plan: StartPlan,
        number: int,
        out: asyncio.Queue[PieceAudio | Exception],
        audio: PieceAudio | Exception,
    ) -> None:
        if not isinstance(audio, Exception):
            plan.add(number, len(audio.samples) / self._engine.sample_rate, audio.ends)
        out.put_nowait(audio)

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

        made: asyncio.Queue[Array | Exception | None] = asyncio.Queue()

        async def make() -> None:
            paced = deadline_s is not None
            try:
                async with aclosing(
                    self._graph.speech_stream_live(text, utterance, voice, ctx, entered, paced)
                ) as chunks:
                    async for chunk in chunks:
                        made.put_nowait((await self._pieces.audio(chunk, ctx))[0])
                made.put_nowait(None)
            except Exception as error:
                made.put_nowait(error)

        # In a task of its own: a listener who takes the audio as it is played must not hold the place in the graph, nor
        # use up the deadline of what is still to be made. What waits here is at most the audio of one utterance, 16 MB.
        making = asyncio.create_task(make())
        try:
            while (samples := await made.get()) is not None:
                if isinstance(samples, Exception):
                    raise samples
                if len(samples):
                    ctx.note_first_audio()
                    yield FollowedPart(0, AudioPart(samples), False)
            yield FollowedPart(0, AudioPart(np.zeros(0, np.int16)), True)
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
