"""Finds marks in a text for a sound or a manner, which a cut must not divide.

They are tags (`[breath]`, `<strong>…</strong>`) and pronunciations with the word they belong to (`爱好[h][ào]`,
`read[R][EH1][D]`), as both engines know them. The engine decides the meaning of a bracket, and if it is allowed.
"""

from __future__ import annotations

import re
from bisect import bisect_left

TAG = re.compile(r"<\s*+(?:/\s*+)?[A-Za-z][^<>]{0,30}>")
_BEGINS_PAIR = re.compile(r"<([A-Za-z]+)>")
_ENDS_PAIR = re.compile(r"</([A-Za-z]+)>")
_SIGN = re.compile(r"[\[\]<>]")
_MOST_IN_BRACKET = 20
#: The word that a pronunciation belongs to; of a longer one, its end.
_LETTER = re.compile(r"[A-Za-zÀ-ɏ'’]")
_MOST_LETTERS = 30
#: A syllable in two brackets begins with its initial; finals, and finals alone, begin with a vowel.
_VOWELS = frozenset("aeiouüāáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜ")
SOUND = re.compile(r"\[(?:[a-z_-]{5,}|sigh|mn)\]")


class _Spans:
    """Spans in the order of their starts that do not overlap."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    @property
    def end(self) -> int:
        """The end of the last one, or 0."""
        return self._ends[-1] if self._ends else 0

    def add(self, start: int, end: int) -> None:
        """Add one, in place of those that begin behind its start."""
        while self._starts and self._starts[-1] > start:
            self._starts.pop()
            self._ends.pop()
        self._starts.append(start)
        self._ends.append(end)

    def extend(self, end: int) -> None:
        """Move the end of the last one."""
        self._ends[-1] = end

    def around(self, at: int) -> int:
        """Return the length of the span that a cut at `at` would divide, or 0."""
        number = bisect_left(self._starts, at) - 1
        return self._ends[number] - self._starts[number] if number >= 0 and at < self._ends[number] else 0

    def all(self) -> list[tuple[int, int]]:
        """List them."""
        return list(zip(self._starts, self._ends, strict=True))


class InlineMarks:
    """The marks of a text that grows. Each sign is looked at once, so a text of signs alone costs no more than others.

    Attributes:
        open_bracket: the position of a bracket that may still be closed, or None.
        open_tag: the position of a tag that may still be closed, or None; what is in it is not looked at.
    """

    def __init__(self) -> None:
        self._tags, self._pairs, self._runs, self._syllables = _Spans(), _Spans(), _Spans(), _Spans()
        self._syllable_may_go_on = False
        self.open_bracket: int | None = None
        self.open_tag: int | None = None
        # Tags that begin a pair: those outside of any pair so far, as a stack and by name.
        self._outside: list[tuple[int, str]] = []
        self._outside_by_name: dict[str, list[int]] = {}
        self._unended: dict[int, str] = {}
        self._unended_by_name: dict[str, list[int]] = {}

    def read(self, text: str, start: int = 0) -> None:
        """Take the text from `start` on; what is before it was taken already."""
        for sign in _SIGN.finditer(text, start):
            at, bracket = sign.start(), self.open_bracket
            self.open_bracket = None
            if sign[0] == "[":
                self.open_bracket = at
            elif sign[0] == "]":
                if bracket is not None and 1 <= at - bracket - 1 <= _MOST_IN_BRACKET:
                    self._add_bracket(text, bracket, at + 1)
            elif sign[0] == "<":
                self.open_tag = at
            elif self.open_tag is not None:
                self._add_tag(text, self.open_tag, at + 1)
                self.open_tag = None

    def unended(self, start: int) -> int | None:
        """Return the position of the first tag from `start` on that begins a pair without an end; `start` may grow."""
        while self._unended:
            first = next(iter(self._unended))
            if first >= start:
                return first
            del self._unended[first]
        return None

    def divided(self, at: int, limit: int) -> bool:
        """Tell if a piece of at most `limit` characters must not be cut at `at`."""
        if 0 < self._tags.around(at) <= limit or 0 < self._pairs.around(at) <= limit:
            return True
        run = self._runs.around(at)
        return 0 < (run if run <= limit else self._syllables.around(at)) <= limit

    def spans(self, limit: int) -> list[tuple[int, int]]:
        """List what `closed_spans` does."""
        runs = self._runs.all()
        found = self._tags.all() + self._pairs.all() + runs
        if any(end - start > limit for start, end in runs):
            found += [span for span in self._syllables.all() if self._runs.around(span[0] + 1) > limit]
        return [span for span in found if span[1] - span[0] <= limit]

    def _add_bracket(self, text: str, start: int, end: int) -> None:
        first = text[start + 1]
        if self._syllable_may_go_on and self._syllables.end == start and first in _VOWELS:
            self._syllables.extend(end)
            self._syllable_may_go_on = False
        else:
            self._syllables.add(start, end)
            self._syllable_may_go_on = True
        if self._runs.end == start and start:
            self._runs.extend(end)
            return
        earliest = max(self._runs.end, start - _MOST_LETTERS)
        word = start
        while word > earliest and _LETTER.match(text, word - 1):
            word -= 1
        if word == start > earliest and (text[start - 1].isalnum() or text[start - 1] == "_"):
            word -= 1
        self._runs.add(word, end)

    def _add_tag(self, text: str, start: int, end: int) -> None:
        if TAG.fullmatch(text, start, end):
            self._tags.add(start, end)
        if begun := _BEGINS_PAIR.fullmatch(text, start, end):
            self._outside.append((start, begun[1]))
            self._outside_by_name.setdefault(begun[1], []).append(start)
            self._unended[start] = begun[1]
            self._unended_by_name.setdefault(begun[1], []).append(start)
        elif ended := _ENDS_PAIR.fullmatch(text, start, end):
            for at in self._unended_by_name.pop(ended[1], ()):
                self._unended.pop(at, None)
            if self._outside_by_name.get(ended[1]):
                self._add_pair(self._outside_by_name[ended[1]][0], end)

    def _add_pair(self, start: int, end: int) -> None:
        """Add a pair; the tags and pairs in it are no others' any more."""
        self._pairs.add(start, end)
        while self._outside and self._outside[-1][0] >= start:
            self._outside_by_name[self._outside.pop()[1]].pop()


def closed_spans(text: str, limit: int) -> list[tuple[int, int]]:
    """List the spans [start, end) in which a piece of at most `limit` characters must not be cut.

    A pair of tags, or a row of pronunciations, that is longer than `limit` can't be kept together: then each tag, each
    syllable and each bracket is a span.
    """
    marks = InlineMarks()
    marks.read(text)
    return marks.spans(limit)


def speakable(text: str) -> list[bool]:
    """Return True for each character that an engine would say: letters and digits outside of tags."""
    said = [char.isalnum() for char in text]
    for pattern in (TAG, SOUND):
        for match in pattern.finditer(text):
            said[match.start() : match.end()] = [False] * len(match[0])
    return said
