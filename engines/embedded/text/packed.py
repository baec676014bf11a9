"""Read-only dictionaries of words in a tenth of a dict's memory.

The front ends' libraries load their lexicons as dicts: 260 MB in each tts-service. A dict needs some 150 bytes for a
word and its reading. Here a word is its 64-bit hash in a sorted array, and beside it the place of its value. The words
are not kept. An unknown word would be taken for a known one if their hashes were equal: for half a million words that
is one lookup in 10^13.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Collection, Mapping
from itertools import accumulate, chain
from typing import Any

import numpy as np


def _hash(word: str) -> int:
    # A string's own hash is that of its bytes in memory: 偂, one character of two bytes, has the hash of "BP".
    return hash(word.encode("utf-8", "surrogatepass"))


class _Words:
    """Places of words, by their hash: a word's place is its number in `words`."""

    def __init__(self, words: Collection[str]) -> None:
        hashes = np.fromiter(map(_hash, words), np.int64, len(words))
        places = hashes.argsort()
        hashes = hashes[places]
        if (hashes[1:] == hashes[:-1]).any():
            raise ValueError("two words have the same hash")
        self._hashes = array("q", hashes.tobytes())  # faster to search from Python than numpy's
        self._places = array("I", places.astype(np.uint32).tobytes())

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, word: str) -> bool:
        return self._place(word) >= 0

    def _place(self, word: str) -> int:
        """Return the word's place, or -1 if it is unknown."""
        wanted = _hash(word)
        found = bisect_left(self._hashes, wanted)
        return self._places[found] if found < len(self._hashes) and self._hashes[found] == wanted else -1


class Words(_Words):
    """A set of words."""


class Counts(_Words):
    """Word -> whole number, as jieba's frequencies."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        super().__init__(counts)
        self._counts = array("q", counts.values())

    def __getitem__(self, word: str) -> int:
        place = self._place(word)
        if place < 0:
            raise KeyError(word)
        return self._counts[place]

    def get(self, word: str, default: int | None = None) -> int | None:
        place = self._place(word)
        return default if place < 0 else self._counts[place]


class Readings(_Words):
    """Word -> phonemes; a few words have one reading for each part of speech, as a dict, which stays one."""

    def __init__(self, readings: Mapping[str, str | dict]) -> None:
        super().__init__(readings)
        self._by_tag = {word: value for word, value in readings.items() if not isinstance(value, str)}
        plain = [value if isinstance(value, str) else "" for value in readings.values()]
        self._text = "".join(plain)
        self._ends = array("I", accumulate(map(len, plain), initial=0))

    def get(self, word: str, default: Any = None) -> Any:
        place = self._place(word)
        if place < 0:
            return default
        if word in self._by_tag:
            return self._by_tag[word]
        return self._text[self._ends[place] : self._ends[place + 1]]


class Phrases(Readings):
    """Phrase -> for each of its characters the possible readings, the usual one first, as pypinyin's."""

    def __init__(self, phrases: Mapping[str, list[list[str]]]) -> None:
        super().__init__({phrase: " ".join(map(",".join, found)) for phrase, found in phrases.items()})

    def __getitem__(self, phrase: str) -> list[list[str]]:
        found = self.get(phrase)
        if found is None:
            raise KeyError(phrase)
        return [readings.split(",") for readings in found.split(" ")]


class Weights(_Words):
    """Feature -> tag -> weight, as a perceptron's; a feature's dict is made when it is asked for."""

    def __init__(self, weights: Mapping[str, Mapping[str, float]]) -> None:
        super().__init__(weights)
        self._tags = sorted(set(chain.from_iterable(weights.values())))
        number = {tag: index for index, tag in enumerate(self._tags)}
        self._which = array("H", map(number.__getitem__, chain.from_iterable(weights.values())))
        self._values = array("d", chain.from_iterable(row.values() for row in weights.values()))
        self._ends = array("I", accumulate(map(len, weights.values()), initial=0))

    def get(self, feature: str, default: dict[str, float] | None = None) -> dict[str, float] | None:
        place = self._place(feature)
        if place < 0:
            return default
        row = slice(self._ends[place], self._ends[place + 1])
        return {self._tags[tag]: value for tag, value in zip(self._which[row], self._values[row], strict=True)}
