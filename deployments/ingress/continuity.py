"""Tells if the listener of a stream would have run dry: a play-out clock, set by the parts of audio as they go out.

The listener is an ideal one. It begins to play when the first part is handed over, takes each part at once, and plays
without a pause while it has audio. If a part is handed over after the listener has played all earlier ones, there is a
gap: it lasts from there to the hand-over, and everything after it is heard later by as much.

A real client may be slower. The time in which it does not take a part that is ready is its own: `sending` stands around
the write, and when the write has been taken, that part counts as not played yet. So a slow client never makes a gap of
ours, and no gap hides behind it for longer than one part of audio lasts. If the text itself comes late
(`waiting_for_text`) and the listener has played everything meanwhile, the next part begins a new play-out.

Each stream has a `Continuity`, and the code that sends its audio reports every part:

    with continuity.sending(seconds):
        await socket.send_bytes(part)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Continuity:
    """The play-out clock of one stream.

    Args:
        clock: seconds, monotonic.
        on_gap: called when a gap has ended, with the seconds since it began.

    Attributes:
        seconds: of audio handed over.
        underrun_s: silence that the listener heard between parts, all gaps together.
        gaps: their number.
        longest_gap_s: of one gap.
        smallest_margin_s: the least audio that the listener had left when a part came. Negative after a gap; None
            before the second part.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, on_gap: Callable[[float], None] | None = None
    ) -> None:
        self._clock = clock
        self._on_gap = on_gap
        self._dry_at: float | None = None  # when the listener has played everything that was handed over
        self._sending = False
        self._ended = False
        self.seconds = 0.0
        self.underrun_s = 0.0
        self.gaps = 0
        self.longest_gap_s = 0.0
        self.smallest_margin_s: float | None = None

    @property
    def started(self) -> bool:
        """True if any audio was handed over."""
        return self.seconds > 0

    @property
    def continuous(self) -> bool:
        """True if there was no gap so far."""
        return self.gaps == 0

    @property
    def margin_s(self) -> float:
        """The seconds of audio that the listener has left now; 0 before the first part and once it has run dry."""
        return 0.0 if self._dry_at is None else max(0.0, self._dry_at - self._clock())

    @contextmanager
    def sending(self, seconds: float) -> Iterator[None]:
        """Hand over a part of audio; put it around the write, which a slow client may block.

        Args:
            seconds: of audio in the part; 0 for a write without any, whose time no gap grows by.
        """
        began = self._clock()
        if seconds > 0:
            self._hand_over(began, seconds)
        self._sending = True
        try:
            yield
        finally:
            self._sending = False
            if self._dry_at is not None:
                now = self._clock()
                if self._dry_at >= began:
                    self._dry_at = max(self._dry_at, now + seconds)
                else:  # dry already: the gap goes on after the write
                    self._dry_at += now - began

    @contextmanager
    def waiting_for_text(self) -> Iterator[None]:
        """Wait for more text to speak, where it comes bit by bit: a listener who runs dry meanwhile lacks no audio."""
        try:
            yield
        finally:
            if self._dry_at is not None and self._clock() >= self._dry_at:
                self._dry_at = None

    def end(self, whole: bool = True) -> None:
        """End the stream; further calls do nothing.

        Args:
            whole: all of it was handed over. Otherwise it broke off or the client left, and the listener who waited for
                the next part then had a gap, as far as it had gone.
        """
        if self._ended:
            return
        self._ended = True
        if not whole and not self._sending and self._dry_at is not None:
            self._note_margin(self._dry_at - self._clock())

    def _hand_over(self, now: float, seconds: float) -> None:
        if self._dry_at is not None:
            self._note_margin(self._dry_at - now)
        self._dry_at = max(self._dry_at or now, now) + seconds
        self.seconds += seconds

    def _note_margin(self, margin_s: float) -> None:
        if self.smallest_margin_s is None or margin_s < self.smallest_margin_s:
            self.smallest_margin_s = margin_s
        if margin_s < 0:
            self.gaps += 1
            self.underrun_s -= margin_s
            self.longest_gap_s = max(self.longest_gap_s, -margin_s)
            if self._on_gap is not None:
                self._on_gap(-margin_s)
