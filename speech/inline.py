"""Finds marks in a text for a sound or a manner, which a cut must not divide.

They are tags (`[breath]`, `<strong>…</strong>`) and pronunciations with the word they belong to (`爱好[h][ào]`,
`read[R][EH1][D]`), as both engines know them. The engine decides the meaning of a bracket, and if it is allowed.
"""

from __future__ import annotations

import re

_BRACKET = r"\[[^\[\]<>]{1,20}\]"
TAG = re.compile(r"<\s*/?\s*[A-Za-z][^<>]{0,30}>")
_PAIR = re.compile(r"<([A-Za-z]+)>.*?</\1>", re.DOTALL)
_RUN = re.compile(rf"(?:[A-Za-zÀ-ɏ'’]{{1,30}}|\w)?(?:{_BRACKET})+")
#: A syllable in two brackets begins with its initial; finals, and finals alone, begin with a vowel.
_SYLLABLE = re.compile(rf"{_BRACKET}(?:\[[aeiouüāáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜ][^\[\]<>]{{0,19}}\])?")
SOUND = re.compile(r"\[(?:[a-z_-]{5,}|sigh|mn)\]")


def closed_spans(text: str, limit: int) -> list[tuple[int, int]]:
    """List the spans [start, end) in which a piece of at most `limit` characters must not be cut.

    A pair of tags, or a row of pronunciations, that is longer than `limit` can't be kept together: then each tag, each
    syllable and each bracket is a span.
    """
    spans = [match.span() for match in (*TAG.finditer(text), *_PAIR.finditer(text))]
    for run in _RUN.finditer(text):
        parts = [run] if len(run[0]) <= limit else _SYLLABLE.finditer(text, *run.span())
        spans += [part.span() for part in parts]
    return [span for span in spans if span[1] - span[0] <= limit]


def speakable(text: str) -> list[bool]:
    """Return True for each character that an engine would say: letters and digits outside of tags."""
    said = [char.isalnum() for char in text]
    for pattern in (TAG, SOUND):
        for match in pattern.finditer(text):
            said[match.start() : match.end()] = [False] * len(match[0])
    return said
