"""Defines what a listener hears and when: words and phonemes with their times, and audio together with its words.

Offsets are positions in the request's text as `speech.text.check_text` left it: in NFC, stripped, without format
characters. They count Unicode code points. Times are seconds from the first sample of the request's audio.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Phoneme:
    """A phoneme as the engine says it, and its time in the audio in seconds."""

    symbol: str
    start_s: float
    end_s: float

    def moved(self, seconds: float) -> Phoneme:
        """Return the same phoneme, so many seconds later."""
        return replace(self, start_s=self.start_s + seconds, end_s=self.end_s + seconds)


@dataclass(frozen=True)
class Word:
    """A word as it was written, and its time in the audio.

    Attributes:
        text: the characters `start` to `end` of the request's text; "1/3" is one word, however many are spoken.
        start: offset of its first character.
        end: offset behind its last character.
        start_s: seconds from the audio's first sample to the word's first.
        end_s: seconds from the audio's first sample to the end of the word.
        phonemes: its phonemes in order, where they were asked for and the engine knows them.
    """

    text: str
    start: int
    end: int
    start_s: float
    end_s: float
    phonemes: tuple[Phoneme, ...] = ()

    def moved(self, seconds: float) -> Word:
        """Return the same word, so many seconds later."""
        return replace(
            self,
            start_s=self.start_s + seconds,
            end_s=self.end_s + seconds,
            phonemes=tuple(phoneme.moved(seconds) for phoneme in self.phonemes),
        )


@dataclass(frozen=True)
class AudioPart:
    """Audio, int16 (n,), and the words that begin in it; their times count from the first sample of the request."""

    samples: NDArray[np.int16]
    words: tuple[Word, ...] = ()
