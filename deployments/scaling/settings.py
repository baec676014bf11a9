"""The settings of the scaling policy, with their defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from config.strict import StrictModel


class ScalingSettings(StrictModel):
    """Settings of the scaling policy: `policy_kwargs` of the application's `autoscaling_policy` (docs/scaling.md)."""

    wait_s: float = Field(default=0.5, gt=0)
    """What a request may wait in all queues together, 19 times of 20, beyond the time that it takes alone."""
    drain_s: float = Field(default=10.0, gt=0)
    """Seconds in which a queue that has built up is to be gone, once new replicas run."""
    hold_s: float = Field(default=60.0, ge=0)
    """Seconds for which fewer replicas must have been enough before any is stopped."""
    idle_s: float = Field(default=600.0, gt=0)
    """Seconds without a request after which a service with `min_replicas: 0` is stopped."""
    startup_s: float = Field(default=15.0, gt=0)
    """Seconds that a replica takes to start, until some were seen to start."""
    cost: dict[str, Annotated[float, Field(gt=0)]] = {}
    """What a replica costs, by service; 1 if it is not named. Of two services, the cheaper one is grown first."""
