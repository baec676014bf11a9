"""Decide for nginx who may look at traces, and how much of them. nginx sends it each request's Authorization header."""

from __future__ import annotations

import base64
import binascii
import time

from starlette.requests import Request
from starlette.responses import Response

from access.authentication import Authenticator
from access.token_bucket import TokenBucket

#: (role, what it lets a key see), the widest first
SCOPES = (("admin", "all"), ("view-traces", "all"), ("view-services", "services"))
CHALLENGE = {"WWW-Authenticate": 'Basic realm="traces", charset="UTF-8"'}


def scope(roles: frozenset[str]) -> str | None:
    """Return what `roles` let a key see: `all`, `services` (no tags), or None."""
    return next((scope for role, scope in SCOPES if role in roles), None)


class ViewerAuth:
    """Answers nginx's question about a request, by its key.

    The answer is a status and headers: 204 with X-Viewer and X-Scope; 401 with a challenge that makes a browser ask
    for a key; 403 with X-Viewer and X-Refused, which is `role` or `rate`.

    Args:
        authenticator: Knows the keys.
        per_second: Requests a second that each key may make.
        at_once: Requests that a key may make at once after a pause.
    """

    def __init__(self, authenticator: Authenticator, per_second: int, at_once: int) -> None:
        self._authenticator = authenticator
        self._limits = float(per_second), at_once
        self._buckets: dict[str, TokenBucket] = {}

    async def check(self, request: Request) -> Response:
        caller = self._authenticator.identify(
            {"authorization": f"Bearer {key_in(request.headers.get('authorization', ''))}"}, None
        )
        if caller.key is None:
            return Response(status_code=401, headers=CHALLENGE)
        seen = scope(caller.roles)
        headers = {"X-Viewer": caller.key}
        if seen is None:
            return Response(status_code=403, headers=headers | {"X-Refused": "role"})
        if not self._take(caller.key):
            return Response(status_code=403, headers=headers | {"X-Refused": "rate"})
        return Response(status_code=204, headers=headers | {"X-Scope": seen})

    def _take(self, viewer: str) -> bool:
        now = time.monotonic()
        bucket = self._buckets.setdefault(viewer, TokenBucket(*self._limits, now))
        return bucket.take(now)


def key_in(authorization: str) -> str:
    """Return the key of `Bearer KEY` or of `Basic`, where it is the password and the user's name counts for nothing."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(token.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
