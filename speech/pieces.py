"""Cuts a long text into pieces, each short enough to be said by itself.

Of all ways to cut a text the best is taken: after sentences; if a sentence is too long, after clauses; else between
words; else between characters. Spans that `speech.inline` keeps together are never cut.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
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
    kinds = (Border.CLAUSE, Border.SPACE, Border.CHARACTER) if any(speakable(text)) else (Border.CHARACTER,)
    for finest in kinds if text.strip() else ():
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
        ends = [len(self._text[before:at].rstrip()) + before for before, at in pairwise((0, *places))]
        for number in range(1, len(ends)):  # a gap of spaces alone ends where the text before it does
            if ends[number] == places[number - 1]:
                ends[number] = ends[number - 1]
        said = [self._said[at] for at in places]
        words = [bisect_left(self._words, at) for at in places]
        sentences = [bisect_left(self._sentences, at) for at in places]
        begun = [bisect_right(self._sentences, at) for at in places]
        unsaid, sign, character, space, tiny, clause, inside = self._weights()
        of_border = {Border.SIGN: sign, Border.CHARACTER: character, Border.SPACE: space, Border.CLAUSE: clause}
        best = [(0, 0)]  # for each place: the cost of the best way there, and the previous place on it
        for end in range(1, len(places)):
            border = self._borders.get(places[end])
            at_end = of_border.get(border, 0) if border is not None else 0
            if self._join:
                at_end += inside
            cheapest, previous = -1, 0
            for start in range(end - 1, -1, -1):
                size = max(0, ends[end] - places[start])
                if size > self._limit:
                    break
                cost = best[start][0] + at_end + size * size
                if said[end] == said[start]:
                    cost += unsaid
                if not start:
                    pass
                elif self._dense:
                    if said[end] - said[start] < _TINY_DENSE:
                        cost += tiny
                elif size < _TINY and words[end] - words[start] < _TINY_WORDS:
                    cost += tiny
                if not self._join:
                    # A second sentence in the first piece would make a listener wait.
                    cost += inside * (sentences[end] - begun[start]) * (1 if start else 2)
                if cheapest < 0 or cost <= cheapest:
                    cheapest, previous = cost, start
            best.append((cheapest, previous))
        at, path = len(places) - 1, []
        while at:
            start = best[at][1]
            path.append((places[start], places[at]))
            at = start
        return [(self._text[start:end].strip(), self._said[end] > self._said[start]) for start, end in reversed(path)]

    def _weights(self) -> list[int]:
        """Return the costs of a piece's faults, the worst first: digits of a number, so that sums compare likewise."""
        return [self._base ** (7 - fault) * self._limit for fault in range(7)]


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
