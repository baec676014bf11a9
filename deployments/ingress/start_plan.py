"""Decides when the next piece of a stream is started, and when it is due.

- The first one has the graph for itself until it is heard.
- A later one has it for itself too where there is time: two at once would slow each other down, and the one that is
  needed first would come later. It is started when those before it are made, or as soon as it is expected to come too
  late otherwise.
- An engine that streams by chunks computes all of them in one batch: there they run side by side.
- So many at a time, counted from the one that is listened to: a listener who is slow delays what is not started.

What is expected comes from `run_ahead.py`. While nothing is known, one is made after the other.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field

from deployments.ingress.continuity import Continuity
from deployments.ingress.part_plan import SOON_S, PartEnds, ends_of_parts
from deployments.ingress.run_ahead import LATE, SHORTEST_S, RunAhead
from speech.utterance import Utterance


@dataclass
class StartedPiece:
    """A piece on its way through the graph."""

    utterance: Utterance
    seconds: float  #: expected; once it is made, what it has
    started: float  #: when, on the clock
    urgent: bool  #: it was needed when it was started, and nothing else was under way
    made_s: float = 0.0  #: of audio so far
    part_at: float = 0.0  #: when its latest part was made, on the clock
    made: bool = False
    taken: bool = False  #: its listener has all of it


@dataclass
class StartPlan:
    """The pieces of one stream, as they are started.

    Args:
        ahead: what recent pieces have shown.
        chunked: the engine gives a piece in chunks.
        at_once: pieces in the graph at a time.
        continuity: the stream's play-out clock.
        by_rule: pieces wait for those before them; otherwise only the first one does not run beside the others.
    """

    ahead: RunAhead
    chunked: bool
    at_once: int
    continuity: Continuity
    by_rule: bool = True
    _started: list[StartedPiece] = field(init=False, default_factory=list)
    _changed: asyncio.Event = field(init=False, default_factory=asyncio.Event)

    @property
    def at_first(self) -> int:
        """The pieces to start before anything is heard."""
        return 1

    @property
    def busy(self) -> bool:
        """A piece is started and not made."""
        return any(not one.made for one in self._started)

    async def room(self, utterance: Utterance, while_busy: bool = False) -> bool:
        """Wait until a piece, the next one, may be started.

        Args:
            utterance: the next one.
            while_busy: give up where only the listener is waited for.

        Returns:
            Whether it may be started.
        """
        while (wait_s := self.wait_s(utterance)) > 0:
            if while_busy and not self.busy:
                return False
            await self._change(wait_s)
        return True

    def wait_s(self, utterance: Utterance) -> float:
        """Return the seconds after which the next piece is started if nothing happens; inf: only then."""
        if sum(not one.taken for one in self._started) >= self.at_once:
            return math.inf
        if not any(one.made_s > 0 or one.made for one in self._started):
            return 0.0 if len(self._started) < self.at_first else math.inf
        under_way = [one for one in self._started if not one.made]
        if not under_way or self.chunked or not self.by_rule:
            return 0.0
        latency = self.ahead.latency_s(self.ahead.seconds_of(utterance))
        if latency is None:
            return math.inf
        remaining = max(self._remaining_s(one) for one in under_way)
        slack = self._left_s() - (remaining + latency) * self.ahead.correction
        return max(slack, SHORTEST_S) if slack > 0 else 0.0

    def start(self, utterance: Utterance) -> float:
        """Note that the next piece is started now; returns the seconds until it is due, perhaps negative."""
        seconds = self.ahead.seconds_of(utterance)
        due_s = self._left_s() - (self.ahead.latency_s(seconds) or 0.0) if self._started else 0.0
        alone = all(one.made for one in self._started)
        self._started.append(StartedPiece(utterance, seconds, self.ahead.clock(), urgent=alone and due_s <= 0))
        return due_s

    def divided(self, number: int, due_s: float) -> PartEnds | None:
        """Return how a piece is divided whose first sound is waited for, or soon will be; None: it is not.

        Args:
            number: the piece's, from 0.
            due_s: as `start` says it.
        """
        if self.chunked or (number > 0 and due_s > SOON_S):
            return None
        return lambda seconds: ends_of_parts(seconds, self.ahead.part_factor)

    def add(self, number: int, seconds: float, whole: bool) -> None:
        """Note that a part of a piece is made.

        Args:
            number: the piece's, from 0.
            seconds: of audio in the part.
            whole: it was the last one.
        """
        one, now = self._started[number], self.ahead.clock()
        if seconds and one.made_s and not self.chunked:
            self.ahead.note_part(seconds, now - one.part_at)
        one.part_at = now
        one.made_s += seconds
        if whole:
            one.made, one.seconds = True, one.made_s
            if one.made_s:
                self.ahead.note_piece(
                    one.utterance, one.made_s, now - one.started, urgent=one.urgent and not self.chunked
                )
        self._changed.set()

    def taken(self, number: int) -> None:
        """Note that the listener has all of a piece."""
        self._started[number].taken = True
        self._changed.set()

    async def _change(self, at_most_s: float) -> None:
        """Wait until something happens, at most so many seconds."""
        self._changed.clear()
        try:
            async with asyncio.timeout(None if math.isinf(at_most_s) else at_most_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _remaining_s(self, one: StartedPiece) -> float:
        elapsed = self.ahead.clock() - one.started
        return max((self.ahead.latency_s(one.seconds) or 0.0) - elapsed, LATE * elapsed)

    def _left_s(self) -> float:
        """Return the seconds until the listener will have played all that was started."""
        started = sum(one.seconds for one in self._started)
        return self.continuity.margin_s + max(0.0, started - self.continuity.seconds)
