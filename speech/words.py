"""Defines what a listener hears and when: words and phonemes with their times, and audio together with its words.

Offsets are positions in the request's text as `speech.text.check_text` left it: in NFC, without format characters,
stripped. They count Unicode code points. Times are seconds from the first sample of the request's audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from speech.aligned_text import AlignedText

#: What gets a time: a piece of the text as it went through the graph, a Chinese character (in other languages a word),
#: a word, or a word and its phonemes.
Granularity = Literal["part", "character", "word", "phoneme"]
GRANULARITIES: tuple[str, ...] = get_args(Granularity)

_DECIMALS = 4  #: of seconds as clients get them; a sample lasts 0.00004 s


@dataclass(frozen=True)
class Phoneme:
    """A phoneme as the engine says it, and its time in the audio in seconds."""

    symbol: str
    start_s: float
    end_s: float

    def moved(self, seconds: float) -> Phoneme:
        """Return the same phoneme, so many seconds later."""
        return replace(self, start_s=self.start_s + seconds, end_s=self.end_s + seconds)

    def within(self, start_s: float, end_s: float) -> Phoneme:
        """Return the same phoneme as far as it lies between these times."""
        return replace(self, start_s=min(max(self.start_s, start_s), end_s), end_s=min(max(self.end_s, start_s), end_s))


@dataclass(frozen=True)
class Word:
    """A word as it was written, and its time in the audio.

    Attributes:
        text: the characters `start` to `end` of the request's text; "1/3" is one word, however many are spoken.
        start: offset of its first character.
        end: offset behind its last character.
        start_s: seconds from the audio's first sample to the beginning of the word.
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

    def within(self, start_s: float, end_s: float) -> Word:
        """Return the same word as far as it lies between these times."""
        return replace(
            self,
            start_s=min(max(self.start_s, start_s), end_s),
            end_s=min(max(self.end_s, start_s), end_s),
            phonemes=tuple(phoneme.within(start_s, end_s) for phoneme in self.phonemes),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the fields as clients get them (docs/timestamps.md)."""
        fields: dict[str, Any] = {
            "text": self.text,
            "start": self.start,
            "end": self.end,
            "start_s": round(self.start_s, _DECIMALS),
            "end_s": round(self.end_s, _DECIMALS),
        }
        if self.phonemes:
            fields["phonemes"] = [
                {"symbol": one.symbol, "start_s": round(one.start_s, _DECIMALS), "end_s": round(one.end_s, _DECIMALS)}
                for one in self.phonemes
            ]
        return fields


@dataclass(frozen=True)
class AudioPart:
    """Audio, int16 (n,), and the words that are complete with it.

    Each word of a stream comes once and in order, with the audio in which it ends or with the next. Its times count
    from the first sample of the request.
    """

    samples: NDArray[np.int16]
    words: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Timings:
    """The times of an utterance's words as small arrays, as the stages hand them on; an aligner would make the same.

    A unit is the smallest thing that was written and has a time: a Chinese character, else a word. Units, words and
    phonemes are in the order in which they are heard. No text is in here, but for the phonemes' symbols.

    Attributes:
        spans: int32 (u, 2), start and end of each unit in `Utterance.text`.
        words: int32 (u,), the number of the word that each unit belongs to, from 0 on, without gaps.
        times: float32 (u, 2), start and end in seconds from the first sample of the utterance's audio.
        symbols: the p phonemes; none if the engine knows only words.
        phoneme_units: int32 (p,), the unit of each phoneme.
        phoneme_times: float32 (p, 2), as `times`.
    """

    spans: NDArray[np.int32]
    words: NDArray[np.int32]
    times: NDArray[np.float32]
    symbols: tuple[str, ...] = ()
    phoneme_units: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    phoneme_times: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))

    def cut(self, start_s: float, seconds: float) -> Timings:
        """Return the times in what is left of the audio when `seconds` of it, from `start_s` on, are kept."""
        first, last = np.float32(0), np.float32(seconds)
        return replace(
            self,
            times=np.clip(self.times - np.float32(start_s), first, last),
            phoneme_times=np.clip(self.phoneme_times - np.float32(start_s), first, last),
        )

    def heard(self, granularity: str, utterance: str, text: str, units_known: int | None = None) -> tuple[Word, ...]:
        """Return the words of an utterance, with offsets in the text of the request.

        Args:
            granularity: `character`, `word` or `phoneme`.
            utterance: the utterance's text; an AlignedText if it is only a part of the request's.
            text: the request's text.
            units_known: only words of the first so many units; None: all.
        """
        numbers: Sequence[int] = range(len(self.words)) if granularity == "character" else self.words.tolist()
        phonemes = self._phonemes() if granularity == "phoneme" else {}
        found = []
        for _, group in groupby(range(len(numbers)), key=numbers.__getitem__):
            units = list(group)
            if units_known is not None and units[-1] >= units_known:
                break
            spans = self.spans[units]
            span = AlignedText.of(utterance).source(int(spans[:, 0].min()), int(spans[:, 1].max()))
            if span is not None:
                times = self.times[units]
                sounds = tuple(sound for unit in units for sound in phonemes.get(unit, ()))
                found.append(Word(text[slice(*span)], *span, float(times.min()), float(times.max()), sounds))
        return tuple(found)

    def _phonemes(self) -> dict[int, list[Phoneme]]:
        found: dict[int, list[Phoneme]] = {}
        for symbol, unit, (start, end) in zip(
            self.symbols, self.phoneme_units.tolist(), self.phoneme_times.tolist(), strict=True
        ):
            found.setdefault(unit, []).append(Phoneme(symbol, start, end))
        return found


def part_of(utterance: str, text: str, start_s: float, end_s: float) -> tuple[Word, ...]:
    """Return a whole utterance as one entry; none if nothing of the request's text is in it."""
    aligned = AlignedText.of(utterance)
    span = aligned.source()
    return () if span is None else (Word(text[slice(*span)], *span, start_s, end_s),)
