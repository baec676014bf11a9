"""Rewrites a text and remembers, for every character of the result, the characters that it came from.

    text = AlignedText.of("It costs $5.")
    said = text.sub(r"\\$(\\d)", r"\\1 dollars")     # 'It costs 5 dollars.'
    said.source(9, 18)                             # (9, 11): "$5"

An `AlignedText` is a str, and whatever takes a str takes it. The methods that are defined here keep the alignment.
Those of `re` and `str.join` give plain strings: rules call `text.sub(pattern, new)`, and not `pattern.sub(new, text)`.
Tokenizers of language models keep such alignments for the same purpose.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, Literal, SupportsIndex, overload

Replacement = str | Callable[[re.Match[str]], str]

#: A letter with the marks that compose with it, and the half-width sound marks of kana.
_CLUSTER = re.compile("[\\s\\S][\u0300-\u036f\u3099\u309a\uff9e\uff9f]*")
_TOKEN = re.compile(r"([A-Za-zÀ-ɏ0-9']+|\S|^(?=\s))\s*")


class AlignedText(str):
    """A text made from another one, its source. Spans are [start, end) in the source.

    It is pickled as a plain str: the process that rewrote the text is the one that knows its source.
    """

    _starts: Sequence[int]
    _ends: Sequence[int]

    __slots__ = ("_ends", "_starts")

    def __new__(cls, text: str, starts: Sequence[int], ends: Sequence[int]) -> AlignedText:
        """Make a text of which character i came from `starts[i]` to `ends[i]` of its source."""
        self = super().__new__(cls, text)
        self._starts, self._ends = starts, ends
        return self

    @classmethod
    def of(cls, text: str) -> AlignedText:
        """Return a text as it is if it has a source, else one that is its own source."""
        return text if isinstance(text, cls) else cls(text, range(len(text)), range(1, len(text) + 1))

    @classmethod
    def spread(cls, text: str, source: tuple[int, int]) -> AlignedText:
        """Return a text of which every character came from the whole span."""
        return cls(text, [source[0]] * len(text), [source[1]] * len(text))

    @classmethod
    def joined(cls, parts: Iterable[str], between: str = "") -> AlignedText:
        """Join parts; those without a source, and what is put between, came from no character."""
        text: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        for number, part in enumerate(parts):
            at = ends[-1] if ends else 0
            for piece in (between if number else "", part):
                text.append(piece)
                starts += piece._starts if isinstance(piece, AlignedText) else [at] * len(piece)
                ends += piece._ends if isinstance(piece, AlignedText) else [at] * len(piece)
        return cls("".join(text), starts, ends)

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)

    def source(self, start: int = 0, end: int | None = None) -> tuple[int, int] | None:
        """Return the span that the characters `start` to `end` came from; None if they came from none."""
        spans = zip(self._starts[start:end], self._ends[start:end], strict=True)
        found = [(first, last) for first, last in spans if last > first]
        return (min(first for first, _ in found), max(last for _, last in found)) if found else None

    def made_from(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of this text that the source's characters `start` to `end` became; it may be empty.

        The text must have its source's order, as rules leave it.
        """
        return bisect_left(self._starts, start), bisect_left(self._starts, end)

    def in_source_of(self, text: str) -> AlignedText:
        """Return this text, which was made from `text`, as one made from the source of `text`."""
        if not isinstance(text, AlignedText):
            return self
        spans = [text.source(start, end) or (0, 0) for start, end in zip(self._starts, self._ends, strict=True)]
        return AlignedText(self, [start for start, _ in spans], [end for _, end in spans])

    @overload
    def __getitem__(self, key: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> AlignedText: ...
    def __getitem__(self, key: SupportsIndex | slice) -> str:
        found = super().__getitem__(key)
        return AlignedText(found, self._starts[key], self._ends[key]) if isinstance(key, slice) else found

    def __add__(self, other: str) -> AlignedText:
        return AlignedText.joined((self, other))

    def sub(self, pattern: str | re.Pattern[str], new: Replacement) -> AlignedText:
        """Replace every match, as `re.sub` does.

        What a match and its replacement have in common at both ends keeps its source. The rest came from the rest.
        """
        parts: list[AlignedText] = []
        at = 0
        for match in re.compile(pattern).finditer(self):
            replacement = new(match) if callable(new) else match.expand(new)
            parts += (self[at : match.start()], self._rewritten(match, replacement))
            at = match.end()
        return AlignedText.joined((*parts, self[at:])) if parts else self

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> AlignedText:
        """Replace every `old`; `count` is not taken."""
        if count != -1:
            raise TypeError("an AlignedText replaces all, or none")
        return self.sub(re.escape(old), lambda _: new) if old in self else self

    def translate(self, table: Mapping[int, int | str | None]) -> AlignedText:  # type: ignore[override]
        """Replace single characters, as `str.translate` does."""
        return self.mapped(lambda char: char.translate(table))

    def mapped(self, function: Callable[[str], str]) -> AlignedText:
        """Replace each character by what `function` gives for it."""
        return self._chunks(list(self), [function(char) for char in self])

    def normalized(self, form: Literal["NFC", "NFD", "NFKC", "NFKD"]) -> AlignedText:
        """Return the text in a Unicode normal form (`NFC`, `NFKC` …)."""
        whole = unicodedata.normalize(form, self)
        if whole == self:
            return self
        clusters = _CLUSTER.findall(self)
        found = self._chunks(clusters, [unicodedata.normalize(form, cluster) for cluster in clusters])
        return found if found == whole else self.changed_to(whole)

    def lower(self) -> AlignedText:
        """Return the text in lower case."""
        return self.mapped(str.lower)

    def strip(self, chars: str | None = None) -> AlignedText:
        """Remove characters at both ends, as `str.strip` does."""
        start = len(self) - len(super().lstrip(chars))
        return self[start : max(start, len(super().rstrip(chars)))]

    def changed_to(self, text: str) -> AlignedText:
        """Return `text`, which a foreign rule made of this one, aligned by the words that both have in common."""
        if text == self:
            return self
        old, new = list(_TOKEN.finditer(self)), list(_TOKEN.finditer(text))
        ends = [0, *(match.end() for match in old)]
        words = [match[1] for match in old], [match[1] for match in new]
        parts = []
        for kind, a, b, c, d in SequenceMatcher(None, *words, autojunk=False).get_opcodes():
            if kind != "equal":
                parts.append(self._replaced(ends[a], ends[b], "".join(match[0] for match in new[c:d])))
                continue
            for before, after in zip(old[a:b], new[c:d], strict=True):
                parts += (self[before.start() : before.end(1)], AlignedText.joined([after[0][len(after[1]) :]]))
        return AlignedText.joined(parts)

    def _rewritten(self, match: re.Match[str], new: str) -> AlignedText:
        """Align the replacement of a match: word by word if words of the match are in it."""
        old = match[0]
        if new and new in old:
            start = match.start() + old.index(new)
            return self[start : start + len(new)]
        if " " in old.strip():
            return self[match.start() : match.end()].changed_to(new)
        return self._replaced(match.start(), match.end(), new)

    def _replaced(self, start: int, end: int, new: str) -> AlignedText:
        """Align the replacement of a span: what both have in common at their ends keeps its source."""
        old = str.__getitem__(self, slice(start, end))
        shorter = min(len(old), len(new))
        head = next((i for i in range(shorter) if old[i] != new[i]), shorter)
        tail = next((i for i in range(shorter - head) if old[-1 - i] != new[-1 - i]), shorter - head)
        rest = start + head, end - tail
        if rest[0] == rest[1] and new[head : len(new) - tail].strip():
            rest = start, end  # words were added to what was written
        source = self.source(*rest)
        if source is None:
            at = self._starts[start] if start < len(self) else (self._ends[-1] if len(self) else 0)
            source = at, at
        middle = AlignedText.spread(new[head : len(new) - tail], source)
        return AlignedText.joined((self[start : start + head], middle, self[end - tail : end]))

    def _chunks(self, old: list[str], new: list[str]) -> AlignedText:
        if old == new:
            return self
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for before, after in zip(old, new, strict=True):
            if before == after:
                starts += self._starts[at : at + len(before)]
                ends += self._ends[at : at + len(before)]
            else:
                starts += [self._starts[at]] * len(after)
                ends += [self._ends[at + len(before) - 1]] * len(after)
            at += len(before)
        return AlignedText("".join(new), starts, ends)
