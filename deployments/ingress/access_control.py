"""The `access` room behind Serve: what the HTTP server listens on, and the limiter as a deployment's handle."""

from __future__ import annotations

import logging

from ray import serve
from ray.serve.handle import DeploymentHandle

from access.admission import AccessControl
from access.authentication import Authenticator
from access.limiter_client import RateLimitClient
from access.rate_limiter import Refusal
from access.required import is_loopback, keys_required
from access.settings import Access, CallerLimits

log = logging.getLogger("ray.serve")


def entrance(access: Access, callers: Authenticator, limiter: DeploymentHandle | None) -> AccessControl:
    """For one ingress replica. Raises ValueError where it must not start: open to the network and without keys."""
    host = http_host()
    required = keys_required(access, host, callers.known)
    if not required and not is_loopback(host):
        log.warning("open to the network (%s), and no key is asked for: access.required is false", host)
    return AccessControl(
        required, RateLimitClient(RemoteLimiter(limiter) if limiter is not None else None), access.default_limits
    )


def http_host() -> str | None:
    """What Serve's HTTP server listens on, as its controller knows it; None where it doesn't say.

    Serve has no public call for it. Whatever changes there makes this None, and so keys required.
    """
    try:
        return serve.context._get_global_client().http_config.host
    except Exception as error:
        log.error("what the HTTP server listens on can't be found out (%s)", type(error).__name__)
        return None


class RemoteLimiter:
    """access/limiter.py behind a handle. Each look-up of a method makes a new handle, so once is enough."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._enter, self._leave, self._renew = handle.enter.remote, handle.leave.remote, handle.renew.remote

    async def enter(self, caller: str, limits: CallerLimits, lease: str) -> Refusal | None:
        return await self._enter(caller, limits, lease)

    async def leave(self, caller: str, lease: str) -> None:
        await self._leave(caller, lease)

    async def renew(self, held: list[tuple[str, str]]) -> int:
        return await self._renew(held)
