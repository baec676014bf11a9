"""The settings of access: key file, required keys, limits."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from config.strict import StrictModel


class CallerLimits(StrictModel):
    """Limits of one caller over all ingress replicas together. Absent: no limit."""

    requests_per_minute: float | None = Field(default=None, gt=0, le=1_000_000)
    """Requests a minute in the long run."""
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Requests at once after a pause. Default: the requests of ten seconds."""
    concurrent: int | None = Field(default=None, ge=1, le=100_000)
    """Requests under way at a time."""

    @model_validator(mode="after")
    def _burst_has_a_rate(self) -> CallerLimits:
        if self.burst is not None and self.requests_per_minute is None:
            raise ValueError("burst has no effect without requests_per_minute: set that too, or leave burst out")
        return self

    @property
    def limited(self) -> bool:
        """True if there is any limit."""
        return self.requests_per_minute is not None or self.concurrent is not None

    @property
    def most_at_once(self) -> int:
        """The size of the rate's token bucket, in requests."""
        return self.burst or max(1, round((self.requests_per_minute or 0) / 6))


class Access(StrictModel):
    """API keys and limits of callers (docs/access.md)."""

    keys_file: str | None = None
    """Path of the key file; docs/access.md has its format."""
    required: Literal["auto", True, False] = "auto"
    """Require a key for every request. `auto`: unless Serve's HTTP host is this machine's loopback."""
    default_limits: CallerLimits = CallerLimits()
    """Limits of every caller whose key has none of its own."""
