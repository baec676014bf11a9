"""An enrolment: a voice to store. `parse` makes one checked `Enrolment` of a form's plain fields."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from config.nearest import nearest
from speech.dialects import DIALECTS, Dialect, Registry
from speech.errors import InvalidInput
from speech.requests import Transcript
from speech.text import check_transcript
from voices.names import MAX_NAME, check_name

FILE = "audio_sample"
MAX_CONSENT = 1000
_WHITE_SPACE = frozenset("\t\n\r")


class EnrolmentFields(BaseModel):
    """The fields of an enrolment, beside its clip. OpenAPI shows them; `parse` checks them, with remedies."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str = Field(min_length=1, max_length=MAX_NAME)
    """Name of the voice: letters and digits of any script, '-', '_', and '.' but not first."""
    dialect: str
    """Code of the dialect: en-US, zh-CN, zh-Sichuan …; see /api/dialects. Never assumed."""
    consent: str = Field(min_length=1, max_length=MAX_CONSENT)
    """The speaker's consent, in words; stored with the time."""
    prompt_text: Transcript | None = None
    """Transcript of the clip, if known."""
    fit: bool = True
    """Fit the voice to its speaker in the background, where the engine can."""


FIELDS = tuple(EnrolmentFields.model_fields)


@dataclass(frozen=True)
class Enrolment:
    """A checked enrolment.

    Attributes:
        name: in NFC.
        dialect: of the voice.
        consent: the speaker's consent, in words.
        transcript: the text that is spoken in the clip; None if unknown.
        fit: a fit of the voice is wanted.
    """

    name: str = field(repr=False)
    dialect: Dialect
    consent: str = field(repr=False)
    transcript: str | None = field(default=None, repr=False)
    fit: bool = True


def parse(fields: Mapping[str, str], registry: Registry = DIALECTS) -> Enrolment:
    """Check the fields of a form.

    Raises:
        InvalidInput: a field is unknown, missing or wrong; `param` names it. The client's text is never quoted.
    """
    for name in fields:
        if name not in FIELDS:
            raise _unknown_field(name)
    return Enrolment(
        name=check_name(fields.get("name", "")),
        dialect=registry.find(fields.get("dialect")),
        consent=check_consent(fields.get("consent", "")),
        transcript=check_transcript(fields["prompt_text"]) if fields.get("prompt_text") else None,
        fit=_fit(fields.get("fit")),
    )


def check_consent(consent: str) -> str:
    """Return the consent without white space around it; 1 to `MAX_CONSENT` characters.

    Raises:
        InvalidInput: param `consent`.
    """
    stripped = consent.strip()
    if not stripped:
        raise _refuse(
            "The field 'consent' is missing: write what the speaker has agreed to. No voice is stored without it.",
            "consent_missing",
        )
    if len(stripped) > MAX_CONSENT:
        raise _refuse(
            f"The consent is {len(stripped)} characters long; the limit is {MAX_CONSENT}. Send a summary, and keep the "
            "full agreement elsewhere.",
            "consent_too_long",
        )
    if any(unicodedata.category(char) in ("Cc", "Cs") and char not in _WHITE_SPACE for char in stripped):
        raise _refuse(
            "The consent contains a control character or half of a surrogate pair; only line breaks and tabs "
            "are allowed.",
            "consent_control_character",
        )
    return stripped


def _fit(value: str | None) -> bool:
    if (value or "true").lower() not in ("true", "false", "1", "0"):
        raise InvalidInput(
            "The field 'fit' must be true or false; false stores the voice without a fit to its speaker.",
            param="fit",
            code="fit_unknown",
        )
    return (value or "true").lower() in ("true", "1")


def _unknown_field(name: str) -> InvalidInput:
    near = nearest(name, (*FIELDS, FILE))
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return InvalidInput(
        f"The form has a field that is not known.{hint} Known fields: {FILE}, {', '.join(FIELDS)}.",
        param=near[0] if near else None,
        code="field_unknown",
    )


def _refuse(message: str, code: str) -> InvalidInput:
    return InvalidInput(message, param="consent", code=code)
