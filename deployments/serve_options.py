"""The options that every deployment of the graph has, unless a Serve config file says otherwise."""

from __future__ import annotations

from typing import Any, Protocol, cast

from ray import serve


class Service(Protocol):
    """A class that is deployed under its service's name."""

    service: str


def deployment(cls: type[Service], **options: Any) -> serve.Deployment:
    """Return a class as a Serve deployment. `options` go over the common ones.

    Requests wait in our own queues, where waiting is measured: Serve's limits stay above the ingress's.
    """
    common: dict[str, Any] = {
        "max_ongoing_requests": 256,
        "max_queued_requests": -1,
        "ray_actor_options": {"num_cpus": 0.25},
        "health_check_period_s": 3,
        "health_check_timeout_s": 3,
        "graceful_shutdown_timeout_s": 30,
    }
    return cast(serve.Deployment, serve.deployment(cls, name=cls.service, **(common | options)))
