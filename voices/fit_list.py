"""The list of fits: which clips are fitted, for which engine, and how far each fit is.

A fit belongs to a clip and an engine's version, not to a voice: voices with the same clip share it. It goes

    queued ─► running ─► done | kept_steered | failed

and any of the last three goes back to queued when a fit is asked for again. A service that makes a fit holds a claim on
it, which it must renew. A fit whose claim has expired is taken up by the next service that looks.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from voices.record import FitState, PublicFit
from voices.shared_list import SharedList

#: Folder of a fit's files: the clip's hash, the time at which the fit was asked for (hex), and a random token.
FIT_FOLDER_NAME = r"^fit_[0-9a-f]{32}\.([0-9a-f]{1,16})\.[0-9a-f]{16}$"
_HASH = r"^[0-9a-f]{32}$"


class Fit(BaseModel):
    """The fit of a clip.

    Attributes:
        clip: hash of the clip.
        engine: hash of the engine's name and version.
        asked_at: seconds since the epoch; the oldest fit is made first.
        asked_by: trace id of the request that asked; None if the service itself found that a fit was missing.
        folder: name of the folder of its files in the store's `fits`.
        step: steps made.
        steps: steps at most; 0 until it has begun.
        why: the reason, of kept_steered and failed.
        worker: token of the service that has the claim.
        until: end of the claim, in seconds since the epoch.
        taken: services that have begun or taken up the fit.
        result: folder of the fitted voice that requests use; a fit that is asked for again keeps it until its end.
        held_until: until then it is kept for a request that waits for it, though no voice has the clip; seconds since
            the epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    clip: str = Field(pattern=_HASH)
    engine: str = Field(pattern=_HASH)
    state: FitState = "queued"
    asked_at: float
    asked_by: str | None = None
    folder: str = Field(pattern=FIT_FOLDER_NAME)
    step: int = 0
    steps: int = 0
    why: str = ""
    worker: str | None = None
    until: float = 0.0
    taken: int = 0
    result: str | None = Field(None, pattern=FIT_FOLDER_NAME)
    held_until: float = 0.0

    @classmethod
    def asked(cls, clip: str, engine: str, now: float, by: str | None, before: Fit | None = None) -> Fit:
        """Return a queued fit. `before`: the one that it replaces, whose result stays in use."""
        return cls(
            clip=clip,
            engine=engine,
            asked_at=now,
            asked_by=by,
            folder=f"fit_{clip}.{int(now):x}.{secrets.token_hex(8)}",
            result=before.result if before else None,
        )

    @property
    def open(self) -> bool:
        """True if it is still to be made."""
        return self.state in ("queued", "running")

    def is_free(self, now: float) -> bool:
        """Tell whether a service may take it."""
        return self.state == "queued" or (self.state == "running" and self.until < now)

    def with_(self, **changes: object) -> Fit:
        """Return the fit with these attributes changed."""
        return self.model_copy(update=changes)

    def public(self) -> PublicFit:
        """Return the fit as the API shows it."""
        return PublicFit(state=self.state, step=self.step, steps=self.steps, why=self.why)


class _File(BaseModel):
    """One list as it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    token: str  #: makes this file different from every other
    fits: tuple[Fit, ...] = ()


@dataclass(frozen=True)
class FitList:
    """All fits at one moment."""

    fits: tuple[Fit, ...] = ()

    @cached_property
    def by_key(self) -> Mapping[tuple[str, str], Fit]:
        """The fits by clip and engine."""
        return {(fit.clip, fit.engine): fit for fit in self.fits}

    def putting(self, fit: Fit) -> FitList:
        """Return a list with this fit, in place of the one of the same clip and engine."""
        return FitList((*(old for old in self.fits if (old.clip, old.engine) != (fit.clip, fit.engine)), fit))

    def folders(self) -> set[str]:
        """Return the folders that the fits need."""
        return {folder for fit in self.fits for folder in (fit.folder, fit.result) if folder}


class FitCatalog(SharedList[FitList]):
    """The list, as one process sees it."""

    folder = "fit-catalog"
    noun = "fits"

    def empty(self) -> FitList:
        return FitList()

    def encode(self, value: FitList) -> bytes:
        return _File(token=secrets.token_hex(16), fits=value.fits).model_dump_json().encode()

    def decode(self, data: bytes) -> FitList:
        return FitList(_File.model_validate_json(data).fits)
