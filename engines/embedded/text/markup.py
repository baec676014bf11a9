"""Parses inline pronunciation in CosyVoice3's notation, and refuses tags that this engine can't perform.

- `爱好[h][ào]`: a pinyin initial and a toned final in brackets. Where the character before the brackets has that
  syllable among its readings (in any tone), they give its reading. If it has not, they stand for a character that was
  left out, as in `报道[j][ǐ]予好评`. Without an initial: `[ài]`; without a tone mark it is the light tone: `[m][a]`.
  A whole syllable, with a mark or a number (`[hào]`, `[hao4]`), is the same.
- `read[R][EH1][D]`: CMU phones with stress digits give the pronunciation of the word before the brackets; after a
  space or at the beginning they are a word of their own.

Brackets around anything else (`[1]`, `[sic]`, `[see below]`) are dropped, and their content is spoken. A row of
brackets without a reading is a mistake, and so is an initial alone after a Chinese character (`好[h]`): both are
refused.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field

from engines.embedded.text import arpabet, pinyin
from speech.aligned_text import AlignedText
from speech.errors import InvalidInput

EXAMPLES = "爱好[h][ào] for a pinyin syllable, read[R][EH1][D] for CMU phones"

_TAGS = frozenset(
    (
        "breath",
        "quick_breath",
        "laughter",
        "cough",
        "sigh",
        "noise",
        "clucking",
        "accent",
        "hissing",
        "vocalized-noise",
        "lipsmack",
        "mn",
    )
)
_ANGLE_TAG = re.compile(r"<\s*/?\s*[A-Za-z][^<>]*>")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_LOOKS_LIKE_PRONUNCIATION = re.compile(r"[^\W\d_]{1,8}\d?")
_LATIN_WORD_BEFORE = re.compile(r"[A-Za-zÀ-ɏ]+(?:['’][A-Za-zÀ-ɏ]+)*$")


@dataclass(frozen=True)
class Syllable:
    """A Mandarin syllable with a given reading."""

    reading: str  #: pinyin with a tone number, ü as v, light tone 5: `hao4`, `lv4`, `ma5`
    character: str = ""  #: the character that has this reading; empty if the syllable stands alone
    source: tuple[int, int] = field(default=(0, 0), compare=False)  #: the span that was written for it


@dataclass(frozen=True)
class Word:
    """An English word with a given pronunciation."""

    phones: tuple[str, ...]  #: CMU phones: `("R", "EH1", "D")`
    spelling: str = ""  #: the word that has this pronunciation; empty if the phones stand alone
    source: tuple[int, int] = field(default=(0, 0), compare=False)  #: the span that was written for it


Item = str | Syllable | Word  #: `parse` gives each str as an AlignedText


def parse(text: str, attach: bool = True) -> list[Item]:
    """Split the text into plain strings and given pronunciations, in order.

    Args:
        text: without Markdown.
        attach: find the character that has a given reading; this needs the dictionary of readings.

    Raises:
        InvalidInput: (param `text`) `text_tag_unsupported` for a tag, `text_pronunciation` for a bracket that looks
            like a pronunciation and is none.
    """
    text = AlignedText.of(text)
    if _ANGLE_TAG.search(text):
        raise _tag_refused()
    items: list[Item] = []
    position = 0
    while (bracket := _BRACKET.search(text, position)) is not None:
        _append(items, text[position : bracket.start()])
        attached = bracket.start() == position or not text[bracket.start() - 1].isspace()
        position = _take(text, bracket, items, attached, attach)
    _append(items, text[position:])
    return items


def _append(items: list[Item], text: AlignedText) -> None:
    text = text.replace("[", " ").replace("]", " ")
    if not text:
        return
    if items and isinstance(items[-1], str):
        items[-1] += text
    else:
        items.append(text)


def _take(text: AlignedText, bracket: re.Match, items: list[Item], attached: bool, attach: bool) -> int:
    """Read the pronunciation that begins with `bracket`; returns the position of its end."""
    content = unicodedata.normalize("NFC", bracket.group(1).strip())
    if content.lower() in _TAGS:
        raise _tag_refused()
    before = text[bracket.start() - 1 : bracket.start()]
    if _is_text(content, before, text[bracket.end() :]):
        _append(items, AlignedText.joined((" ", text[bracket.start(1) : bracket.end(1)], " ")))
        return bracket.end()
    if arpabet.is_phone(content):
        return _take_word(text, bracket, items, attached)
    if pinyin.is_initial(content):
        final = _BRACKET.match(text, bracket.end())
        reading = final and pinyin.syllable(content, unicodedata.normalize("NFC", final.group(1).strip()))
        if not final or not reading:
            raise _malformed(bracket, "an initial must be followed by a final that goes with it, such as [h][ào]")
        source = text.source(bracket.start(), final.end())
        _take_syllable(reading, items, attached and attach, source)
        return final.end()
    if reading := pinyin.syllable("", content):
        source = text.source(bracket.start(), bracket.end())
        _take_syllable(reading, items, attached and attach, source)
        return bracket.end()
    raise _malformed(bracket, "it is neither a pinyin syllable nor a CMU phone")


def _is_text(content: str, before: str, behind: str) -> bool:
    """Tell if a bracket is text and no pronunciation.

    A single bracket is a pronunciation only if nothing else makes sense: after a Chinese character, with a tone, or as
    a vowel with its stress. [she], [Editor] and [B] are words in brackets.

    Args:
        content: of the bracket.
        before: the character before it.
        behind: the text after it.
    """
    if not _LOOKS_LIKE_PRONUNCIATION.fullmatch(content) or _is_cjk(content):
        return True
    if re.match(r"\s?\[[^\[\]]", behind) or before == "]":
        return False  # a row
    behind_character = bool(before) and _is_cjk(before)
    if pinyin.is_initial(content):
        return not behind_character
    if pinyin.syllable("", content):
        return not behind_character and content.isascii() and not content[-1].isdigit()
    return not (arpabet.is_vowel(content) and content[-1].isdigit())


def _take_syllable(reading: str, items: list[Item], attached: bool, brackets: tuple[int, int] | None) -> None:
    before = items[-1] if items and isinstance(items[-1], str) and attached else ""
    if before and pinyin.may_be_read(before[-1], reading):
        items[-1] = before[:-1]
        if not items[-1]:
            items.pop()
        items.append(Syllable(reading, before[-1], AlignedText.of(before).source(len(before) - 1) or (0, 0)))
    else:
        items.append(Syllable(reading, "", brackets or (0, 0)))


def _take_word(text: AlignedText, bracket: re.Match, items: list[Item], attached: bool) -> int:
    phones, end = [], bracket.start()
    while (following := _BRACKET.match(text, end)) and arpabet.is_phone(following.group(1).strip()):
        phones.append(following.group(1).strip())
        end = following.end()
    if not any(arpabet.is_vowel(phone) for phone in phones) and len(phones) > 1:
        raise _malformed(bracket, "a word needs a vowel, such as EH1 in [R][EH1][D]")
    spelling, source = "", text.source(bracket.start(), end)
    if attached and items and isinstance(items[-1], str) and (word := _LATIN_WORD_BEFORE.search(items[-1])):
        spelling, source = word.group(), AlignedText.of(items[-1]).source(*word.span())
        items[-1] = items[-1][: word.start()]
        if not items[-1]:
            items.pop()
    items.append(Word(tuple(phones), spelling, source or (0, 0)))
    return end


def _is_cjk(content: str) -> bool:
    return any(unicodedata.name(char, "").startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL")) for char in content)


def _tag_refused() -> InvalidInput:
    return InvalidInput(
        "The text contains a tag such as [laughter] or <strong>, which the embedded engine can't "
        "perform and won't read aloud. Remove it. What this engine knows in a text is inline "
        f"pronunciation: {EXAMPLES}.",
        param="text",
        code="text_tag_unsupported",
    )


def _malformed(bracket: re.Match, reason: str) -> InvalidInput:
    return InvalidInput(
        f"The pronunciation in brackets at character {bracket.start() + 1} of the text can't be read: "
        f"{reason}. Write {EXAMPLES}; brackets with a single word in them are kept for that.",
        param="text",
        code="text_pronunciation",
    )
