"""Decides how far a stream runs ahead of its listener, so that the listener does not run dry.

The rule, in three parts (docs/streams.md says why, and what was measured):

- **Order.** Each piece of a stream is due when its listener will have played what comes before it, less the time that
  the piece is expected to take. The stages' queues take the most urgent first. A request's first sound is due
  `limits.first_audio_hold_s` after it came: by so much a listener who would run dry goes before a new one.
- **The second piece** starts with the first one if it is expected to come too late otherwise. Else the first has the
  graph for itself until it is heard.
- **The hold.** The first sound is held back while a gap is expected, at most `limits.first_audio_hold_s`.

What is expected comes from this ingress's own recent pieces and streams, so it follows the present load. A piece's
latency is a line over its seconds of audio. At the release, one piece is the critical one: of all that are not ready,
it is expected to leave the listener the least. The expectation is corrected by how much longer than expected the
critical pieces of recent streams took, so that CORRECTED of them would have come in time. Where the engine streams by
chunks, there is no line: a stream is held for as long as CORRECTED of the recent ones would have needed.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from deployments.ingress.continuity import Continuity
from speech.utterance import Utterance

RECENT, RECENT_S = 20, 300.0  #: what is expected comes from so many pieces and streams, none older than that
LEAST = 3  #: pieces or streams below which nothing is expected
CORRECTED = 0.9  #: share of the recent streams that the correction would have kept from a gap
LATE = 0.25  #: a piece that takes longer than expected is expected to take so much of its time until now again
SHORTEST_S = 0.02  #: that a piece which is not ready takes from now on
#: Seconds of speech a character, until pieces of that dialect were made.
PER_CHARACTER_S, PER_DENSE_CHARACTER_S = 0.065, 0.22
_DENSE = ("zh", "ja", "ko", "yue")
_FORGET = 0.9  #: of what is known of a dialect's pace, with each new piece


class RunAhead:
    """Holds what one backend's recent pieces and streams have shown.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._pieces: deque[tuple[float, float, float]] = deque(maxlen=RECENT)  # when, seconds, latency
        self._ratios: deque[tuple[float, float]] = deque(maxlen=RECENT)  # when, time taken over time expected
        self._needs: deque[tuple[float, float]] = deque(maxlen=RECENT)  # when, the hold that a stream of chunks needed
        self._pace: dict[str, tuple[float, float]] = {}  # by dialect: characters and seconds, earlier ones for less

    def note_piece(self, utterance: Utterance, seconds: float, latency_s: float, urgent: bool = True) -> None:
        """Learn from a finished piece.

        Args:
            utterance: the piece.
            seconds: of its audio.
            latency_s: from its start to its audio.
            urgent: no part of the latency is a wait that the piece could afford.
        """
        characters, spoken = self._pace.get(utterance.dialect, (0.0, 0.0))
        self._pace[utterance.dialect] = (
            characters * _FORGET + len(utterance.text),
            spoken * _FORGET + seconds * utterance.speed,
        )
        if urgent:
            self._pieces.append((self.clock(), seconds, latency_s))

    def note_critical(self, ratio: float) -> None:
        """Learn from a stream's critical piece: the time that it took, over the time expected at the release."""
        self._ratios.append((self.clock(), ratio))

    def note_chunks(self, need_s: float) -> None:
        """Learn from a stream of chunks: the hold that it needed, counted from its first chunk; negative: none."""
        self._needs.append((self.clock(), need_s))

    def seconds_of(self, utterance: Utterance) -> float:
        """Return the seconds of audio that a piece is expected to have."""
        characters, spoken = self._pace.get(utterance.dialect, (0.0, 0.0))
        if characters:
            pace = spoken / characters
        else:
            dense = utterance.dialect.split("-")[0] in _DENSE
            pace = PER_DENSE_CHARACTER_S if dense else PER_CHARACTER_S
        return pace * len(utterance.text) / utterance.speed

    def latency_s(self, seconds: float) -> float | None:
        """Return the seconds that a piece with so much audio is expected to take; None where too little is known."""
        line = self._line()
        return None if line is None else line[0] + line[1] * seconds

    def factor(self) -> float:
        """Return the seconds that each further second of audio is expected to take; 0 where too little is known."""
        line = self._line()
        return 0.0 if line is None else line[1]

    def _line(self) -> tuple[float, float] | None:
        """Return a piece's latency without audio, and for each second of it, by least squares."""
        recent = [(audio, took) for at, audio, took in self._pieces if self._is_recent(at)]
        if len(recent) < LEAST:
            return None
        mean_audio, mean_took = fmean(audio for audio, _ in recent), fmean(took for _, took in recent)
        spread = sum((audio - mean_audio) ** 2 for audio, _ in recent)
        slope = sum((audio - mean_audio) * (took - mean_took) for audio, took in recent) / spread if spread else 0.0
        # A line through the origin at the steepest, a level one at the flattest.
        slope = min(max(slope, 0.0), mean_took / mean_audio if mean_audio else 0.0)
        return mean_took - slope * mean_audio, slope

    @property
    def correction(self) -> float:
        """The factor by which critical pieces take longer than expected, at least 1."""
        return max(1.0, self._most(self._ratios, 1.0))

    @property
    def chunks_need_s(self) -> float:
        """The hold that a stream of chunks needs."""
        return self._most(self._needs, 0.0)

    def _most(self, values: deque[tuple[float, float]], unknown: float) -> float:
        recent = sorted(value for at, value in values if self._is_recent(at))
        return recent[math.ceil(len(recent) * CORRECTED) - 1] if len(recent) >= LEAST else unknown

    def _is_recent(self, at: float) -> bool:
        return self.clock() - at <= RECENT_S


@dataclass
class _Piece:
    utterance: Utterance
    seconds: float  #: expected; once it is ready, what it has
    started: float | None = None
    urgent: bool = False  #: it was due when it was started, and no earlier piece of the stream was before it
    made: float = 0.0  #: seconds of audio so far
    ready: bool = False


@dataclass
class StreamPlan:
    """One stream on its way through the graph.

    Args:
        ahead: what recent streams have shown.
        utterances: its pieces, in order.
        chunked: the engine gives a piece in chunks.
        at_once: pieces in the graph at a time.
        continuity: the stream's play-out clock.
    """

    ahead: RunAhead
    utterances: Sequence[Utterance]
    chunked: bool
    at_once: int
    continuity: Continuity
    _pieces: list[_Piece] = field(init=False)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _first_at: float | None = field(init=False, default=None)
    _first_s: float = field(init=False, default=0.0)
    _chunks_need: float | None = field(init=False, default=None)
    _critical: tuple[int, float, float] | None = field(
        init=False, default=None
    )  # a piece, its start, its expected time
    _released: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._pieces = [_Piece(utterance, self.ahead.seconds_of(utterance)) for utterance in self.utterances]

    @property
    def at_first(self) -> int:
        """The pieces to start before anything is heard: 2 where the second would come too late, else 1."""
        if self.chunked or len(self._pieces) < 2:
            return 1
        second = self.ahead.latency_s(self._pieces[1].seconds)
        return 2 if second is not None and second * self.ahead.correction > self._pieces[0].seconds else 1

    def start(self, number: int) -> float:
        """Note that a piece, counted from 0, is started now; returns the seconds until it is due, perhaps negative."""
        piece = self._pieces[number]
        piece.started = self.ahead.clock()
        if number == 0:
            piece.urgent = True
            return 0.0
        before = sum(one.seconds for one in self._pieces[:number])
        left = self.continuity.margin_s + max(0.0, before - self.continuity.seconds)
        due_s = left - (self.ahead.latency_s(piece.seconds) or 0.0)
        piece.urgent = due_s <= 0 and all(one.ready for one in self._pieces[:number])
        return due_s

    def add(self, number: int, seconds: float, whole: bool) -> None:
        """Note that a part of a piece is made.

        Args:
            number: the piece's, from 0.
            seconds: of audio in the part.
            whole: it was the piece's last.
        """
        piece, now = self._pieces[number], self.ahead.clock()
        if seconds and self._first_at is None:
            self._first_at, self._first_s = now, seconds
        elif seconds and self._first_at is not None:
            before = sum(one.made for one in self._pieces[: number + 1])
            need = now - self._first_at - before
            self._chunks_need = need if self._chunks_need is None else max(need, self._chunks_need)
        piece.made += seconds
        if whole:
            self._end(number, piece, now)
        self._changed.set()

    def _end(self, number: int, piece: _Piece, now: float) -> None:
        piece.ready = True
        piece.seconds = piece.made
        if piece.made and piece.started is not None:
            self.ahead.note_piece(
                piece.utterance, piece.made, now - piece.started, urgent=piece.urgent and not self.chunked
            )
        if self.chunked:
            if number == len(self._pieces) - 1 and self._chunks_need is not None:
                self.ahead.note_chunks(self._chunks_need)
        elif self._released and self._critical is not None and self._critical[0] == number:
            _, started, expected = self._critical
            self.ahead.note_critical((now - started) / expected)

    def need_s(self) -> float | None:
        """Return for how long the first sound has to be held back from now on, as far as that is expected.

        Negative: the listener will have that much left. None: nothing is expected, or nothing is to come.
        """
        now = self.ahead.clock()
        self._critical = None
        if all(piece.ready for piece in self._pieces) or self._first_at is None:
            return None
        if self.chunked:
            return (
                self.ahead.chunks_need_s
                - (now - self._first_at)
                - (sum(piece.made for piece in self._pieces) - self._first_s)
            )
        need, before, remaining = None, 0.0, 0.0
        for number, piece in enumerate(self._pieces):
            if not piece.ready:
                latency = self.ahead.latency_s(piece.seconds)
                if latency is None:
                    return None
                elapsed = 0.0 if piece.started is None else now - piece.started
                # At worst one device computes the stream's pieces one after the other.
                after = remaining + self.ahead.factor() * piece.seconds if remaining else SHORTEST_S
                remaining = max(latency - elapsed, LATE * elapsed, after)
                whole = elapsed + remaining
                one = whole * self.ahead.correction - elapsed - before
                if need is None or one > need:
                    need, self._critical = one, (number, now - elapsed, whole)
            before += piece.seconds
        return need

    async def hold(self, most_s: float) -> float:
        """Hold the first sound back while a gap is expected; returns for how many seconds.

        Args:
            most_s: the longest hold.
        """
        began, held = self.ahead.clock(), False
        while (need := self.need_s() or 0.0) > 0 and (left := began + most_s - self.ahead.clock()) > 0:
            held = True
            self._changed.clear()
            try:
                async with asyncio.timeout(min(need, left)):
                    await self._changed.wait()
            except TimeoutError:
                pass
        released = self.release()
        return released - began if held else 0.0

    def release(self) -> float:
        """Note that the first sound goes out; returns when, on the clock."""
        self._released = True
        return self.ahead.clock()
