"""Chooses the reading of a character with several: by its word, and for one-character words by their neighbours.

pypinyin's dictionary settles words (银行 against 行走). It can't know the meaning of a character that is a word of its
own (还 hái still, huán give back). The commonest of those are decided here by the character before or after.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from engines.embedded.text import pinyin, pinyin_dictionary
from engines.embedded.text.mandarin_contexts import modern

#: the reading of a character that pypinyin doesn't know
STRANGE = ""
_NUMERALS = "零〇一二两三四五六七八九十百千万亿几半数多每这那哪第"
_PERSONS = "我你您他她它们谁家人"
_DEGREES = "很太多最更不真好够较极挺么越有"


@dataclass(frozen=True)
class _Rule:
    reading: str
    after: str = ""  #: applies if the previous word ends in one of these …
    before: str = ""  #: … and the next begins with one of these; empty: always


_RULES: dict[str, tuple[_Rule, ...]] = {
    "得": (
        _Rule("de2", after=_PERSONS, before="了到出过奖病分第名冠金胜救罪"),
        _Rule("dei3", after=_PERSONS + "就还都也总可非只必"),
        _Rule("de5"),
    ),
    "长": (_Rule("chang2", after=_DEGREES), _Rule("zhang3", before="得大出高成满了着胖肥毛草"), _Rule("chang2")),
    "还": (_Rule("huan2", before="钱书款债给账贷清车房"), _Rule("hai2")),
    "教": (_Rule("jiao1"),),
    "只": (_Rule("zhi1", after=_NUMERALS), _Rule("zhi3")),
    "数": (_Rule("shu3", before="一数了"), _Rule("shu3", after="请来数")),
    "量": (_Rule("liang2", before="一了体身血尺"),),
    "中": (_Rule("zhong4", before="了奖毒弹标枪计"), _Rule("zhong1")),
    "行": (_Rule("hang2", after=_NUMERALS, before="字代诗泪树文数白黑大小"),),
    "重": (_Rule("chong2", before="新做写来试装拍建"), _Rule("zhong4")),
    "系": (_Rule("ji4", before="鞋领安好上着"),),
    "觉": (_Rule("jiao4", after="一个场睡"),),
    "种": (_Rule("zhong3", after=_NUMERALS + "各种"), _Rule("zhong4", before="花树菜地田草瓜豆了下")),
    "佛": (_Rule("fo2"),),
    "倒": (_Rule("dao3", before="了下在闭塌"), _Rule("dao4")),
    "背": (_Rule("bei1", before="着起包书"),),
    "都": (_Rule("dou1"),),
    "为": (_Rule("wei4", before="了什何谁你我他她它们人国家"),),
    "和": (_Rule("he2"),),
    "了": (_Rule("le5"),),
    "着": (_Rule("zhao2", before="火凉急迷"), _Rule("zhe5")),
    "地": (_Rule("di4"),),
}
_WORDS = {
    "大夫": "dai4 fu5",
    "大佛": "da4 fo2",
    "朝鲜": "chao2 xian3",
    "数一数": "shu3 yi1 shu3",
    "数数": "shu3 shu4",
    "量一量": "liang2 yi1 liang2",
    "一行": "yi4 hang2",
    "背着": "bei1 zhe5",
    "教给": "jiao1 gei3",
    "好得很": "hao3 de5 hen3",
    "没得": "mei2 de2",
    "曾国藩": "zeng1 guo2 fan1",
    "嗯": "en5",
    "单田芳": "shan4 tian2 fang1",
}


def readings(word: str, previous: str = "", following: str = "") -> list[str]:
    """Return the pinyin, with tone number, of each character of a word; `STRANGE` for an unknown character.

    Args:
        word: simplified or traditional characters, at least one.
        previous, following: the neighbouring words; empty at the edge of a clause.
    """
    found = list(_of_word(word))
    if len(word) > 1:
        return found
    if word == "地" and len(previous) > 1 and following:
        return ["de5"]  # 高兴地笑, and not 在地上
    for rule in _RULES.get(word, ()):
        if (not rule.after or previous[-1:] and previous[-1:] in rule.after) and (
            not rule.before or following[:1] and following[:1] in rule.before
        ):
            return [rule.reading]
    return found


def simplified(text: str) -> str:
    """Replace traditional characters by simplified ones, one for one."""
    from misaki.zh_normalization.char_convert import tranditional_to_simplified

    return tranditional_to_simplified(modern(text))


@lru_cache(8192)
def _of_word(word: str) -> tuple[str, ...]:
    pypinyin = pinyin_dictionary.load()
    plain = simplified(word) if len(word) > 1 else word
    if plain in _WORDS:
        return tuple(_WORDS[plain].split())
    # pypinyin's annotation says that a callable returns a string; its documentation allows a list as well
    strange = cast(Callable[[str], str], lambda strangers: [STRANGE] * len(strangers))
    found = pypinyin.lazy_pinyin(plain, style=pypinyin.Style.TONE3, neutral_tone_with_five=True, errors=strange)
    if len(plain) == 3 and plain[1] == "得" and plain[0] not in "不舍":
        found[1] = "de5"  # 跑得快
    if len(plain) > 2 and plain[-1] == "地" and plain[-2] == plain[-3]:
        found[-1] = "de5"  # 慢慢地
    if len(plain) > 1 and plain[-1] == "只" and plain[-2] in _NUMERALS:
        found[-1] = "zhi1"  # 两只猫
    if len(plain) > 1 and plain[-1] == "儿" and plain[-2] not in "女婴幼孤胎男健宠少新产育混患妻":
        found[-1] = "er5"  # 玩儿: a light syllable
    return tuple(reading if pinyin.is_syllable(reading) else STRANGE for reading in found)
