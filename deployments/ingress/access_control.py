"""Puts the `access` room behind Serve: the address that is listened on, and the limiter as a deployment's handle."""

from __future__ import annotations

import logging
from typing import Any

from ray.serve.handle import DeploymentHandle

from access.authentication import Authenticator
from access.authorization import AccessControl
from access.limiter_client import RateLimitClient
from access.rate_limiter import Refusal
from access.required import is_loopback, keys_required
from access.settings import Access, CallerLimits
from deployments import ray_internals

log = logging.getLogger("ray.serve")


def for_replica(access: Access, authenticator: Authenticator, limiter: DeploymentHandle[Any] | None) -> AccessControl:
    """Build the access control of one ingress replica.

    Raises:
        ValueError: the replica must not start: it is open to the network and has no keys.
    """
    host = http_host()
    required = keys_required(access, host, authenticator.known)
    if not required and not is_loopback(host):
        log.warning("open to the network (%s), and no key is asked for: access.required is false", host)
    return AccessControl(
        required, RateLimitClient(RemoteLimiter(limiter) if limiter is not None else None), access.default_limits
    )


def http_host() -> str | None:
    """Return the address that Serve's HTTP server listens on; None if Serve doesn't say, and so keys are required."""
    try:
        return ray_internals.serve_http_host()
    except Exception as error:
        log.error("what the HTTP server listens on can't be found out (%s)", type(error).__name__)
        return None


class RemoteLimiter:
    """Calls `access/limiter.py` through a handle. Each look-up of a method makes a new handle, so once is enough."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._acquire, self._release = handle.acquire.remote, handle.release.remote
        self._renew = handle.renew.remote

    async def acquire(self, caller: str, limits: CallerLimits, lease: str) -> Refusal | None:
        """Call `Limiter.acquire`."""
        refusal: Refusal | None = await self._acquire(caller, limits, lease)
        return refusal

    async def release(self, caller: str, lease: str) -> None:
        """Call `Limiter.release`."""
        await self._release(caller, lease)

    async def renew(self, held: list[tuple[str, str]]) -> int:
        """Call `Limiter.renew`."""
        count: int = await self._renew(held)
        return count
