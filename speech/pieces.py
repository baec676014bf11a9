"""Cuts a long text into pieces, each short enough to be said by itself.

Of all ways to cut a text the best is taken: after sentences; if a sentence is too long, after clauses; else between
words; else between characters. Spans that `speech.inline` keeps together are never cut.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import accumulate, pairwise

from speech.inline import closed_spans, speakable
from speech.limits import MAX_TEXT
from speech.sentences import Border, borders

SHORTEST_LIMIT = 40  #: below it an inline tag might not fit
_TINY = 12  #: characters; a shorter piece of one or two words has no sentence's melody
_TINY_DENSE = 5  #: characters, where each is a syllable or a word
_TINY_WORDS = 3
_DENSE = frozenset(("zh", "ja", "ko"))
_SMALL_KANA = frozenset("ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮー々")
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w+(?:['’]\w+)*")


def pieces(text: str, language: str, limit: int = MAX_TEXT, *, join: bool = True) -> list[str]:
    """Cut `text` into pieces, in order; put together they are the text, except for the white space at the cuts.

    Args:
        text: as `speech.text.check_long_text` left it.
        language: ISO 639-1, that of the requested dialect.
        limit: the most characters of a piece, at least 40.
        join: True for the fewest pieces, of about the same length. False for a piece for each sentence, so that the
            first comes early; only one or two words by themselves are said with a neighbour, unless they come first.

    Signs and tags without a word are said with a neighbour, because an engine refuses them alone. If no neighbour has
    room for them, as in a row of signs longer than `limit`, they are left out. The engine refuses a text of signs only.
    """
    if limit < SHORTEST_LIMIT:
        raise ValueError(f"limit must be at least {SHORTEST_LIMIT}, not {limit}")
    cut: list[tuple[str, bool]] = []
    # If signs or tags are left alone, their neighbours are cut at further places.
    for finest in (Border.CLAUSE, Border.SPACE, Border.CHARACTER) if text.strip() else ():
        cut = _Cutter(text.strip(), language, limit, join, finest).cut()
        if all(said for _, said in cut):
            break
    return [piece for piece, said in cut if said] or [piece for piece, _ in cut]


def is_tiny(piece: str, language: str) -> bool:
    """Tell if a piece is one or two words, which have no sentence's melody by themselves."""
    if language in _DENSE:
        return sum(speakable(piece)) < _TINY_DENSE
    return len(piece.rstrip()) < _TINY and len(_WORD.findall(piece)) < _TINY_WORDS


class _Cutter:
    def __init__(self, text: str, language: str, limit: int, join: bool, finest: Border) -> None:
        self._text = text
        self._limit = limit
        self._join = join
        self._base = 2 * len(text) + 1  # more than any fault can count up to
        self._dense = language in _DENSE
        self._said = [0, *accumulate(speakable(text))]
        self._words = [match.start() for match in _WORD.finditer(text)]
        self._borders = _places(text, language, limit, finest)
        self._sentences = sorted(at for at, border in self._borders.items() if border is Border.SENTENCE)

    def cut(self) -> list[tuple[str, bool]]:
        """Find the cheapest way to cut the text; returns each piece and True if anything in it can be said."""
        places = [0, *sorted(self._borders), len(self._text)]
        best = [(0, 0)]  # for each place: the cost of the best way there, and the previous place on it
        for end in range(1, len(places)):
            ways = []
            for start in range(end - 1, -1, -1):
                size = len(self._text[places[start] : places[end]].rstrip())
                if size > self._limit:
                    break
                cost = self._cost(places[start], places[end], size)
                ways.append((best[start][0] + cost, start))
            best.append(min(ways))
        at, path = len(places) - 1, []
        while at:
            start = best[at][1]
            path.append((places[start], places[at]))
            at = start
        return [(self._text[start:end].strip(), self._speaks(start, end)) for start, end in reversed(path)]

    def _speaks(self, start: int, end: int) -> bool:
        return self._said[end] > self._said[start]

    def _cost(self, start: int, end: int, size: int) -> int:
        """Return the cost of a piece: faults are digits of a number, the worst first, so that sums compare likewise."""
        border = self._borders.get(end)
        inside = bisect_left(self._sentences, end) - bisect_left(self._sentences, start + 1)
        cost = int(not self._speaks(start, end))
        for fault in (
            border is Border.SIGN,
            border is Border.CHARACTER,
            border is Border.SPACE,
            self._tiny(start, end, size),
            border is Border.CLAUSE,
            # A second sentence in the first piece would make a listener wait.
            1 if self._join else inside * (2 if start == 0 else 1),
        ):
            cost = cost * self._base + fault
        return cost * self._base * self._limit + size * size

    def _tiny(self, start: int, end: int, size: int) -> bool:
        if start == 0:
            return False
        if self._dense:
            return self._said[end] - self._said[start] < _TINY_DENSE
        return size < _TINY and bisect_left(self._words, end) - bisect_left(self._words, start) < _TINY_WORDS


def _places(text: str, language: str, limit: int, finest: Border) -> dict[int, Border]:
    """List the places to cut at: those of the kinds up to `finest`, and worse ones where they are needed."""
    closed = {at for start, end in closed_spans(text, limit) for at in range(start + 1, end)}
    places = {at: border for at, border in borders(text, language).items() if at not in closed}
    for border, candidates in ((Border.SPACE, _spaces), (Border.CHARACTER, _characters), (Border.SIGN, _signs)):
        for start, end in pairwise([0, *sorted(places), len(text)]):
            if border <= finest or len(text[start:end].rstrip()) > limit:
                open_places = [at for at in candidates(text, start, end) if at not in closed]
                if border is not Border.SPACE:
                    open_places = _thinned([start, *open_places, end], limit)
                places |= dict.fromkeys(open_places, border)
    return places


def _thinned(places: list[int], limit: int) -> list[int]:
    """Thin out to about twenty places a piece, without the first and the last; those on both sides of a gap stay."""
    kept = places[:1]
    for before, at, after in zip(places, places[1:], places[2:], strict=False):
        if at - kept[-1] >= limit // 20 or at - before > 1 or after - at > 1:
            kept.append(at)
    return kept[1:]


def _spaces(text: str, start: int, end: int) -> list[int]:
    return [match.end() for match in _SPACE.finditer(text, start, end) if match.end() < end]


def _characters(text: str, start: int, end: int) -> list[int]:
    return [at for at in range(start + 1, end) if text[at].isalnum() and text[at] not in _SMALL_KANA]


def _signs(text: str, start: int, end: int) -> range:
    return range(start + 1, end)
