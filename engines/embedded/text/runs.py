"""Splits mixed text into runs of one language each, so that every word is read by the front end that knows it.

The request's own language reads everything it can: digits, punctuation and, in Japanese, kanji. Latin words inside
Mandarin or Japanese go to the English front end, Han characters inside English to the Mandarin one, kana to the
Japanese one. A letter of any other script is refused: to leave it out would change what is said.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from itertools import pairwise

from engines.embedded.text.markup import Item, Syllable
from speech.aligned_text import AlignedText
from speech.errors import InvalidInput
from speech.spoken.marks import SQUARES

#: Not folded: NFKC would lose the meaning of these (m² would become m2), and the front ends know them.
_KEPT = "²³½¼¾…™®°"
_KEPT_SIGN = re.compile(f"[{_KEPT}]")
_PUNCTUATION = str.maketrans(
    {
        "。": ". ",
        "、": ", ",
        "，": ", ",
        "．": ". ",
        "！": "! ",
        "？": "? ",
        "：": ": ",
        "；": "; ",
        "・": " ",
        "·": " ",
        "「": " “",
        "」": "” ",
        "『": " “",
        "』": "” ",
        "《": " “",
        "》": "” ",
        "〈": " “",
        "〉": "” ",
        "【": " (",
        "】": ") ",
        "〔": " (",
        "〕": ") ",
        "«": " “",
        "»": "” ",
        "„": "“",
        "‘": "'",
        "’": "'",
        "`": "'",
        "–": "–",
        "―": "—",
        "−": "-",
        "⁄": "/",
        "‐": "-",
        "‑": "-",
        "～": "~",
        "〜": "~",
        "\n": ". ",
        "\r": " ",
        "\t": " ",
        "{": " ",
        "}": " ",
        "|": ", ",
    }
)
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
_LATIN = "A-Za-zÀ-ÖØ-öø-ɏ\u1e00-\u1eff"
_LATIN_WORDS = rf"[{_LATIN}]+(?:[ '.&@+/_-]{{1,2}}[{_LATIN}]+)*"
_CJK_NUMBER = rf"(?:\d[\d.,:/-]*)?[{_HAN}](?:[{_HAN}{_KANA}\d%]*[{_HAN}{_KANA}])?"
_FOREIGN = {
    "en": re.compile(rf"(?P<ja>[{_HAN}{_KANA}]*[{_KANA}][{_HAN}{_KANA}]*)|(?P<zh>{_CJK_NUMBER})"),
    "zh": re.compile(rf"(?P<en>{_LATIN_WORDS})|(?P<ja>[{_KANA}]+)"),
    "ja": re.compile(rf"(?P<en>{_LATIN_WORDS})"),
}
_SCRIPTS = {
    "LATIN": "en",
    "CJK": "zh",
    "IDEOGRAPHIC": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "KATAKANA-HIRAGANA": "ja",
    "GREEK": "en",
}


@dataclass
class Run:
    """Text of one language: plain strings and given pronunciations in order."""

    language: str
    items: list[Item]


#: A full-width mark ends the words before it; its plain form alone would continue a number (3，400 as 3,400).
_WIDE = str.maketrans({"，": ", ", "！": "! ", "？": "? ", "；": "; "})
_WIDE_INSIDE = re.compile(r"(?<!\d)[：．]|[：．](?!\d)")  #: 8：30 and ３．５ are a clock and a decimal
_LINE_ENDS = re.compile(r"[^\S\n]*(?:\r?\n[^\S\n]*)+")


def fold(text: AlignedText) -> AlignedText:
    """Replace compatibility forms (full-width, half-width kana, ligatures) and punctuation by plain equivalents."""
    text = text.translate(_WIDE).sub(_WIDE_INSIDE, lambda match: ": " if match[0] == "：" else ". ")
    text = text.sub(_LINE_ENDS, _line_end).sub(r"(?<=\d)(?=[⅐-⅞])", " ").translate(SQUARES)
    kept = [0, *(at for match in _KEPT_SIGN.finditer(text) for at in match.span()), len(text)]
    parts = [text[start:end] for start, end in pairwise(kept)]
    folded = AlignedText.joined(part if part in _KEPT else part.normalized("NFKC") for part in parts)
    return folded.mapped(_plain).translate(_PUNCTUATION)


def _line_end(match: re.Match) -> str:
    """End the sentence at the end of a line if no mark has ended it already."""
    before = match.string[: match.start()].rstrip("\"'”’」』)）]】*_ ")[-1:]
    return " " if before in ".!?;:,…。！？；：，、．" else ". "


def _plain(char: str) -> str:
    """Replace digits of other scripts and in circles by 0-9, and a Greek letter, a symbol here, by its name."""
    if char < "\u0100" or char in _KEPT:
        return char
    if (digit := unicodedata.digit(char, None)) is not None:
        return str(digit) if char.isdecimal() else f" {digit} "  # ①②③ are three numbers
    if not ("Ͱ" <= char <= "Ͽ") or not char.isalpha():
        return char
    return f" {unicodedata.name(char).split(' WITH ')[0].split()[-1].lower()} "


def split(items: list[Item], language: str) -> list[Run]:
    """Split a text whose own language is `language` into runs. `items` are folded already."""
    runs: list[Run] = []
    for item in items:
        if isinstance(item, str):
            _split_text(item, language, runs)
        else:
            _add(runs, "zh" if isinstance(item, Syllable) else "en", item)
    return [run for run in runs if any(not isinstance(item, str) or item.strip() for item in run.items)]


def _split_text(text: str, language: str, runs: list[Run]) -> None:
    position = 0
    for match in _FOREIGN[language].finditer(text):
        _add(runs, language, text[position : match.start()])
        assert match.lastgroup is not None, "each alternative of _FOREIGN is a named group"
        _add(runs, match.lastgroup, text[match.start() : match.end()])
        position = match.end()
    _add(runs, language, text[position:])


def _add(runs: list[Run], language: str, item: Item) -> None:
    if item == "":
        return
    if not runs or runs[-1].language != language:
        runs.append(Run(language, []))
    runs[-1].items.append(item)


def check_scripts(text: str, language: str, spoken: frozenset[str]) -> None:
    """Raise InvalidInput (`text_script_unsupported`) for a letter that none of the `spoken` languages can read.

    `language` is the text's own: Han characters in Japanese need no Mandarin.
    """
    for position, char in enumerate(text):
        if not char.isalpha():
            continue
        script = unicodedata.name(char, "UNKNOWN").split()[0]
        reads_han = language == "ja" and _SCRIPTS.get(script) == "zh"
        if not reads_han and _SCRIPTS.get(script) not in spoken:
            raise InvalidInput(
                f"The letter at character {position + 1} of the text belongs to a script "
                f"({script.title()}) that the running engine can't read; it reads "
                f"{', '.join(sorted(_NAMES[language] for language in spoken))}. "
                "Write that word in one of these.",
                param="text",
                code="text_script_unsupported",
            )


_NAMES = {"en": "Latin letters", "zh": "Chinese characters", "ja": "kana and kanji"}
