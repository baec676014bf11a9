"""The watchdog's settings, all in one place."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from config.strict import StrictModel
from deployments.settings import Tracing


class WatchdogSettings(StrictModel):
    api_url: str = "http://127.0.0.1:8000"  #: base URL of the API as the replica reaches it
    app_name: str = "cosygraph"  #: the graph's Serve application
    tracing: Tracing = Tracing()  #: where its own traces go; all of them are kept
    check_every_s: float = Field(5.0, gt=0)  #: between looks at readiness and replicas
    canary_every_s: float = Field(60.0, gt=0)  #: between canaries; while one fails, `check_every_s`
    canary_slow_s: float = Field(30.0, gt=0)  #: a good answer that takes longer is a failed check all the same
    #: how long it is waited for: longer than the graph's own deadline, so that the graph says who did not answer
    canary_within_s: float = Field(65.0, gt=0)
    canary_text: str = Field("One.", min_length=1, max_length=200)
    canary_dialect: str | None = None  #: default: one that the engine speaks, English where it can
    canary_key_file: str | None = None  #: holds the API key to send, where the graph asks for one
    failures: int = Field(3, ge=1)  #: in a row, before anything is done
    successes: int = Field(3, ge=1)  #: in a row on the first engine, before traffic goes back to it
    on_failure: Literal["restart", "watch"] = "restart"  #: `watch` only tells, and switches traffic
    restarts_at_most: int = Field(3, ge=0)  #: of one service, in `restarts_within_s`
    restarts_within_s: float = Field(3600.0, gt=0)
    backoff_s: float = Field(30.0, ge=0)  #: after the first restart of a service; doubled with each one more

    @model_validator(mode="after")
    def _once_in_time(self) -> WatchdogSettings:
        if self.check_every_s > self.canary_every_s:
            raise ValueError("check_every_s must not be above canary_every_s: the canary is one of the checks")
        return self
