"""Expects how long the next pieces of speech will take, and for how long a stream should be held.

What is expected comes from this ingress's own recent pieces and streams, so it follows the present load. A piece's
latency is a line over its seconds of audio. The expectation is corrected by how much longer than expected the critical
pieces of recent streams took (`stream_plan.py`), so that CORRECTED of them would have come in time.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from statistics import fmean

from deployments.ingress.part_plan import OVERHEAD_S, PART_FACTOR
from speech.utterance import Utterance

RECENT, RECENT_S = 20, 300.0  #: what is expected comes from so many pieces and streams, none older than that
#: The same for parts. Where they come slowly none are made, and nothing new is learned: it is tried again then.
PARTS_RECENT_S = 60.0
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
        self._parts: deque[tuple[float, float]] = deque(maxlen=RECENT)  # when, time taken for a second of a part
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

    def note_part(self, seconds: float, took_s: float) -> None:
        """Learn from a further part of a piece: the seconds of its sound, and those from the part before it."""
        self._parts.append((self.clock(), took_s / (seconds + OVERHEAD_S)))

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
        return max(1.0, self._quantile(self._ratios, 1.0))

    @property
    def chunks_need_s(self) -> float:
        """The hold that a stream of chunks needs."""
        return self._quantile(self._needs, 0.0)

    @property
    def part_factor(self) -> float:
        """The seconds that a second of a part and its overhead take, as `part_plan.py` has them."""
        # Half of them: the plan itself has a reserve.
        return self._quantile(self._parts, PART_FACTOR, share=0.5, within_s=PARTS_RECENT_S)

    def _quantile(
        self,
        values: deque[tuple[float, float]],
        unknown: float,
        share: float = CORRECTED,
        within_s: float = RECENT_S,
    ) -> float:
        recent = sorted(value for at, value in values if self._is_recent(at, within_s))
        return recent[math.ceil(len(recent) * share) - 1] if len(recent) >= LEAST else unknown

    def _is_recent(self, at: float, within_s: float = RECENT_S) -> bool:
        return self.clock() - at <= within_s
