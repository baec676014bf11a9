"""Mandarin text -> Kokoro phonemes: words by jieba, readings by pypinyin, tone sandhi by our own rules.

A word is looked up as a whole, which settles most characters with several readings (银行 against 行走); a few rules
add what a dictionary can't know (得, 地). Traditional characters are read by their simplified forms' words.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache

from engines.embedded.packages import cache_directory
from engines.embedded.text import pinyin, tones
from engines.embedded.text.mandarin_numbers import normalise
from engines.embedded.text.markup import Item, Syllable

_HAN = re.compile("[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]")
_PUNCTUATION = frozenset(".,!?;:…—“”()")
#: Stands for a character that was left out and whose reading is given; splits words, as a stranger would.
_ALONE = "\ue000"
_PRONOUNS = frozenset("我你您他她它们咱家人就还都也")


class Mandarin:
    def __init__(self) -> None:
        self._words = None

    def warm(self) -> None:
        self.phonemes(["预热一下，你好。"])

    def phonemes(self, items: list[Item]) -> str:
        """Kokoro phonemes of text and given pronunciations in order; words are separated by spaces."""
        text, given = _joined(items)
        out: list[str] = []
        clause: list[tones.Word] = []
        position = 0
        for word in self._segmented(text):
            if _HAN.match(word[0]) or word[0] == _ALONE:
                following = text[position + len(word):position + len(word) + 1]
                clause.append(_read(word, position, given, clause, following))
            elif word[0] in _PUNCTUATION:
                out += [*_sounds(clause), word]
                clause = []
            position += len(word)
        out += _sounds(clause)
        return _spaced(out)

    def _segmented(self, text: str) -> list[str]:
        if self._words is None:
            self._words = _segmenter()
        simplified = _simplified(text)
        words, position = [], 0
        for word in self._words.cut(simplified):
            original = text[position:position + len(word)]
            position += len(word)
            words += _split_marks(original)
        return words


def _joined(items: list[Item]) -> tuple[str, dict[int, str]]:
    """One string for all items, and the given readings by position in it."""
    text, given = "", {}
    for item in items:
        if isinstance(item, Syllable):
            given[len(text)] = item.reading
            text += item.character or _ALONE
        elif isinstance(item, str):
            text += normalise(item.replace(_ALONE, " "))
    return text, given


def _segmenter():
    import jieba
    jieba.setLogLevel(logging.WARNING)
    words = jieba.Tokenizer()
    directory = cache_directory() / "jieba"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        words.tmp_dir = str(directory)  # not the shared /tmp, where anybody could put a file in its place
    except OSError:
        pass
    words.initialize()
    return words


def _simplified(text: str) -> str:
    from misaki.zh_normalization.char_convert import tranditional_to_simplified
    return tranditional_to_simplified(text)


def _split_marks(word: str) -> list[str]:
    """jieba may glue marks to words (`...`, `“你`); every mark and every left-out character is a word of its own."""
    return [part for part in re.split(rf"([{re.escape(''.join(_PUNCTUATION))}{_ALONE}])", word) if part]


def _read(word: str, position: int, given: dict[int, str], before: list[tones.Word], following: str) -> tones.Word:
    readings = list(_readings(word))
    if word == "地" and before and len(before[-1]) > 1 and _HAN.match(following or " "):
        readings = ["de5"]
    if word == "得" and not (before and before[-1][-1].character in _PRONOUNS):
        readings = ["de5"]
    elif word == "得":
        readings = ["dei3"]
    return [tones.Syllable(character, given.get(position + index, reading), fixed=position + index in given)
            for index, (character, reading) in enumerate(zip(word, readings, strict=True))]


@lru_cache(8192)
def _readings(word: str) -> tuple[str, ...]:
    """Pinyin of each character; characters without any reading are `a5` (given) or left out by the caller."""
    from pypinyin import Style, lazy_pinyin
    simplified = _simplified(word) if len(word) > 1 else word
    readings = lazy_pinyin(simplified, style=Style.TONE3, neutral_tone_with_five=True,
                           errors=lambda strangers: [_ALONE] * len(strangers))
    if len(word) == 3 and word[1] == "得" and word[0] not in "不舍":
        readings[1] = "de5"
    return tuple(readings)


def _sounds(clause: list[tones.Word]) -> list[str]:
    tones.apply_sandhi(clause)
    return ["".join(pinyin.phonemes(syllable.reading) for syllable in word if syllable.reading != _ALONE)
            for word in clause]


def _spaced(parts: list[str]) -> str:
    text = " ".join(part for part in parts if part)
    text = re.sub(r" ([.,!?;:…—”)])", r"\1", text)
    return re.sub(r"([“(]) ", r"\1", text)
