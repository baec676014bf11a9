"""Authorization: the role that a route needs, and the check that every request passes before the ingress works on it.

The roles of each route stand in `config/routes.py`; docs/api.md shows them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from access.authentication import Principal
from access.keys import ROLES
from access.limiter_client import RateLimitClient
from access.settings import CallerLimits
from config import routes
from speech.errors import NotAuthorized, RoleMissing


class AccessControl:
    """Authorizes each request and holds the caller to its limits.

    Args:
        required: a key is needed for every route that is not open.
        rate_limits: counts requests for callers with limits; None counts in this process alone.
        default_limits: the limits of callers whose key has none of its own.
    """

    def __init__(
        self,
        required: bool = False,
        rate_limits: RateLimitClient | None = None,
        default_limits: CallerLimits = CallerLimits(),
    ) -> None:
        self.required = required
        self.rate_limits = rate_limits or RateLimitClient(None)
        self._default_limits = default_limits

    @asynccontextmanager
    async def enter(self, caller: Principal, method: str, path: str) -> AsyncIterator[None]:
        """Hold the caller's place until the response is complete.

        An open route needs no key and counts against no limit: a probe must not fail because its caller is busy.

        Raises:
            NotAuthorized: a key is required, and the caller sent none that is valid.
            RoleMissing: the key has no role for this route.
            RateLimited: the caller has reached one of its limits.
        """
        if self.required:
            authorize(caller, method, path)
        limits = caller.limits or self._default_limits
        if not limits.limited or not roles_for(method, path):
            yield
            return
        async with self._counted(caller, limits):
            yield

    @asynccontextmanager
    async def enter_inner(self, caller: Principal, *, own_place: bool) -> AsyncIterator[None]:
        """Count a request that came inside another one, whose caller has been authorized.

        Args:
            caller: the caller of both.
            own_place: True: it holds a place of its own among the caller's concurrent requests. False: it has the
                place of the request that it came in, so that only the rate counts it.

        Raises:
            RateLimited: the caller has reached one of its limits.
        """
        limits = caller.limits or self._default_limits
        if not own_place:
            limits = limits.model_copy(update={"concurrent": None})
        if not limits.limited:
            yield
            return
        async with self._counted(caller, limits):
            yield

    @asynccontextmanager
    async def _counted(self, caller: Principal, limits: CallerLimits) -> AsyncIterator[None]:
        lease = await self.rate_limits.acquire(_limited_as(caller), limits)
        try:
            yield
        finally:
            self.rate_limits.release(lease)

    def counters(self) -> dict[str, int]:
        """The counters of the rate limits, with the prefix `access_`."""
        return {f"access_{name}": n for name, n in self.rate_limits.counters().items()}


def roles_for(method: str, path: str) -> frozenset[str]:
    """The roles of which the caller needs one; empty for an open route.

    A path or method that is not in the table takes any key. So no route is open by mistake, and callers without a key
    can't find out which paths exist.
    """
    found = routes.at(path)
    if found and not any(route.roles for route in found):
        return frozenset()
    roles = [route.roles for route in found if route.takes(method)]
    if found and not roles:  # the application answers 405
        roles = [route.roles for route in found]
        return frozenset.intersection(*roles) or ROLES
    return roles[0] if roles else ROLES


def authorize(caller: Principal, method: str, path: str) -> None:
    """Check that the caller may use this route. The role `admin` may use every route.

    Raises:
        NotAuthorized: the caller sent no valid key.
        RoleMissing: the key has none of the roles.
    """
    needed = roles_for(method, path)
    if not needed:
        return
    if caller.key is None:
        raise _not_authorized(caller)
    if "admin" not in caller.roles and not needed & caller.roles:
        raise RoleMissing(
            f"This key may not do this: it needs the role {' or '.join(sorted(needed))}. Ask the operator of this "
            "service for a key with that role.",
            code="role_missing",
        )


def _not_authorized(caller: Principal) -> NotAuthorized:
    if caller.refused == "expired":
        return NotAuthorized(
            "This key has expired. Ask the operator of this service for a new one.", code="key_expired"
        )
    if caller.refused == "unknown":
        return NotAuthorized(
            "This key is not known here, or no longer. Check that it was sent whole, as `Authorization: Bearer KEY`.",
            code="key_unknown",
        )
    return NotAuthorized(
        "A key is required. Send it as `Authorization: Bearer KEY` (or `X-API-Key: KEY`); the operator of this "
        "service gives out keys.",
        code="key_missing",
    )


def _limited_as(caller: Principal) -> str:
    """The caller's name in the rate limiter. A key's name has no blank, so no address can be taken for a key."""
    return caller.key or f"at {caller.address}"
