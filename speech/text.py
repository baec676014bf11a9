"""Checks text fields before an engine sees them: they must be present, short, printable, and free of model tokens.

These rules hold for every engine. The engine's front end interprets a text's *meaning* (numbers, tags,
pronunciations). Lengths count Unicode code points after NFC, which people count as characters in most scripts. Messages
name the rule and the remedy, and never repeat the user's text.
"""

from __future__ import annotations

import re
import unicodedata

from speech.errors import InvalidInput
from speech.limits import MAX_INSTRUCTION, MAX_LONG_TEXT, MAX_TEXT, MAX_TRANSCRIPT

#: Far above any length that normalisation can shrink to the limit: refused before any work is spent on it.
_SHRINKS_AT_MOST = 8
_WHITESPACE_CONTROLS = frozenset("\t\n\r\v\f\x85")
_TOKEN_BEGINS, _TOKEN_ENDS = re.compile(r"<\s*+\|"), re.compile(r"\|\s*+>")


def check_text(text: str) -> str:
    """Return the text to be spoken, stripped and in NFC, at most 200 characters. Raises InvalidInput (param `text`)."""
    return _check(text, "text", "text", "text", MAX_TEXT, "Shorten it, or send it with `long_form` (`say --long`).")


def check_long_text(text: str) -> str:
    """Return the text of a long form, stripped and in NFC, at most 5,000 characters; raises as `check_text`."""
    return _check(
        text,
        "text",
        "text",
        "text",
        MAX_LONG_TEXT,
        "Split it over several requests, for example by chapter or paragraph.",
    )


def check_instruction(instruction: str) -> str:
    """Return the instruction, stripped and in NFC, at most 200 characters. InvalidInput names `style_instruction`."""
    return _check(
        instruction,
        "style_instruction",
        "instruction",
        "style instruction",
        MAX_INSTRUCTION,
        "One short sentence is enough.",
    )


def check_transcript(transcript: str) -> str:
    """Return the transcript, stripped and in NFC, at most 500 characters. Raises InvalidInput (`prompt_text`)."""
    return _check(
        transcript,
        "prompt_text",
        "transcript",
        "transcript",
        MAX_TRANSCRIPT,
        "It must be what is said in the reference clip, and nothing more.",
    )


def _check(text: str, param: str, prefix: str, noun: str, limit: int, remedy: str) -> str:
    def refuse(reason: str, message: str) -> InvalidInput:
        return InvalidInput(message, param=param, code=f"{prefix}_{reason}")

    if len(text) > limit * _SHRINKS_AT_MOST:
        raise refuse("too_long", f"The {noun} is {len(text)} characters long; the limit is {limit}. {remedy}")
    if any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise refuse(
            "not_unicode",
            f"The {noun} contains half of a surrogate pair, which is no character. Send it as valid UTF-8.",
        )
    visible = unicodedata.normalize("NFC", "".join(map(_audible, text))).strip()
    if any(unicodedata.category(char) == "Cc" for char in visible.translate(_SPACES)):
        raise refuse(
            "control_character",
            f"The {noun} contains a control character (below U+0020, or U+007F to "
            "U+009F). Remove it; only line breaks and tabs are allowed.",
        )
    if not visible:
        raise refuse(
            "empty",
            f"The {noun} is empty, or holds nothing but spaces and invisible characters. Fill the field '{param}'.",
        )
    # Full-width brackets become a token only after an engine folds them, so both forms are checked.
    if _has_token(visible) or _has_token(unicodedata.normalize("NFKC", visible)):
        raise refuse(
            "special_token",
            f"The {noun} contains a model control token of the form <|…|>, which is not "
            "allowed: it would change what the model does. Remove it.",
        )
    if len(visible) > limit:
        raise refuse("too_long", f"The {noun} is {len(visible)} characters long; the limit is {limit}. {remedy}")
    return visible


_SPACES = {ord(char): " " for char in _WHITESPACE_CONTROLS}


def _has_token(text: str) -> bool:
    begun = _TOKEN_BEGINS.search(text)
    return begun is not None and _TOKEN_ENDS.search(text, begun.end()) is not None


def _audible(char: str) -> str:
    """Drop format characters (zero-width, direction marks, soft hyphens): silent, they could hide a token."""
    return "" if unicodedata.category(char) == "Cf" else char
