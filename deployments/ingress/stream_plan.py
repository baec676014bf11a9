"""Decides how far a stream of a known text runs ahead of its listener, so that the listener does not run dry.

The rule, in four parts (docs/streams.md says why, and what was measured):

- **Order.** A piece is due when its listener will have played what comes before it, less the time that the piece is
  expected to take. The stages' queues take the most urgent first. A request's first sound is due
  `limits.first_audio_hold_s` after it came: by so much a listener who would run dry goes before a new one.
- **The second piece** starts with the first one if it is expected to come too late otherwise. Else the first has the
  graph for itself until it is heard.
- **One after the other.** `start_plan.py` says when a later piece is started.
- **The hold.** The first sound is held back while a gap is expected, at most `limits.first_audio_hold_s`.

At the release, one piece is the critical one: of all that are not ready, it is expected to leave the listener the
least. Where the engine streams by chunks, there is none: a stream is held for as long as most of the recent ones would
have needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deployments.ingress.run_ahead import LATE, SHORTEST_S
from deployments.ingress.start_plan import StartPlan
from speech.utterance import Utterance


@dataclass
class StreamPlan(StartPlan):
    """One stream on its way through the graph.

    Args:
        utterances: its pieces, in order.
    """

    utterances: Sequence[Utterance] = ()
    _first_at: float | None = field(init=False, default=None)
    _first_s: float = field(init=False, default=0.0)
    _chunks_need: float | None = field(init=False, default=None)
    #: A piece, its start, the time that it is expected to take.
    _critical: tuple[int, float, float] | None = field(init=False, default=None)
    _released: bool = field(init=False, default=False)

    @property
    def at_first(self) -> int:
        """The pieces to start before anything is heard: 2 where the second would come too late, else 1."""
        if self.chunked or not self.by_rule or len(self.utterances) < 2:
            return 1
        first, second = map(self.ahead.seconds_of, self.utterances[:2])
        latency = self.ahead.latency_s(second)
        return 2 if latency is not None and latency * self.ahead.correction > first else 1

    def add(self, number: int, seconds: float, whole: bool) -> None:
        """Note that a part of a piece is made; as `StartPlan.add`."""
        now = self.ahead.clock()
        if seconds and self._first_at is None:
            self._first_at, self._first_s = now, seconds
        elif seconds and self._first_at is not None:
            before = sum(one.made_s for one in self._started[: number + 1])
            need = now - self._first_at - before
            self._chunks_need = need if self._chunks_need is None else max(need, self._chunks_need)
        super().add(number, seconds, whole)
        if whole and self.chunked:
            if number == len(self.utterances) - 1 and self._chunks_need is not None:
                self.ahead.note_chunks(self._chunks_need)
        elif whole and self._released and self._critical is not None and self._critical[0] == number:
            _, started, expected = self._critical
            self.ahead.note_critical((now - started) / expected)

    def need_s(self) -> float | None:
        """Return for how long the first sound has to be held back from now on, as far as that is expected.

        Negative: the listener will have that much left. None: nothing is expected, or nothing is to come.
        """
        now = self.ahead.clock()
        self._critical = None
        all_made = len(self._started) == len(self.utterances) and not self.busy
        if all_made or self._first_at is None:
            return None
        if self.chunked:
            made_since = sum(one.made_s for one in self._started) - self._first_s
            return self.ahead.chunks_need_s - (now - self._first_at) - made_since
        need, before, remaining = None, 0.0, 0.0
        for number, utterance in enumerate(self.utterances):
            one = self._started[number] if number < len(self._started) else None
            seconds = self.ahead.seconds_of(utterance) if one is None else one.seconds
            if one is None or not one.made:
                latency = self.ahead.latency_s(seconds)
                if latency is None:
                    return None
                elapsed = 0.0 if one is None else now - one.started
                # At worst one device computes the stream's pieces one after the other.
                after = remaining + self.ahead.factor() * seconds if remaining else SHORTEST_S
                remaining = max(latency - elapsed, LATE * elapsed, after)
                whole = elapsed + remaining
                needs = whole * self.ahead.correction - elapsed - before
                divided = one is not None and one.made_s > 0  # its parts are in time for each other: part_plan.py
                if not divided and (need is None or needs > need):
                    need, self._critical = needs, (number, now - elapsed, whole)
            before += seconds
        return need

    async def hold(self, most_s: float) -> float:
        """Hold the first sound back while a gap is expected; returns for how many seconds.

        Args:
            most_s: the longest hold.
        """
        began, held = self.ahead.clock(), False
        while (need := self.need_s() or 0.0) > 0 and (left := began + most_s - self.ahead.clock()) > 0:
            held = True
            await self._change(min(need, left))
        released = self.release()
        return released - began if held else 0.0

    def release(self) -> float:
        """Note that the first sound goes out; returns when, on the clock."""
        self._released = True
        return self.ahead.clock()
