"""Decides how long the first sound of a text is held back that is still being written.

People type hardly faster than speech is spoken. If the second clause is longer than the first, the listener has heard
the first before the second is written and made. So the first sound goes out later by what is expected to be missing:

- The next clause is complete when it is as long as the first, and at least USUAL_S of speech, at the pace at which the
  text came until now.
- Its first sound then takes as long as the first clause's did, and RESERVE of that.
- What is missing is that time less the first clause's length. It is held back for so long, at most
  `limits.first_audio_hold_s`. If more than twice as much is missing, a gap can't be avoided, and nothing is held.
- If the text comes hardly faster than it is spoken, LONGER_S more are held: the next clause may be longer than that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deployments.ingress.run_ahead import SHORTEST_S
from deployments.ingress.start_plan import StartPlan
from deployments.ingress.writing_pace import WritingPace

USUAL_S = 3.2  #: seconds of speech in a clause of 50 Latin or 15 Chinese characters
RESERVE = 1.25  #: by which a first sound may take longer than the one before it
LONGER_S = 0.3  #: more than the longest gap that was left in text typed at 20 characters a second
FAST = 2.0  #: times as fast as speech: a text that comes so fast needs no such reserve
_LOOK_AGAIN_S = 0.1  #: the text goes on meanwhile


@dataclass
class WrittenPlan(StartPlan):
    """The pieces of a text that comes while it is spoken.

    Args:
        writing: how fast it comes; None: nothing is held.
    """

    writing: WritingPace | None = None
    _first_took_s: float | None = field(init=False, default=None)

    def add(self, number: int, seconds: float, whole: bool) -> None:
        """Note that a part of a piece is made; as `StartPlan.add`."""
        if seconds and self._first_took_s is None:
            self._first_took_s = self.ahead.clock() - self._started[number].started
        super().add(number, seconds, whole)

    def missing_s(self) -> float | None:
        """Return by how much the second piece's sound is expected to come too late if the first one's goes out now.

        Negative: it comes earlier. None: nothing is expected, or it is there.
        """
        if self.writing is None or self._first_took_s is None or self.chunked:
            return None
        first, now, per_s = self._started[0], self.ahead.clock(), self.writing.per_s
        takes_s, spoken = RESERVE * self._first_took_s, len(first.utterance.text)
        if len(self._started) > 1:
            second = self._started[1]
            if second.made_s or second.made:
                return None
            comes_s = max(takes_s - (now - second.started), SHORTEST_S)
        else:
            if per_s is None:
                return None
            length = spoken * max(1.0, USUAL_S / (self.ahead.seconds_of(first.utterance) or USUAL_S))
            comes_s = max(0.0, length - (self.writing.characters - spoken)) / per_s + takes_s
        slow = per_s is not None and per_s * first.seconds < FAST * spoken
        return comes_s - first.seconds + (LONGER_S if slow else 0.0)

    async def hold(self, most_s: float) -> float:
        """Hold the first sound back while the second is expected to be missing; returns for how many seconds.

        Args:
            most_s: the longest hold.
        """
        began = self.ahead.clock()
        if not 0 < (self.missing_s() or 0.0) <= 2 * most_s:
            return 0.0
        while (missing := self.missing_s() or 0.0) > 0 and (left := began + most_s - self.ahead.clock()) > 0:
            await self._change(min(missing, left, _LOOK_AGAIN_S))
        return self.ahead.clock() - began
