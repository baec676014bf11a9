"""A voice to be stored, as the client sends it: plain form fields in, one checked `Enrolment` out."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from speech.dialects import DIALECTS, Dialect, Registry
from speech.errors import InvalidInput
from speech.text import check_transcript
from voices.names import check_name

FIELDS = ("name", "dialect", "consent", "prompt_text")
FILE = "audio_sample"
MAX_CONSENT = 1000
_WHITE_SPACE = frozenset("\t\n\r")


@dataclass(frozen=True)
class Enrolment:
    """`consent`: what the speaker agreed to, in words; `transcript`: what is said in the clip, where known."""

    name: str = field(repr=False)
    dialect: Dialect
    consent: str = field(repr=False)
    transcript: str | None = field(default=None, repr=False)


def parse(fields: Mapping[str, str], registry: Registry = DIALECTS) -> Enrolment:
    """Check form fields. Raises InvalidInput whose `param` names the field; the client's text is never echoed."""
    for name in fields:
        if name not in FIELDS:
            raise _unknown_field(name)
    return Enrolment(
        name=check_name(fields.get("name", "")),
        dialect=registry.find(fields.get("dialect")),
        consent=check_consent(fields.get("consent", "")),
        transcript=check_transcript(fields["prompt_text"]) if fields.get("prompt_text") else None,
    )


def check_consent(consent: str) -> str:
    """The consent as it was sent, but for white space around it; 1 to 1,000 characters. InvalidInput (`consent`)."""
    stripped = consent.strip()
    if not stripped:
        raise _refuse(
            "The field 'consent' is missing: write what the speaker has agreed to. No voice is stored without it.",
            "consent_missing",
        )
    if len(stripped) > MAX_CONSENT:
        raise _refuse(
            f"The consent is {len(stripped)} characters long; the limit is {MAX_CONSENT}. Say in short what "
            "was agreed, and keep the full agreement where you keep such things.",
            "consent_too_long",
        )
    if any(unicodedata.category(char) in ("Cc", "Cs") and char not in _WHITE_SPACE for char in stripped):
        raise _refuse(
            "The consent contains a control character or half of a surrogate pair; only line breaks and tabs "
            "are allowed.",
            "consent_control_character",
        )
    return stripped


def _unknown_field(name: str) -> InvalidInput:
    near = get_close_matches(name, (*FIELDS, FILE), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InvalidInput(
        f"The form has a field that is not known.{hint} Known fields: {FILE}, {', '.join(FIELDS)}.",
        param=near[0] if near else None,
        code="field_unknown",
    )


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="consent", code=code)
