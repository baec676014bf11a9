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
_CLOSERS = re.compile(rf"(?:[{_QUOTES})\]）】》〉]|</\w+>)*")
_CLOSERS_FRENCH = re.compile(rf"(?:\s?»|[{_QUOTES})\]]|</\w+>)*")
#: Without spaces between sentences, signs after an end may as well open the next sentence.
_CLOSERS_DENSE = re.compile(r"(?:[”’»›」』〞)\]）】》〉]|</\w+>)*")
#: Signs and tags between the end of a sentence and the first word of the next.
OPENERS = re.compile(r"(?:[\s\"'“‘„‚«»‹›(\[{（【《「『¿¡—–-]|</?\w+>)*")
_CLAUSE = re.compile(r"[，、：]+[”’」』）]*\s*|[,:](?=\s|[^\x00-\x7f])\s*|\s*\n\s*|\s[—–-]+\s+|—+\s*")
_PARAGRAPH = re.compile(r"\s*\n[^\S\n]*\n\s*")
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
    found = {match.end(): Border.CLAUSE for match in _CLAUSE.finditer(text)}
    found |= {match.end(): Border.SENTENCE for match in _PARAGRAPH.finditer(text)}
    if cased is None:
        cased = any(char.isupper() for char in text)
    start = 0
    for marks in _MARKS.finditer(text):
        if marks.start() < start:
            continue
        end = _closed(text, marks.end(), language, open_quotes)
        border = _border(text, start, marks, end, language, cased)
        at = _past_spaces(text, end)
        if border is not None:
            found[at] = min(border, found.get(at, border))
        if border is Border.SENTENCE:
            start = at
    return {at: border for at, border in found.items() if 0 < at < len(text)}


def _behind(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return the end of the match that begins at `at`; `at` itself if there is none."""
    match = pattern.match(text, at)
    return match.end() if match else at


def _closed(text: str, end: int, language: str, open_quotes: frozenset[str]) -> int:
    """Return the position after the quotes, brackets and tags that close at `end`."""
    if language not in _DENSE:
        return _behind(_CLOSERS_FRENCH if language == "fr" else _CLOSERS, text, end)
    closed = _behind(_CLOSERS_DENSE, text, end)
    for quote in ('"', "'"):
        if text.startswith(quote, closed) and (text.count(quote, 0, closed) + (quote in open_quotes)) % 2:
            closed += 1
    return closed


def _border(text: str, start: int, marks: re.Match[str], end: int, language: str, cased: bool) -> Border | None:
    """Classify `marks` in the sentence from `start` on; `end` is the position after closing signs behind them."""
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
    ahead = _behind(OPENERS, text, end)
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
