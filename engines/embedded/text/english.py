"""Converts English text to Kokoro phonemes by hibari's rules (a port of misaki's, without spaCy).

hibari carries separate American and British lexicons, so en-GB is a different reading (tomato, schedule, no r in
car), not a relabelled en-US. Numbers, units and signs are written out first, in `speech.spoken.english`.
"""

from __future__ import annotations

import re
from typing import Any

from engines.embedded.text import arpabet
from engines.embedded.text.markup import Item, Syllable, Word
from engines.embedded.text.packed import Readings, Weights
from speech.aligned_text import AlignedText
from speech.spoken.english import written_out

_CHAIN = re.compile(r"\S{49,}")


class English:
    """The reader of English, American and British. Each lexicon is loaded when it is first needed, or by `warm`."""

    def __init__(self) -> None:
        self._readers: dict[bool, Any] = {}

    def warm(self) -> None:
        for british in (False, True):
            self._reader(british)("Warm quixotically zorbified words.")

    def phonemes(self, items: list[Item], british: bool = False) -> AlignedText:
        """Convert text and given pronunciations, in order, to Kokoro phonemes; punctuation stays."""
        text = AlignedText.joined(
            self._given(item, british) if isinstance(item, Word) else _broken_up(written_out(item, british))
            for item in items
            if not isinstance(item, Syllable)  # syllables go to the Mandarin front end: see runs.py
        )
        reader = self._reader(british)
        parts, at = [], 0
        for token in reader.phonemize_tokens(reader.tokenize(text)):
            found = text.find(token.text, at)
            start, at = (at, at) if found < 0 else (found, found + len(token.text))
            parts += [AlignedText.spread(token.phonemes or "", text.source(start, at) or (0, 0)), _space(token)]
            if text[start - 1 : start] == "[":  # past the notation of its phonemes
                at = text.index(")", at) + 1
        return AlignedText.joined(parts).strip()

    @staticmethod
    def _given(word: Word, british: bool) -> AlignedText:
        # hibari's notation for a word with known phonemes. Users can't write it, because no brackets get here.
        link = f"[{word.spelling or 'word'}](/{arpabet.phonemes(word.phones, british)}/)"
        return AlignedText.spread(link, word.source)

    def _reader(self, british: bool):
        if british not in self._readers:
            from hibari.g2p import G2P

            reader = G2P(british=british)
            for words in (reader.lexicon.golds, reader.lexicon.silvers):
                words.d = Readings(words.d)
            if self._readers:  # both accents tag parts of speech by the same model
                reader.tagger = next(iter(self._readers.values())).tagger
            else:
                reader.tagger.weights = Weights(reader.tagger.weights)
            self._readers[british] = reader
        return self._readers[british]


def _broken_up(text: AlignedText) -> AlignedText:
    """Split chains of over 48 characters without a space: hibari's time grows with the cube of their parts."""
    text = text.sub(_CHAIN, lambda match: re.sub(r"(?<=[^\W_])[^\w\s]+(?=\w)|_+", " ", match[0]))
    return text.sub(_CHAIN, lambda match: re.sub(r"(\S{24})(?=\S)", r"\1 ", match[0]))


def _space(token: Any) -> str:
    return " " if token.whitespace else ""
