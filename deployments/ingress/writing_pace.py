"""Measures how fast a text is written that is spoken meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable

_LEAST_MESSAGES, _LEAST_S = 5, 0.5  #: less of a text tells nothing


class WritingPace:
    """The characters of one text, as they come.

    Args:
        clock: seconds, monotonic.

    Attributes:
        characters: so far.
        ended: the text is complete.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._messages = 0
        self._before = 0  # characters of the first message: nobody knows since when they were written
        self._began = 0.0
        self.characters = 0
        self.ended = False

    def add(self, characters: int) -> None:
        """Note a message with so many characters."""
        if not self._messages:
            self._began, self._before = self._clock(), characters
        self._messages += 1
        self.characters += characters

    @property
    def per_s(self) -> float | None:
        """The characters that come in a second; None where too little has come to tell, or nothing more will."""
        took = self._clock() - self._began
        if self.ended or self._messages < _LEAST_MESSAGES or took < _LEAST_S:
            return None
        return (self.characters - self._before) / took or None
