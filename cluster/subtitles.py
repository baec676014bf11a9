"""Makes subtitles of timed words: SubRip (.srt) and WebVTT (.vtt).

Cues follow what subtitlers keep to: at most two lines of 42 characters (of 20 where a character is a syllable), at most
seven seconds, and a new cue after a sentence or a pause. The text is the one that was written, with its punctuation and
without its markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from speech.aligned_text import AlignedText
from speech.display_text import displayed
from speech.words import Word

LINE = 42  #: columns; an East Asian character takes two
LINES = 2
LONGEST_S = 7.0
SHORTEST_S = 0.7  #: shown at least so long, where the next cue leaves room
PAUSE_S = 0.8  #: a pause that ends a cue
_SENTENCE_END = re.compile(r"[.!?。．！？…][\"'”’»」』)）\]]*\s*$")


@dataclass(frozen=True)
class Cue:
    """A line or two of text, shown from `start_s` to `end_s`."""

    text: str
    start_s: float
    end_s: float


def cues(words: Sequence[Word], text: str) -> list[Cue]:
    """Put words together to cues.

    Args:
        words: in order, with offsets in `text`.
        text: as the request had it, checked. Pauses, Markdown, tags and pronunciations are not shown.
    """
    shown = displayed(text, (word.start for word in words))
    groups: list[list[Word]] = []
    for word in _placed(words, shown):
        if groups and not _ends(groups[-1], word, shown):
            groups[-1].append(word)
        else:
            groups.append([word])
    found: list[Cue] = []
    for group, following in zip_longest(groups, groups[1:]):
        start = 0 if group is groups[0] else group[0].start - len(_opening(shown[: group[0].start]))
        end = following[0].start - len(_opening(shown[: following[0].start])) if following else len(shown)
        latest = following[0].start_s if following else float("inf")
        end_s = min(max(group[-1].end_s, group[0].start_s + SHORTEST_S), latest)
        cue = Cue(_wrapped(shown[start:end]), group[0].start_s, max(end_s, group[0].start_s + 0.001))
        if cue.text:
            found.append(cue)
    return found


def srt(cues: Sequence[Cue]) -> str:
    """Return cues as SubRip."""
    return "".join(
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{cue.text.replace('-->', '→')}\n\n"
        for number, cue in enumerate(cues, 1)
    )


def vtt(cues: Sequence[Cue]) -> str:
    """Return cues as WebVTT (W3C)."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{_escaped(cue.text)}\n\n" for cue in cues
    )


def _placed(words: Sequence[Word], shown: AlignedText) -> list[Word]:
    """Return the words with offsets in the text that is shown."""
    places = (shown.made_from(word.start, word.end) for word in words)
    return [replace(word, start=start, end=end) for word, (start, end) in zip(words, places, strict=True)]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _ends(cue: list[Word], word: Word, text: str) -> bool:
    """Tell if a cue ends before a word."""
    return (
        _SENTENCE_END.search(text[cue[-1].end : word.start]) is not None
        or "\n\n" in text[cue[-1].end : word.start]
        or word.start_s - cue[-1].end_s > PAUSE_S
        or word.end_s - cue[0].start_s > LONGEST_S
        or len(_lines(text[cue[0].start : word.end])) > LINES
    )


def _opening(before: str) -> str:
    """Return the opening quotes and brackets at the end of a text: they belong to what follows."""
    opening = re.search(r"[\"'“‘«„(\[（「『《【¿¡]*$", before)
    return opening[0] if opening else ""


def _wrapped(text: str) -> str:
    return "\n".join(_lines(text))


def _lines(text: str) -> list[str]:
    """Break a text into lines, between words or East Asian characters; a longer word has a line for itself."""
    lines = [""]
    for part in re.findall(r"[^\s\u3000-\u30ff\u3400-\u9fff\uff00-\uffef]+\s*|\S\s*", text.strip()):
        if (
            lines[-1]
            and _columns((lines[-1] + part).rstrip()) > LINE
            and not re.match(r"[,.!?;:，。！？；：、」』）”]", part)
        ):
            lines.append("")
        lines[-1] += re.sub(r"\s+", " ", part)
    return [line.rstrip() for line in lines if line.strip()]


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
