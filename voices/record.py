"""The record of a stored voice, and the part of it that the API shows."""

from __future__ import annotations

import builtins
import hashlib
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from speech.audio import Clip
from voices.enrolment import MAX_CONSENT, Enrolment
from voices.names import ID_PREFIX, MAX_NAME

#: Folder of a voice's files: its id, the time of storing (seconds since the epoch, hex), and a random token.
FOLDER_NAME = r"^voice_[0-9a-f]{32}\.([0-9a-f]{1,16})\.[0-9a-f]{16}$"


class _Stored(BaseModel):
    """A part of the stored list. Unknown keys are errors: an older release must not write back a list with losses."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Consent(_Stored):
    """The speaker's consent, in words as they were sent, and the time at which they were."""

    agreed: str = Field(min_length=1, max_length=MAX_CONSENT, repr=False)
    at: AwareDatetime


class ClipFacts(_Stored):
    """The clip's properties; `format` is the container's name in lower case, `bytes` the size of the file."""

    seconds: float = Field(gt=0)
    sample_rate: int = Field(gt=0)
    format: str
    bytes: int = Field(gt=0)

    @classmethod
    def of(cls, clip: Clip, data: builtins.bytes) -> ClipFacts:
        """Return the properties of a decoded clip and its file."""
        return cls(seconds=round(clip.seconds, 3), sample_rate=clip.rate, format=clip.format, bytes=len(data))


class PublicConsent(BaseModel):
    """The consent as the API shows it."""

    agreed: str
    at: str = Field(json_schema_extra={"format": "date-time"})


FitState = Literal["queued", "running", "done", "kept_steered", "failed"]


class PublicFit(BaseModel):
    """The fit of a voice as the API shows it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    state: FitState
    """done: requests with the voice use the fitted one. kept_steered: the fitted one was no better."""
    step: int = 0
    """Steps made."""
    steps: int = 0
    """Steps at most; 0 until the fit has begun."""
    why: str = ""
    """The reason, with kept_steered and failed."""


class PublicVoice(BaseModel):
    """A stored voice as the API shows it (docs/api.md)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    object: Literal["audio.voice"]
    name: str
    dialect: str
    language: str
    created_at: int
    """Seconds since the epoch."""
    consent: PublicConsent
    has_transcript: bool
    """True if a transcript is stored; it is never shown."""
    clip: ClipFacts
    fit: PublicFit | None = None
    """The voice's fit to its speaker; null where none was asked for, or the running engine fits no voices."""


class VoiceRecord(_Stored):
    """A stored voice without its audio.

    Attributes:
        id: `voice_` and 32 hex digits of a hash of the clip's bytes and its transcript.
        dialect: registry code; `language` is the dialect's.
        transcript: the text that is spoken in the clip. Engines get it, `public` never shows it.
        created_at: seconds since the epoch.
        owner: name of the key that stored it; None without keys.
        folder: name of its folder in the store's `voices`; each enrolment has its own.
        fit: a fit of the voice is wanted.
        clip_hash: of the clip alone, 32 hex digits: voices with the same clip share a fit. None for a voice that was
            stored before there were fits, until one is asked for.
    """

    id: str = Field(pattern=r"^voice_[0-9a-f]{32}$")
    name: str = Field(min_length=1, max_length=MAX_NAME, repr=False)
    dialect: str
    language: str
    transcript: str | None = Field(None, repr=False)
    consent: Consent
    created_at: int
    clip: ClipFacts
    owner: str | None = Field(None, repr=False)
    folder: str = Field(pattern=FOLDER_NAME, repr=False)
    fit: bool = False
    clip_hash: str | None = Field(None, pattern=r"^[0-9a-f]{32}$")

    @classmethod
    def of(
        cls, enrolment: Enrolment, clip: bytes, facts: ClipFacts, owner: str | None, now: float, token: str
    ) -> VoiceRecord:
        """Return the record of a new voice.

        Args:
            enrolment: the checked fields.
            clip: the file as it was sent.
            facts: the clip's properties.
            owner: name of the caller's key.
            now: seconds since the epoch.
            token: 16 random hex digits.
        """
        voice_id = content_id(clip, enrolment.transcript)
        return cls(
            id=voice_id,
            name=enrolment.name,
            dialect=enrolment.dialect.code,
            language=enrolment.dialect.language,
            transcript=enrolment.transcript,
            consent=Consent(agreed=enrolment.consent, at=datetime.fromtimestamp(int(now), UTC)),
            created_at=int(now),
            clip=facts,
            owner=owner,
            folder=f"{voice_id}.{int(now):x}.{token}",
            fit=enrolment.fit,
            clip_hash=hash_of(clip),
        )

    def can_change(self, key: str | None, *, admin: bool = False) -> bool:
        """Tell whether a caller may rename or delete this voice.

        Args:
            key: name of the caller's key. A caller without a key may change voices that were stored without one.
            admin: the caller may change every voice.
        """
        return admin or key == self.owner

    def public(self, fit: PublicFit | None = None) -> dict[str, object]:
        """Return the voice as the API shows it, with the state of its fit."""
        return PublicVoice(
            id=self.id,
            object="audio.voice",
            name=self.name,
            dialect=self.dialect,
            language=self.language,
            created_at=self.created_at,
            consent=PublicConsent(agreed=self.consent.agreed, at=self.consent.at.strftime("%Y-%m-%dT%H:%M:%SZ")),
            has_transcript=self.transcript is not None,
            clip=self.clip,
            fit=fit,
        ).model_dump()


def content_id(clip: bytes, transcript: str | None) -> str:
    """Return the id of a voice, a hash of its content.

    The clip's length separates it from the transcript, and a mark tells an empty transcript from none.
    """
    state = hashlib.sha256(len(clip).to_bytes(8))
    state.update(clip)
    state.update(b"" if transcript is None else b"=" + transcript.encode())
    return ID_PREFIX + state.hexdigest()[:32]


def hash_of(clip: bytes) -> str:
    """Return the hash of a clip, by which voices share a fit."""
    return hashlib.sha256(clip).hexdigest()[:32]
