"""Writes out numbers, units and signs in the text's own language, so that the model need not guess their reading.

English, Mandarin and Japanese are written out by `speech.spoken`, as for the embedded engine; Japanese comes out in
katakana, because the model reads kanji as Chinese. Cardinals of English and the other languages are CLDR's rules
(package unicode-rbnf).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from speech.spoken.marks import plain_digits

#: readings of the decimal sign, a percentage, a minus and three currencies
_WORDS = {
    "en": ("point", "percent", "minus", "dollars", "euros", "pounds"),
    "de": ("Komma", "Prozent", "minus", "Dollar", "Euro", "Pfund"),
    "es": ("coma", "por ciento", "menos", "dólares", "euros", "libras"),
    "fr": ("virgule", "pour cent", "moins", "dollars", "euros", "livres"),
    "it": ("virgola", "per cento", "meno", "dollari", "euro", "sterline"),
    "ru": ("запятая", "процентов", "минус", "долларов", "евро", "фунтов"),
    "ko": ("점", "퍼센트", "마이너스", "달러", "유로", "파운드"),
}
LANGUAGES = frozenset(_WORDS) | {"zh", "ja"}
_CURRENCIES = {"$": 3, "€": 4, "£": 5}
#: these write 1,234.5; the others 1.234,5 or 1 234,5
_POINT = frozenset(("en", "ko"))
_DIGITS = {
    True: r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?",
    False: r"\d{1,3}(?:[.\u00a0\u202f]\d{3})+(?:,\d+)?|"
    r"\d+(?:[.,]\d+)?",
}
_LONGEST = 15  #: the most digits of a quantity; a longer number is a code, and is read digit by digit
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef\u3000-\u303f"


def spelled(text: str, language: str) -> str:
    """Write out everything in the text that is written in digits. `language` is ISO 639-1, one of LANGUAGES."""
    if language == "zh":
        from speech.spoken.mandarin import written_out

        return _without_gaps(written_out(plain_digits(text)))
    if language == "ja":
        return _katakana(plain_digits(text))
    if language == "en":
        from speech.spoken.english import written_out

        text = _years_and_ordinals(written_out(text))
    return _number(language).sub(lambda match: _apart(match, _read(match, language), language), text)


@lru_cache
def _number(language: str) -> re.Pattern:
    digits = _DIGITS[language in _POINT]
    return re.compile(rf"(?<![\w.])(-)?(?:([$€£])\s?)?({digits})(?:\s?([%$€£]))?|(\d+)")


def _apart(match: re.Match, said: str, language: str) -> str:
    """Set spaces between a number's words and the letters beside it (`25kg`, `X3`); Korean is written without."""
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    if language == "ko":
        return said
    return f"{' ' if before.isalpha() else ''}{said}{' ' if after.isalpha() else ''}"


def _read(match: re.Match, language: str) -> str:
    minus, before, number, after, rest = match.groups()
    if rest:
        return _cardinal(language, rest)
    words = _WORDS[language]
    whole, fraction = _parts(number, language)
    said = [words[2]] if minus else []
    said.append(_cardinal(language, whole))
    if fraction:
        said += [words[0], *(_cardinal(language, digit) for digit in fraction)]
    if sign := before or after:
        said.append(words[1] if sign == "%" else words[_CURRENCIES[sign]])
    return ("" if language == "ko" else " ").join(said)


def _parts(number: str, language: str) -> tuple[str, str]:
    """Split a number into whole and fractional digits."""
    if language in _POINT:
        whole, _, fraction = number.replace(",", "").partition(".")
        return whole, fraction
    if re.fullmatch(_DIGITS[False].split("|")[0], number):
        number = re.sub(r"[.\u00a0\u202f]", "", number)
    whole, _, fraction = number.replace(".", ",").partition(",")
    return whole, fraction


def _cardinal(language: str, digits: str) -> str:
    spell = _speller(language)
    if len(digits) > _LONGEST or (len(digits) > 1 and digits[0] == "0"):
        return " ".join(spell(int(digit)) for digit in digits)
    return spell(int(digits))


def _years_and_ordinals(text: str) -> str:
    """Write out English numbers that are not read as cardinals: 1945, the 1980s, 21st."""
    text = _DECADE.sub(lambda m: _pairs(m[1] + "0", plural=True) if len(m[1]) == 3 else _plural(m[1] + "0"), text)
    text = _ORDINAL.sub(lambda m: _ordinal(_cardinal("en", m[1])), text)
    return _YEAR.sub(lambda m: _pairs(m[0]), text)


_DECADE = re.compile(r"(?<![\w.,])'?(1[1-9]\d|20\d|[2-9])0s(?!\w)")
_ORDINAL = re.compile(r"(?<![\w.])(\d{1,6})(?:st|nd|rd|th)(?!\w)")
_YEAR = re.compile(r"(?<![\w.,$€£+-])(?:1[1-9]\d\d|20[1-9]\d)(?![\w%]|[.,]\d|-\d)")
_IRREGULAR = {"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
              "twelve": "twelfth"}  # fmt: skip


def _pairs(year: str, plural: bool = False) -> str:
    """Spell a year: nineteen forty-five, eighteen oh one, sixteen hundred, nineteen eighties."""
    first, last = _cardinal("en", year[:2]), int(year[2:])
    if last == 0:
        return f"{first} hundred{'s' if plural else ''}" if year[:2] != "20" else "two thousand" + "s" * plural
    if plural:
        return f"{first} {_plural(year[2:])}"
    return f"{first} oh {_cardinal('en', str(last))}" if last < 10 else f"{first} {_cardinal('en', str(last))}"


def _plural(tens: str) -> str:
    return _cardinal("en", tens)[:-1] + "ies"


def _ordinal(cardinal: str) -> str:
    """Make the ordinal of a cardinal: twenty-first of twenty-one."""
    at = max(cardinal.rfind(" "), cardinal.rfind("-")) + 1
    before, last = cardinal[:at], cardinal[at:]
    last = _IRREGULAR.get(last) or (last[:-1] + "ieth" if last.endswith("y") else last + "th")
    return before + last


@lru_cache
def _speller(language: str) -> Callable[[int], str]:
    from unicode_rbnf import RbnfEngine

    engine = RbnfEngine.for_language(language)
    return lambda number: engine.format_number(number).text.replace("\u00ad", "").strip()


def _katakana(text: str) -> str:
    """Convert words to OpenJTalk's readings, including those of counters."""
    import pyopenjtalk

    from speech.spoken.japanese import written_out

    if not re.search(r"\w", text):
        return text
    return str(pyopenjtalk.g2p(written_out(text), kana=True)).replace("’", "").replace("'", "")


def _without_gaps(text: str) -> str:
    """Remove spaces between Chinese characters; between Latin words they stay."""
    return re.sub(rf"(?<=[{_CJK}])\s+|\s+(?=[{_CJK}])", "", text)
