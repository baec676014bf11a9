"""Finds the words as they were written, and their times, from the times of the phonemes.

A written word is a stretch without white space inside or punctuation at its ends: `1/3`, `$5`, `Dr.`, `well-known`. It
gets the time of all that is spoken for it. In Mandarin it is a word of the segmenter, in Japanese one of OpenJTalk, and
whatever those leave apart of one written number is put together again.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from engines.embedded.text import markup
from speech.aligned_text import AlignedText
from speech.spoken import markdown
from speech.words import Timings

PAUSES = ';:,.!?—…"()“” '  #: symbols during which nothing is said
_BEFORE = frozenset("ˈˌ")  #: said with the phoneme behind them
_BEHIND = frozenset("ː̃ʰʲᵝ↓→↗↘")  #: said with the phoneme before them
_CJK = (
    "\u3000-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
    "\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
)
_CHUNK = re.compile(rf"[^\s—…{_CJK}]+")
_MARKS = "\"'“”‘’«»‹›„()[]{}<>.,!?;:*_~|"
_EDGES = _MARKS + "-–"
_NEGATIVE = re.compile(r"[-−–][\d$€£¥]")
_QUOTES = '"“”«»„ \t\r\n\u3000'
_INNER = re.compile(r"(?<=[^\W\d])[,;:!?]+(?=[^\W\d])")


@dataclass
class _Group:
    """Phonemes that are said for one written thing: the places of the first and of the last, and the span."""

    first: int
    last: int
    start: int
    end: int


def timings(phonemes: AlignedText, times: np.ndarray, text: str) -> Timings:
    """Find the words of `text` among its phonemes.

    Args:
        phonemes: as `TextFrontEnd.phonemes` made them of `text`.
        times: (n, 2) start and end in seconds of each of them.
        text: what was written.
    """
    written = _Written(phonemes, str(text))
    said = [symbol not in PAUSES for symbol in phonemes]
    words, units = [], []
    for spoken, places in groupby(range(len(phonemes)), key=said.__getitem__):
        if spoken:
            word = list(places)
            words.append((word[0], word[-1], phonemes.source(word[0], word[-1] + 1)))
            for source, run in groupby(word, key=lambda place: phonemes.source(place, place + 1)):
                unit = list(run)
                units.append((unit[0], unit[-1], source))
    groups, whole = _merged(units, written), _merged(words, written)
    starts = [group.first for group in whole]
    sounds = [sound for number, group in enumerate(groups) for sound in _sounds(phonemes, said, group, number)]
    return Timings(
        spans=np.array([(group.start, group.end) for group in groups], np.int32).reshape(-1, 2),
        words=np.searchsorted(starts, [group.first for group in groups], side="right").astype(np.int32) - 1,
        times=_between(times, [(group.first, group.last) for group in groups]),
        symbols=tuple(str(phonemes[first : last + 1]) for _, first, last in sounds),
        phoneme_units=np.array([unit for unit, _, _ in sounds], np.int32),
        phoneme_times=_between(times, [(first, last) for _, first, last in sounds]),
    )


def _between(times: np.ndarray, places: Sequence[tuple[int, int]]) -> np.ndarray:
    pairs = [(times[first, 0], times[last, 1]) for first, last in places]
    return np.array(pairs, np.float32).reshape(-1, 2)


class _Written:
    """The text as it was written, and where its words lie."""

    def __init__(self, phonemes: AlignedText, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        pauses = [phonemes.source(place, place + 1) for place, symbol in enumerate(phonemes) if symbol in PAUSES]
        self._pauses = {at for span in pauses if span for at in range(*span)}

    def widened(self, span: tuple[int, int]) -> tuple[int, int]:
        """Widen a span to the tokens that it touches, and to the full stop of an abbreviation."""
        touched = [token for token in self._tokens if token[0] < span[1] and token[1] > span[0]]
        start = min(span[0], *(token[0] for token in touched), len(self._text))
        end = max(span[1], *(token[1] for token in touched), 0)
        written = self._text[start:end]
        start += len(written) - len(written.lstrip(_QUOTES))
        end -= len(written) - len(written.rstrip(_QUOTES))
        abbreviated = bool(touched) and self._text[end : end + 1] == "." and end not in self._pauses
        return start, max(start, end + abbreviated)


def _merged(groups: list[tuple[int, int, tuple[int, int] | None]], written: _Written) -> list[_Group]:
    """Widen each span, and put together those that overlap or are out of order.

    What is said without being written, as the second word of `5 dollars` for `$5`, belongs to what is said before it.
    """
    merged: list[_Group] = []
    unwritten: int | None = None  # place of phonemes before the first that is written
    for begin, last, span in groups:
        if span is None:
            if merged:
                merged[-1].last = last
            else:
                unwritten = begin if unwritten is None else unwritten
            continue
        group = _Group(begin if unwritten is None else unwritten, last, *written.widened(span))
        unwritten = None
        while merged and merged[-1].end > group.start:
            before = merged.pop()
            group = _Group(before.first, last, min(before.start, group.start), max(before.end, group.end))
        merged.append(group)
    return merged


def _sounds(phonemes: str, said: list[bool], group: _Group, number: int) -> list[tuple[int, int, int]]:
    """Return the number, first and last place of each phoneme with its stress, length and tone."""
    found: list[tuple[int, int, int]] = []
    waiting: int | None = None
    for place in range(group.first, group.last + 1):
        if not said[place]:
            waiting = None
        elif phonemes[place] in _BEFORE:
            waiting = place if waiting is None else waiting
        elif phonemes[place] in _BEHIND and found and found[-1][2] == place - 1:
            found[-1] = (number, found[-1][1], place)
        else:
            found.append((number, place if waiting is None else waiting, place))
            waiting = None
    return found


def _tokens(text: str) -> list[tuple[int, int]]:
    """List the spans of what is written between white space and punctuation, but in Chinese and Japanese."""
    spans = []
    for item in markup.parse(markdown.plain(text), attach=False):
        if not isinstance(item, str):
            continue
        plain = AlignedText.of(item)
        for chunk in _CHUNK.finditer(plain):
            cuts = [0, *(at for match in _INNER.finditer(chunk[0]) for at in match.span()), len(chunk[0])]
            for start, end in zip(cuts[::2], cuts[1::2], strict=True):
                token = plain[chunk.start() + start : chunk.start() + end].strip(_MARKS)
                spans.append((token if _NEGATIVE.match(token) else token.strip(_EDGES)).source())
    return [span for span in spans if span]
