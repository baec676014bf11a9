"""What an operator sets: whether keys are required, where they are, and what a caller may take."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from config.strict import StrictModel


class CallerLimits(StrictModel):
    """What one caller may take of all ingress replicas together; None is no limit."""

    requests_per_minute: float | None = Field(None, gt=0, le=1_000_000)
    burst: int | None = Field(None, ge=1, le=1_000_000)  #: at once after a pause; None: what ten seconds bring
    concurrent: int | None = Field(None, ge=1, le=100_000)  #: requests under way at a time

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> CallerLimits:
        if self.burst is not None and self.requests_per_minute is None:
            raise ValueError("burst says nothing without requests_per_minute; set that too, or leave burst out")
        return self

    @property
    def limited(self) -> bool:
        return self.requests_per_minute is not None or self.concurrent is not None

    @property
    def most_at_once(self) -> int:
        """Of a rate: the bucket's size in requests."""
        return self.burst or max(1, round((self.requests_per_minute or 0) / 6))


class Access(StrictModel):
    """`access` in the graph's config."""

    keys_file: str | None = None  #: docs/access.md has its format
    required: Literal["auto", True, False] = "auto"  #: auto: where Serve's HTTP host isn't this machine's loopback
    default_limits: CallerLimits = CallerLimits()  #: of every caller whose key has none of its own; off by default
