"""The audio of pieces of text, with the times of their words: how one is made, and how several are joined."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import numpy as np

from deployments import trace_error_messages
from deployments.arrays import Array, ArrayStore, InputLost
from deployments.ingress.context import SegmentContext, StageContext
from deployments.ingress.part_plan import PartEnds
from deployments.ingress.speech_graph import SpeechGraph
from deployments.ingress.stage_result import StageResult, VoiceRef
from deployments.wire import AudioReply
from engines.contract import Capabilities
from speech import pcm
from speech.errors import StageUnavailable, stage_unavailable
from speech.joining import Joiner, pause_after
from speech.pauses import Pauses
from speech.requests import SpeechRequest
from speech.utterance import Utterance
from speech.word_edges import heard_in, settled
from speech.words import AudioPart, Timings, Word, part_of
from tracing import vocabulary


@dataclass(frozen=True)
class Wish:
    """The times that a request asks for.

    Attributes:
        timestamps: what gets a time, of `speech.words.GRANULARITIES`; None: nothing.
        written: the text that offsets are positions in; None where each piece is a text of its own.
    """

    timestamps: str | None
    written: str | None = None

    @property
    def words(self) -> bool:
        """It asks for more than where the pieces lie."""
        return self.timestamps not in (None, "part")

    @classmethod
    def of(cls, request: SpeechRequest) -> Wish:
        return cls(request.timestamps, request.written)


@dataclass(frozen=True)
class Said:
    """The text of a piece, and the times of its words if the engine tells them.

    Attributes:
        text: of the piece.
        timings: of its units; None: not known, or not asked for.
        units_known: the number of units whose times are final; None: all are.
    """

    text: str
    timings: Timings | None = None
    units_known: int | None = None

    def words(self, wish: Wish, origin_s: float, kept_s: tuple[float, float]) -> tuple[Word, ...]:
        """Return the words that the request asks for, as far as their times are final.

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
            word.moved(origin_s).within(*kept_s)
            for word in self.timings.heard(wish.timestamps, self.text, text, self.units_known)
        )


class _WordsInTurn:
    """Gives out each word of a piece once, as soon as its times are final."""

    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._begin()

    def _begin(self) -> None:
        self._count, self._end_s = 0, 0.0

    def of(self, audio: PieceAudio, origin_s: float, kept_s: tuple[float, float]) -> tuple[Word, ...]:
        """Return the words that are new with this audio; the arguments are those of `Said.words`."""
        if not audio.ends and not audio.said.units_known:
            return ()
        known = audio.said.words(self._wish, origin_s, kept_s)
        # A pause's edge may lie a step earlier now that more is heard, but never before what was said of it.
        new = tuple(word.within(max(kept_s[0], self._end_s), kept_s[1]) for word in known[self._count :])
        if audio.ends:
            self._begin()
        elif new:
            self._count, self._end_s = len(known), new[-1].end_s
        return new


@dataclass(frozen=True)
class PieceAudio:
    """Audio of a piece, int16 (n,). `ends`: the piece is complete, and `pause_s` of silence belong behind it."""

    samples: Array
    ends: bool
    pause_s: float
    said: Said


class Pieces:
    """Makes the audio of pieces with one engine, in one ingress replica.

    Args:
        graph: the DAG.
        engine: the graph's engine.
        arrays: fetches the arrays of the stages' replies.
    """

    def __init__(self, graph: SpeechGraph, engine: Capabilities, arrays: ArrayStore) -> None:
        self._graph = graph
        self._engine = engine
        self._arrays = arrays

    async def whole(self, utterance: Utterance, voice: VoiceRef, ctx: StageContext, wish: Wish) -> tuple[Array, Said]:
        """Make a piece; returns its audio, int16 (n,), and what is said in it. Raises the SpeechErrors of the stages.

        Args:
            utterance: the piece.
            voice: its voice.
            ctx: the request, or the piece's place in it.
            wish: the times asked for. Words' edges are looked for in the sound only where they are: that takes 10 ms.
        """
        samples, timings = await self.audio(await self._graph.speech(utterance, voice, ctx), ctx)
        return samples, await self._said(utterance.text, wish, timings, [samples], complete=True)

    async def _said(
        self, text: str, wish: Wish, timings: Timings | None, so_far: Sequence[Array], complete: bool
    ) -> Said:
        """Say when the words of a piece are heard, as far as its sound so far tells."""
        if timings is None or not wish.words:
            return Said(text)
        rate = self._engine.sample_rate
        samples = np.concatenate(so_far) if len(so_far) > 1 else so_far[0]
        known = None if complete else settled(timings, len(samples) / rate)
        return Said(text, await asyncio.to_thread(heard_in, timings, samples, rate), known)

    async def run(
        self,
        utterance: Utterance,
        voice: VoiceRef,
        segment: SegmentContext,
        chunked: bool,
        wish: Wish,
        put: Callable[[PieceAudio | Exception], None],
        ends_of_parts: PartEnds | None = None,
    ) -> None:
        """Make a piece, and put its audio, whole or in chunks, or the error that it ended with.

        Args:
            utterance: the piece.
            voice: its voice.
            segment: its place in the request.
            chunked: take the engine's chunks as they are made.
            wish: the times asked for.
            put: takes the audio.
            ends_of_parts: where somebody waits for it: how a mel is divided.
        """
        pause_s = pause_after(utterance.text)
        try:
            if not chunked and ends_of_parts is not None:
                made = await self._graph.speech_in_parts(utterance, voice, segment, ends_of_parts)
                so_far: list[Array] = []
                async with aclosing(made) as parts:
                    async for part in parts:
                        samples, timings = await self.audio(part, segment)
                        so_far.append(samples)
                        said = await self._said(utterance.text, wish, timings, so_far, part.value.complete)
                        put(PieceAudio(samples, part.value.complete, pause_s, said))
                return
            if not chunked:
                samples, said = await self.whole(utterance, voice, segment, wish)
                put(PieceAudio(samples, True, pause_s, said))
                return
            said = Said(utterance.text)
            async with aclosing(self._graph.speech_stream(utterance, voice, segment)) as chunks:
                async for chunk in chunks:
                    put(PieceAudio((await self.audio(chunk, segment))[0], False, pause_s, said))
            put(PieceAudio(np.zeros(0, np.int16), True, pause_s, said))
        except Exception as error:
            put(error)

    async def join(
        self, pieces: AsyncGenerator[PieceAudio, None], pauses: Pauses, wish: Wish
    ) -> AsyncGenerator[AudioPart, None]:
        """Yield the final audio of pieces in a row, with pauses between them."""
        rate = self._engine.sample_rate
        joiner, new = Joiner(rate, lead_s=pauses.before_s), _WordsInTurn(wish)
        async with aclosing(_paced(pieces, pauses)) as paced:
            async for audio in paced:
                joined = joiner.add(pcm.from_pcm(audio.samples), audio.pause_s, last=audio.ends)
                words: tuple[Word, ...] = ()
                if joiner.origin is not None:
                    first, end = joiner.kept
                    words = new.of(audio, joiner.origin / rate, (first / rate, end / rate))
                yield AudioPart(pcm.to_pcm(joined), words)
        yield AudioPart(pcm.to_pcm(joiner.finish(pause=pauses.last_is_heard)))

    async def plain(self, pieces: AsyncGenerator[PieceAudio, None], wish: Wish) -> AsyncGenerator[AudioPart, None]:
        """Yield the audio of a single piece as it is."""
        count, new = 0, _WordsInTurn(wish)
        async with aclosing(pieces):
            async for audio in pieces:
                count += len(audio.samples)
                whole_s = 0.0, count / self._engine.sample_rate
                yield AudioPart(audio.samples, new.of(audio, 0.0, whole_s))

    async def audio(self, audio: StageResult[AudioReply], ctx: StageContext) -> tuple[Array, Timings | None]:
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


async def _paced(pieces: AsyncGenerator[PieceAudio, None], pauses: Pauses) -> AsyncGenerator[PieceAudio, None]:
    """Yield the pieces with the pauses that the text asks for in place of their own."""
    number = 0
    async with aclosing(pieces):
        async for audio in pieces:
            yield replace(audio, pause_s=pauses.after_s.get(number, audio.pause_s))
            number += audio.ends
