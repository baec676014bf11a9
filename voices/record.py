"""What is known of a stored voice, and what of it is shown."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from speech.audio import Clip
from voices.enrolment import MAX_CONSENT, Enrolment
from voices.names import ID_PREFIX, MAX_NAME

#: Of a voice's files: its id, when it was stored (seconds since the epoch, hex), and something nobody else has.
FOLDER_NAME = r"^voice_[0-9a-f]{32}\.([0-9a-f]{1,16})\.[0-9a-f]{16}$"


class _Stored(BaseModel):
    """Unknown keys are errors: an older release must not write back a list that it has understood by half."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Consent(_Stored):
    agreed: str = Field(min_length=1, max_length=MAX_CONSENT, repr=False)  #: in words, as they were sent
    at: AwareDatetime  #: when they were


class ClipFacts(_Stored):
    """What the clip is like: as a file in `bytes` and `format` (libsndfile's name of the container, lower case)."""

    seconds: float = Field(gt=0)
    sample_rate: int = Field(gt=0)
    format: str
    bytes: int = Field(gt=0)

    @classmethod
    def of(cls, clip: Clip, data: bytes) -> ClipFacts:
        return cls(seconds=round(clip.seconds, 3), sample_rate=clip.rate, format=clip.format, bytes=len(data))


class VoiceRecord(_Stored):
    """A stored voice without its audio.

    Attributes:
        id: `voice_` and 32 hex digits of a hash of the clip's bytes and its transcript.
        dialect: registry code; `language` is its.
        transcript: what is said in the clip. Engines get it, `public` never shows it.
        created_at: seconds since the epoch.
        owner: name of the key that stored it, None where keys were not in force.
        folder: of its files, below the store's `voices`; no two enrolments ever have the same.
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

    @classmethod
    def of(
        cls, enrolment: Enrolment, clip: bytes, facts: ClipFacts, owner: str | None, now: float, token: str
    ) -> VoiceRecord:
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
        )

    def may_be_deleted_by(self, key: str | None, *, admin: bool = False) -> bool:
        """`key`: the caller's key's name. One without a key may delete what was stored without one."""
        return admin or key == self.owner

    def public(self) -> dict:
        """As the API shows it (docs/api.md)."""
        return {
            "id": self.id,
            "object": "audio.voice",
            "name": self.name,
            "dialect": self.dialect,
            "language": self.language,
            "created_at": self.created_at,
            "consent": {"agreed": self.consent.agreed, "at": self.consent.at.strftime("%Y-%m-%dT%H:%M:%SZ")},
            "has_transcript": self.transcript is not None,
            "clip": self.clip.model_dump(),
        }


def content_id(clip: bytes, transcript: str | None) -> str:
    """The id of a voice is its content. The length tells the clip from the transcript, a mark no transcript from an
    empty one."""
    state = hashlib.sha256(len(clip).to_bytes(8))
    state.update(clip)
    state.update(b"" if transcript is None else b"=" + transcript.encode())
    return ID_PREFIX + state.hexdigest()[:32]
