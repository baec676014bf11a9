"""Writes a text and a transcript of its speech in one notation, so that only differences of sound are left to count.

What a recogniser can't hear is no error of the speech: it hears one sound and picks one of several ways to write it.
The same rules apply to both sides, whatever they say.

- Mandarin: simplified characters, numbers written out, and one character for the words that are the same word to the
  ear: 他 她 它, the particles 的 地 得, 您 stays apart from 你 (it sounds different).
- Japanese: the kana that OpenJTalk reads, long vowels written alike.

`syllables` goes further for Mandarin: the readings, with tones. A homophone (做 and 作, 座 and 坐) is no error there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

_ONE_WORD = str.maketrans({"她": "他", "它": "他", "地": "的", "得": "的"})
#: in katakana: after a vowel's row, these only make it longer
_LONG = (
    ("オコソトノホモヨロヲゴゾドボポョォ", "ウオ"),
    ("ウクスツヌフムユルグズヅブプュゥ", "ウ"),
    ("エケセテネヘメレゲゼデベペェ", "イエ"),
    ("アカサタナハマヤラワガザダバパャ", "ア"),
    ("イキシチニヒミリギジビピ", "イ"),
)


def characters(text: str, language: str) -> list[str]:
    """Return the characters to compare, of a `zh` or `ja` text: simplified ones, or kana."""
    return [char for char in (_mandarin(text) if language == "zh" else _kana(text)) if char.isalnum()]


def syllables(text: str) -> list[str]:
    """Return the pinyin of a Mandarin text, with tones, by the dictionary alone."""
    from pypinyin import Style, lazy_pinyin

    # pypinyin's annotation says that a callable returns a string; its documentation allows a list as well
    strange = cast(Callable[[str], str], list)
    return lazy_pinyin("".join(characters(text, "zh")), style=Style.TONE3, neutral_tone_with_five=True, errors=strange)


def _mandarin(text: str) -> str:
    from engines.embedded.text.mandarin_readings import simplified
    from speech.spoken import mandarin

    return simplified(mandarin.written_out(text)).translate(_ONE_WORD)


def _kana(text: str) -> str:
    import pyopenjtalk

    from speech.spoken import japanese

    return long_vowels_alike(str(pyopenjtalk.g2p(japanese.written_out(text), kana=True)))


def long_vowels_alike(kana: str) -> str:
    """Write every long vowel of a reading in katakana with ー."""
    for vowels, long in _LONG:
        kana = re.sub(f"(?<=[{vowels}])[{long}]", "ー", kana)
    return kana
