"""The settings of the voice store, with their defaults."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from config.strict import StrictModel

Protocol = Literal["file", "memory", "s3", "gs", "abfs"]


class VoiceSettings(StrictModel):
    """The store of voices (docs/voices.md)."""

    url: str | None = None
    """A folder by its absolute path (or `file:///…`), or a place in an object store (`s3://bucket/voices`, `gs://…`,
    `abfs://…`). Without it no voices are stored. `memory://…` belongs to one process and ends with it."""
    protocols: frozenset[Protocol] = frozenset({"file", "memory"})
    """The protocols that `url` may have. Name an object store's here. Its driver (s3fs, gcsfs or adlfs) must be
    installed, and finds its credentials in its usual environment variables."""
    options: dict[str, Any] = {}
    """Options of the driver, for example `{"endpoint_url": "https://…"}`. Don't put credentials here."""
    max_voices: int = Field(default=1000, ge=1, le=10_000)
    """The most stored voices. Every change writes the list of all of them: 350 bytes each, and their consents and
    transcripts."""
    max_bytes: int = Field(default=2_000_000_000, ge=1)
    """The most bytes of all clips together, as they were sent. The engines' arrays come on top (CosyVoice3: 162 kB for
    each voice and each version of the engine)."""

    @field_validator("url")
    @classmethod
    def _one_place(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if "::" in url:
            raise ValueError("the url of the voices must not chain file systems with '::'; name one place")
        if protocol_of(url) == "file" and not path_of(url).startswith("/"):
            raise ValueError(
                "the folder of the voices must be an absolute path: replicas do not share a working folder"
            )
        return url

    @model_validator(mode="after")
    def _allowed(self) -> VoiceSettings:
        if self.url is not None and protocol_of(self.url) not in self.protocols:
            raise ValueError(
                "the url of the voices begins with a protocol that is not allowed; allowed are "
                f"{', '.join(sorted(self.protocols))} (`protocols` in these settings adds s3, gs or abfs)"
            )
        return self


def protocol_of(url: str) -> str:
    """The part of `url` before `://`, in lower case; `file` without one."""
    before, mark, _ = url.partition("://")
    return before.lower() if mark else "file"


def path_of(url: str) -> str:
    """The part of `url` behind `://`."""
    return url.partition("://")[2] if "://" in url else url
