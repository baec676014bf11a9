"""Where stored voices lie, and how many there may be. All defaults in one place."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Protocol = Literal["file", "memory", "s3", "gs", "abfs"]


class VoiceSettings(BaseModel):
    """Unknown keys are errors.

    Attributes:
        url: a folder by its absolute path (or `file:///…`), or a place in an object store (`s3://bucket/voices`,
            `gs://…`, `abfs://…`). None: no voices are stored. `memory://…` is each process's own, and gone with it.
        protocols: what `url` may begin with. An object store's must be named here; its driver (s3fs, gcsfs or adlfs)
            must be installed, and finds its credentials in its usual environment variables.
        options: of the driver, for example `{"endpoint_url": "https://…"}`. Don't put credentials here.
        max_voices: beyond it no voice is stored. Every change writes the list of all of them: 350 bytes each, and their
            consents and transcripts.
        max_bytes: of all clips together, as they were sent. What engines found in them comes on top (CosyVoice3: 162
            kB for each voice and each version of the engine).
    """

    # A url may hold what nobody should read in a log, and pydantic quotes what it refuses.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str | None = None
    protocols: frozenset[Protocol] = frozenset({"file", "memory"})
    options: dict[str, Any] = {}
    max_voices: int = Field(1000, ge=1, le=10_000)
    max_bytes: int = Field(2_000_000_000, ge=1)

    @field_validator("url")
    @classmethod
    def _one_place(cls, url: str | None) -> str | None:
        if url is None:
            return None
        if "::" in url:
            raise ValueError("the url of the voices must not chain file systems with '::'; name one place")
        if protocol_of(url) == "file" and not path_of(url).startswith("/"):
            raise ValueError("the folder of the voices must be an absolute path: replicas don't share a working folder")
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
    """What stands before `://`, lower case; `file` where nothing does."""
    before, mark, _ = url.partition("://")
    return before.lower() if mark else "file"


def path_of(url: str) -> str:
    return url.partition("://")[2] if "://" in url else url
