"""Makes the text that is shown of one that was spoken: without pauses, Markdown's signs, tags and pronunciations."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable

from speech import pauses
from speech.aligned_text import AlignedText
from speech.inline import SOUND, TAG
from speech.spoken import markdown

_READING = r"\[[^\W\d_\u3040-\u9fff]{1,8}\d?\]"
_EAST_ASIAN = r"[\u3040-\u9fff]"
#: A row of brackets gives a pronunciation. One alone gives it behind an East Asian character, or with a tone or stress.
_PRONUNCIATION = re.compile(
    rf"(?:{_READING}){{2,}}|(?<={_EAST_ASIAN}){_READING}|(?=\[[^\[\]]*[0-9āáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜ]){_READING}"
)
_UNSPOKEN = re.compile(f"{TAG.pattern}|{SOUND.pattern}|{pauses.MARK}")
#: What is left of the space around something that was taken out.
_SPACE_BEFORE_A_SIGN = re.compile(rf"(?:[^\S\n]*{pauses.MARK})+(?=[^\S\n]*[,.;:!?…])")


def displayed(text: str, starts: Iterable[int]) -> AlignedText:
    """Return the text to be shown, of which each character knows its place in `text`.

    Brackets that are read out as words stay. A pronunciation that stands for a word of its own is shown without its
    brackets, because nothing else was written for that word.

    Args:
        text: as `speech.text.check_long_text` left it.
        starts: where the words that are heard begin in it.
    """
    begins = sorted(starts)

    def heard_from(first: int, end: int) -> bool:
        at = bisect_left(begins, first)
        return at < len(begins) and begins[at] < end

    shown = markdown.plain(pauses.marked(text))

    def without_brackets(match: re.Match[str]) -> str:
        first, end = shown.source(*match.span()) or (0, 0)
        if heard_from(first + 1, end):
            return match[0]  # words in brackets
        alone = not shown[: match.start()][-1:].isalnum() or heard_from(first, end)
        return re.sub(r"[\[\]]", "", match[0]) if alone else ""

    def marked(match: re.Match[str]) -> str:
        first, end = shown.source(*match.span()) or (0, 0)
        return match[0] if heard_from(first + 1, end) else pauses.MARK

    shown = shown.sub(_PRONUNCIATION, without_brackets)
    shown = shown.sub(_UNSPOKEN, marked)
    shown = shown.sub(_SPACE_BEFORE_A_SIGN, "")
    return shown.sub(f"(\\w?){pauses.MARK}+(?=(\\w?))", lambda match: match[1] + _between(match[1], match[2]))


def _between(before: str, after: str) -> str:
    """Return what stands between two characters that a pause or a tag divided: words don't grow together."""
    narrow = all(char and unicodedata.east_asian_width(char) not in "WF" for char in (before, after))
    return " " if narrow else ""
