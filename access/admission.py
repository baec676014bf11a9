"""What every request passes before the ingress does anything for it: the gate, then the caller's limits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from access import authorization
from access.authentication import Principal
from access.limiter_client import RateLimitClient
from access.settings import CallerLimits


class AccessControl:
    """`required`: whether keys are; `default_limits`: of callers whose key has none of its own."""

    def __init__(
        self,
        required: bool = False,
        counting: RateLimitClient | None = None,
        default_limits: CallerLimits = CallerLimits(),
    ) -> None:
        self.required = required
        self.counting = counting or RateLimitClient(None)
        self._default_limits = default_limits

    @asynccontextmanager
    async def enter(self, caller: Principal, method: str, path: str) -> AsyncIterator[None]:
        """Hold the caller's place while the request is under way, its answer included.

        Raises NotAuthorized, RoleMissing or RateLimited. What is open needs no key and counts against no limit: a
        probe must not fail because its caller is busy.
        """
        if self.required:
            authorization.check(caller, method, path)
        limits = caller.limits or self._default_limits
        if not limits.limited or not authorization.roles_for(method, path):
            yield
            return
        lease = await self.counting.enter(_name(caller), limits)
        try:
            yield
        finally:
            self.counting.leave(lease)

    def counters(self) -> dict[str, int]:
        return {f"access_{name}": n for name, n in self.counting.counters().items()}


def _name(caller: Principal) -> str:
    """Keys and addresses can't be taken for each other: a key's name has no blank."""
    return caller.key or f"at {caller.address}"
