"""Finds places to cut a text: after sentences and after clauses, in the languages of `speech.dialects`.

It is made for speech: a cut in the wrong place is an audible pause, a missed cut is only a longer piece. So a full stop
that may belong to an abbreviation, an initial, an ordinal or a quotation inside a sentence is no end. No maintained
library does this. sentencex 1.0.32 (compiled, 4 MB) cuts `M. | Dupont`, `3. | Mai` and `т. е. | г. Москва`, and ends a
Japanese sentence between a quotation and its と. pysbd has had no release since 2021, has no Korean, and cuts
`Sr. | García` and `？ | ！`. Neither respects inline tags.
"""

from __future__ import annotations

import re
import unicodedata
from enum import IntEnum

from speech.abbreviations import is_abbreviation


class Border(IntEnum):
    """The quality of a place for a cut; the larger, the worse."""

    SENTENCE = 1
    CLAUSE = 2
    SPACE = 3
    CHARACTER = 4
    SIGN = 5  #: before punctuation or inside a row of it


_MARKS = re.compile(r"[。．｡！？；…‼⁇⁈⁉?!.;]+")
_FULL_WIDTH = frozenset("。．｡！？；‼⁇⁈⁉")
_QUOTES = "\"'”’»›«“‘」』〞＂＇"
_CLOSERS = re.compile(rf"(?:[{_QUOTES})\]）】》〉]+|</\w+>)*")
_CLOSERS_FRENCH = re.compile(rf"(?:\s?»|[{_QUOTES})\]]|</\w+>)*")
#: Without spaces between sentences, signs after an end may as well open the next sentence.
_CLOSERS_DENSE = re.compile(r"(?:[”’»›」』〞)\]）】》〉]+|</\w+>)*")
#: Signs and tags between the end of a sentence and the first word of the next.
OPENERS = re.compile(r"(?:[\s\"'“‘„‚«»‹›(\[{（【《「『¿¡—–-]+|</?\w+>)*")
_OPEN_TAG = re.compile(r"</?\w*\Z")
_DASHES = "—–-"
#: Only the ends of these matter, so none begins with a row of spaces: each space in it would be a new beginning.
_CLAUSE = re.compile(r"[，、：]+[”’」』）]*\s*|[,:](?=\s|[^\x00-\x7f])\s*|\n\s*|\s[—–-]+\s+|—+\s*")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_SPACES = re.compile(r"\s+")
_WORD_BEFORE = re.compile(r"[^\W_]+(?:\.[^\W_]+)*$")
_DENSE = frozenset(("zh", "ja"))


def borders(
    text: str, language: str, *, cased: bool | None = None, open_quotes: frozenset[str] = frozenset()
) -> dict[int, Border]:
    """Find every place after a sentence or a clause, as the position of the first character after it that is no space.

    Args:
        text: as `speech.text.check_text` or `check_long_text` left it.
        language: ISO 639-1.
        cased: the writer uses capitals, so a small letter goes on with a sentence; None: `text` tells.
        open_quotes: straight quotes that were opened before `text`, where it is a part of a longer one.
    """
    if cased is None:
        cased = any(char.isupper() for char in text)
    return GrowingBorders(language, cased, open_quotes).find(text)


class GrowingBorders:
    """The borders of a text that grows. Those that no further character can change are found once, and kept.

    Args:
        language: ISO 639-1.
        cased: as for `borders`.
        open_quotes: as for `borders`.
    """

    def __init__(self, language: str, cased: bool, open_quotes: frozenset[str]) -> None:
        self._language, self._cased, self._open_quotes = language, cased, open_quotes
        self._closers = Run(_CLOSERS_DENSE if language in _DENSE else _CLOSERS_FRENCH if language == "fr" else _CLOSERS)
        self._openers = Run(OPENERS)
        self._found: dict[int, Border] = {}  # what is certain
        self._useful_from = 0
        # Where each search goes on: nothing before depends on what follows.
        self._clauses_at = self._paragraphs_at = self._marks_at = 0
        self._start = 0  # of the sentence at `_marks_at`

    def find(self, text: str, known: str = "", start: int = 0) -> dict[int, Border]:
        """Find the borders of `text`, as `borders` does.

        Args:
            text: the text of the last call, or more of it.
            known: what follows the text, as far as it is known; it may be wrong the next time.
            start: borders before it are of no use any more.
        """
        if start > self._useful_from:
            self._useful_from = start
            self._found = {at: border for at, border in self._found.items() if at >= start}
        doubtful: dict[int, Border] = {}
        self._find_clauses(text, known, doubtful)
        self._find_paragraphs(text, known, doubtful)
        self._find_sentences(text, known, doubtful)
        found = dict(self._found)
        for at, border in doubtful.items():
            if 0 < at < len(text) + len(known):
                found[at] = min(border, found.get(at, border))
        return found

    def _keep(self, at: int, border: Border) -> None:
        self._found[at] = min(border, self._found.get(at, border))

    def _find_clauses(self, text: str, known: str, doubtful: dict[int, Border]) -> None:
        # A dash is one between spaces, or not, only when the row of dashes has ended.
        certain_to = len(text.rstrip(_DASHES)) - 1
        goes_on = certain_to
        for match in _CLAUSE.finditer(text + known, self._clauses_at):
            if match.end() <= certain_to:
                self._keep(match.end(), Border.CLAUSE)
            else:
                goes_on = min(goes_on, match.start())
                doubtful[match.end()] = Border.CLAUSE
        self._clauses_at = max(self._clauses_at, goes_on)

    def _find_paragraphs(self, text: str, known: str, doubtful: dict[int, Border]) -> None:
        line = text.rfind("\n", self._paragraphs_at)
        goes_on = line if line >= 0 and text[line:].isspace() else len(text)
        for match in _PARAGRAPH.finditer(text + known, self._paragraphs_at):
            if match.end() < len(text):
                self._keep(match.end(), Border.SENTENCE)
            else:
                goes_on = min(goes_on, match.start())
                doubtful[match.end()] = Border.SENTENCE
        self._paragraphs_at = goes_on

    def _find_sentences(self, text: str, known: str, doubtful: dict[int, Border]) -> None:
        whole, start, goes_on = text + known, self._start, None
        for marks in _MARKS.finditer(whole, self._marks_at):
            if marks.start() < start:
                continue
            end = self._closed(whole, marks.end())
            ahead = self._openers.end(whole, end)
            border = _border(whole, start, marks, end, ahead, self._language, self._cased)
            at = _past_spaces(whole, end)
            if border is Border.SENTENCE:
                start = at
            if goes_on is None and max(marks.end(), ahead) < len(text) and not _OPEN_TAG.match(text, ahead):
                self._start = start
                if border is not None:
                    self._keep(at, border)
                continue
            if goes_on is None:
                goes_on = marks.start()
            if border is not None:
                doubtful[at] = min(border, doubtful.get(at, border))
        self._marks_at = len(text) if goes_on is None else goes_on

    def _closed(self, text: str, end: int) -> int:
        """Return the position after the quotes, brackets and tags that close at `end`."""
        closed = self._closers.end(text, end)
        if self._language in _DENSE:
            for quote in ('"', "'"):
                if text.startswith(quote, closed) and (text.count(quote, 0, closed) + (quote in self._open_quotes)) % 2:
                    closed += 1
        return closed


class Run:
    """Finds the end of a run of signs in a text that grows, and goes on there the next time.

    Args:
        pattern: of a run, which is its parts one after the other.
    """

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern = pattern
        self._start = self._end = 0

    def end(self, text: str, at: int) -> int:
        """Return the end of the run that begins at `at`, or with a part before it; `at` itself if there is none."""
        if not self._start <= at <= self._end:
            self._start = self._end = at
        self._end = _behind(self._pattern, text, self._end)
        return self._end


def _behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return the end of the match that begins at `at`; `at` itself if there is none."""
    match = pattern.match(text, at)
    return match.end() if match else at


def _border(
    text: str, start: int, marks: re.Match[str], end: int, ahead: int, language: str, cased: bool
) -> Border | None:
    """Classify `marks` in the sentence from `start` on; `end` is the position after closing signs
    behind them, and `ahead` the one after opening signs behind those."""
    following = text[end : end + 1]
    quoted = any(char in _QUOTES for char in text[marks.end() : end])
    spaced = not following or following.isspace() or following in "[<"
    ellipsis = marks[0].strip("…") == "" or (marks[0].strip(".") == "" and len(marks[0]) > 1)
    if not spaced and not _without_spaces(following):
        return None
    if not spaced and marks[0] == "." and not _without_spaces(text[marks.start() - 1 : marks.start()]):
        return None  # Node.js框架 has no end, but 好.他 has
    if not spaced or _FULL_WIDTH.intersection(marks[0]):
        if ellipsis and following and following == text[marks.start() - 1 : marks.start()]:
            return None  # 我……我
        return Border.CLAUSE if quoted and following.isalnum() else Border.SENTENCE
    return _spaced_border(text, start, marks, text[ahead : ahead + 1], language, quoted, ellipsis, cased)


def _spaced_border(
    text: str,
    start: int,
    marks: re.Match[str],
    following: str,
    language: str,
    quoted: bool,
    ellipsis: bool,
    cased: bool,
) -> Border | None:
    goes_on = following.islower() and cased
    if ";" in marks[0]:
        return Border.SENTENCE
    if quoted and goes_on:
        return Border.CLAUSE  # "Stop!" she said
    if ellipsis:
        return None if goes_on else Border.SENTENCE
    if marks[0] != ".":
        return Border.SENTENCE
    if goes_on:
        return None
    word = _WORD_BEFORE.search(text, max(start, marks.start() - 30), marks.start())
    if word is None:
        return Border.SENTENCE
    if word[0].isdigit():
        ordinal = language in ("de", "ko") and len(word[0]) <= 2
        numbering = not text[start : word.start()].strip() or following.isdigit()
        return None if following and (ordinal or numbering) else Border.SENTENCE
    return None if following and is_abbreviation(word[0], language, following) else Border.SENTENCE


def _without_spaces(char: str) -> bool:
    """Return True for a script that needs no space between sentences, and for its opening quotes."""
    return bool(char) and (unicodedata.east_asian_width(char) in "WF" or char in "“‘\"'")


def _past_spaces(text: str, at: int) -> int:
    spaces = _SPACES.match(text, at)
    return spaces.end() if spaces else at
