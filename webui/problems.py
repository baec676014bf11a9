"""Says what went wrong in the page's language, and at which field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from webui.client import ApiError

#: A field of the page by the API's name for it (`error.param`).
FIELDS = {
    "prompt_audio": "clip",
    "audio_sample": "clip",
    "voice": "voice",
    "dialect": "dialect",
    "text": "text",
    "style_instruction": "style",
    "prompt_text": "prompt_text",
    "speed": "speed",
    "seed": "speed",
    "name": "keep_name",
    "consent": "keep_consent",
}
#: A field of the page by the name in `words.TEXTS` of what is missing.
MISSING = {
    "wait_dialect": "dialect",
    "wait_clip": "clip",
    "wait_voice": "voice",
    "wait_text": "text",
    "wait_style": "style",
}
KEY_CODES = frozenset({"key_missing", "key_unknown", "key_expired", "key_malformed"})
#: Every place of the page where an error can stand.
PLACES = tuple(dict.fromkeys([*FIELDS.values(), "new_name", "key"]))


@dataclass(frozen=True)
class Problem:
    """Holds an error as the page shows it.

    Attributes:
        text: Cause and remedy in the page's language.
        field: The place of the page, one of `PLACES`, or None.
        original: The API's own words, where `text` is a translation that leaves out their figures.
    """

    text: str
    field: str | None = None
    original: str | None = None


def missing(name: str, words: Mapping[str, str]) -> Problem:
    """Return the problem of a control that is not filled in; `name` is from `Wish.waits_for`."""
    return Problem(words[name], MISSING.get(name))


def of(error: ApiError, words: Mapping[str, str]) -> Problem:
    """Translate an error of the API by its code, or else its type; one without a translation keeps the API's words."""
    by_key = error.status == 401 or error.code in KEY_CODES
    field = "key" if by_key else FIELDS.get(error.param or "")
    code = error.code or ("key_missing" if by_key else error.type)
    translated = words.get(f"error_{code}") or words.get(f"error_{error.type}")
    if not translated:
        return Problem(error.message, field)
    return Problem(translated, field, None if by_key else error.message)
