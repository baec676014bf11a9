"""Pinyin syllables: reading what people write in brackets, and Kokoro's phonemes of a syllable.

A syllable is kept as pinyin with a tone number, ü as v and the light tone as 5: `hao4`, `lv4`, `ma5`.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

_MARKS = {"\u0304": "1", "\u0301": "2", "\u030c": "3", "\u0300": "4"}
_INITIALS = frozenset("b p m f d t n l g k h j q x zh ch sh r z c s y w".split())
#: finals as linguists write them without an initial, and as pinyin spells that syllable
_WITHOUT_INITIAL = {
    "i": "yi",
    "ia": "ya",
    "ian": "yan",
    "iang": "yang",
    "iao": "yao",
    "ie": "ye",
    "in": "yin",
    "ing": "ying",
    "iong": "yong",
    "iou": "you",
    "u": "wu",
    "ua": "wa",
    "uai": "wai",
    "uan": "wan",
    "uang": "wang",
    "uei": "wei",
    "uen": "wen",
    "ueng": "weng",
    "uo": "wo",
    "v": "yu",
    "ve": "yue",
    "van": "yuan",
    "vn": "yun",
}
_SPELLED = {"iou": "iu", "uei": "ui", "uen": "un"}
_TONES = {"˧˩˧": "↓", "˧˥": "↗", "˥˩": "↘", "˥": "→"}
_SYLLABIC = {"ɻ̩": "ɨ", "ɹ̩": "ɨ"}
_NON_SYLLABIC = "\u032f"


def is_initial(text: str) -> bool:
    return text in _INITIALS


def is_syllable(reading: str) -> bool:
    """Whether Mandarin has it, with its tone number: `hao4`."""
    return reading[-1:] in ("1", "2", "3", "4", "5") and reading[:-1] in _syllables()


def syllable(initial: str, final: str) -> str | None:
    """`("h", "ào")` -> `hao4`, `("", "hao4")` -> `hao4`; None where Mandarin has no such syllable."""
    plain, tone = _untoned(final)
    if not plain:
        return None
    if not initial:
        plain = _WITHOUT_INITIAL.get(plain, plain)
    else:
        plain = initial + _SPELLED.get(plain, plain)
    if plain[0] in "jqxy":
        plain = plain.replace("v", "u")
    if plain in ("nue", "lue"):
        plain = plain.replace("u", "v")
    return plain + tone if plain in _syllables() else None


def _untoned(text: str) -> tuple[str, str]:
    """`ào` -> (`ao`, `4`), `ǚ` -> (`v`, `3`); the tone is 5 where none is written, the text empty where it is none."""
    tone, plain = "5", ""
    if text.endswith(("1", "2", "3", "4", "5")):
        tone, text = text[-1], text[:-1]
    for char in unicodedata.normalize("NFD", text):
        if char in _MARKS:
            tone = _MARKS[char]
        elif char == "\u0308" and plain.endswith("u"):
            plain = plain[:-1] + "v"
        elif "a" <= char <= "z":
            plain += char
        else:
            return "", tone
    return plain, tone


@lru_cache(1)
def _syllables() -> frozenset[str]:
    from pypinyin.constants import PINYIN_DICT

    return frozenset(
        plain
        for readings in PINYIN_DICT.values()
        for reading in readings.split(",")
        if (plain := _untoned(unicodedata.normalize("NFC", reading))[0])
    )


def may_be_read(character: str, reading: str) -> bool:
    """Whether the character has this syllable, in any tone, among its readings."""
    from pypinyin import Style, pinyin

    readings = pinyin(character, style=Style.NORMAL, heteronym=True, errors="ignore", v_to_u=False)
    return bool(readings) and reading[:-1] in {found.replace("ü", "v") for found in readings[0]}


@lru_cache(4096)
def phonemes(reading: str) -> str:
    """Kokoro phonemes of a syllable with its tone arrow behind the vowel; the light tone has none: `hao4` -> `xau↘`.

    The sounds are misaki's table (pinyin-to-ipa), which Kokoro was trained with.
    """
    from misaki.transcription import pinyin_to_ipa

    sound = "".join(pinyin_to_ipa(reading)[0])
    for table in (_TONES, _SYLLABIC):
        for ipa, symbol in table.items():
            sound = sound.replace(ipa, symbol)
    return sound.replace(_NON_SYLLABIC, "")
