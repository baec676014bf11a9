"""The settings of the watchdog, with their defaults."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from config.strict import StrictModel
from deployments.settings import Limits, Tracing
from speech.limits import MAX_TEXT


class WatchdogSettings(StrictModel):
    """Settings of the watchdog (docs/watchdog.md)."""

    api_url: str = "http://127.0.0.1:8000"
    """Base URL of the API as the watchdog's replica reaches it."""
    app_name: str = "cosygraph"
    """The graph's Serve application."""
    tracing: Tracing = Tracing()
    """Export of its own traces; all of them are kept."""
    check_every_s: float = Field(default=5.0, gt=0)
    """Period of the checks of readiness and replicas."""
    canary_every_s: float = Field(default=60.0, gt=0)
    """Period of the canary requests; while one fails, it is `check_every_s`."""
    canary_slow_s: float = Field(default=30.0, gt=0)
    """A good answer that takes longer counts as a failed check."""
    canary_within_s: float = Field(default=Limits().deadline_s + 5, gt=0)
    """Timeout of a canary request. It is longer than the graph's deadline, so that the graph can name the service that
    did not answer."""
    canary_text: str = Field(default="One.", min_length=1, max_length=MAX_TEXT)
    """The text of the canary request."""
    canary_dialect: str | None = None
    """Its dialect. Default: one that the engine speaks, English if possible."""
    canary_key_file: str | None = None
    """A file with the API key to send, if the graph requires keys."""
    failures: int = Field(default=3, ge=1)
    """Failed checks in a row before the watchdog acts."""
    successes: int = Field(default=3, ge=1)
    """Good checks of the first engine in a row before it gets the traffic back."""
    on_failure: Literal["restart", "watch"] = "restart"
    """`watch`: only report, and switch traffic."""
    restarts_at_most: int = Field(default=3, ge=0)
    """The most restarts of one service in `restarts_within_s`."""
    restarts_within_s: float = Field(default=3600.0, gt=0)
    """The period for `restarts_at_most`, in seconds."""
    backoff_s: float = Field(default=30.0, ge=0)
    """Pause after the first restart of a service; doubled with each further one."""

    @model_validator(mode="after")
    def _canary_is_one_of_the_checks(self) -> WatchdogSettings:
        if self.check_every_s > self.canary_every_s:
            raise ValueError("check_every_s must not be above canary_every_s: the canary is one of the checks")
        return self
