"""Who wants to look, and at what: nginx asks this for every request, with the request's Authorization alone."""

from __future__ import annotations

import base64
import binascii
import time

from starlette.requests import Request
from starlette.responses import Response

from access.authentication import Authenticator
from access.token_bucket import TokenBucket

#: what a role lets see, the most first
SIGHTS = (("admin", "all"), ("view-traces", "all"), ("view-services", "services"))
CHALLENGE = {"WWW-Authenticate": 'Basic realm="traces", charset="UTF-8"'}


def sight(roles: frozenset[str]) -> str | None:
    """`all`, `services`, or nothing."""
    return next((seen for role, seen in SIGHTS if role in roles), None)


class Viewers:
    """By the keys of `callers`, each of which may ask so often. The answer to nginx is a status and headers: 204 with
    X-Viewer and X-Sight, 401 with a challenge that makes a browser ask, 403 with X-Viewer and X-Refused."""

    def __init__(self, callers: Authenticator, per_second: int, at_once: int) -> None:
        self._callers = callers
        self._limits = float(per_second), at_once
        self._buckets: dict[str, TokenBucket] = {}

    async def who(self, request: Request) -> Response:
        caller = self._callers.identify(
            {"authorization": f"Bearer {key_in(request.headers.get('authorization', ''))}"}, None
        )
        if caller.key is None:
            return Response(status_code=401, headers=CHALLENGE)
        seen = sight(caller.roles)
        said = {"X-Viewer": caller.key}
        if seen is None:
            return Response(status_code=403, headers=said | {"X-Refused": "role"})
        if not self._take(caller.key):
            return Response(status_code=403, headers=said | {"X-Refused": "rate"})
        return Response(status_code=204, headers=said | {"X-Sight": seen})

    def _take(self, viewer: str) -> bool:
        now = time.monotonic()
        bucket = self._buckets.setdefault(viewer, TokenBucket(*self._limits, now))
        return bucket.take(now)


def key_in(authorization: str) -> str:
    """The key of `Bearer KEY`, or of `Basic`, where it is the password and the user's name says nothing."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(token.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
