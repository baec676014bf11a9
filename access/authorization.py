"""Which role a route needs, and who is let through. The table is also in docs/api.md."""

from __future__ import annotations

from access.authentication import Principal
from access.keys import ROLES
from speech.errors import NotAuthorized, RoleMissing

#: Whoever reaches the service may ask these: probes have no keys, and nothing in them is anybody's.
OPEN = frozenset({"/", "/health", "/ready", "/docs", "/docs/oauth2-redirect", "/openapi.json", "/api/dialects"})

_SYNTHESIZE = frozenset({"synthesize"})
_VOICES = "/v1/audio/voices"
_BY_PATH = {
    "/api/generate": _SYNTHESIZE,
    "/v1/audio/speech": _SYNTHESIZE,
    "/v1/models": _SYNTHESIZE,
    "/inference_sft": _SYNTHESIZE,
    "/inference_zero_shot": _SYNTHESIZE,
    "/inference_cross_lingual": _SYNTHESIZE,
    "/inference_instruct": _SYNTHESIZE,
    "/inference_instruct2": _SYNTHESIZE,
}
_READING = frozenset({"GET", "HEAD"})


def roles_for(method: str, path: str) -> frozenset[str]:
    """The roles of which one is needed; none at all for what is open.

    A path that is not in the table takes any key, so that nothing is open by having been forgotten, and strangers
    don't learn what there is.
    """
    if path in OPEN:
        return frozenset()
    if path == _VOICES or path.startswith(f"{_VOICES}/"):
        return frozenset({"voices"}) | (_SYNTHESIZE if method in _READING else frozenset())
    if path.startswith("/v1/models/"):
        return _SYNTHESIZE
    return _BY_PATH.get(path, ROLES)


def check(caller: Principal, method: str, path: str) -> None:
    """Raise NotAuthorized where no key that counts was shown, RoleMissing where it is not for this. `admin` may do
    everything."""
    needed = roles_for(method, path)
    if not needed:
        return
    if caller.key is None:
        raise _who_are_you(caller)
    if "admin" not in caller.roles and not needed & caller.roles:
        raise RoleMissing(
            f"This key may not do this: it takes the role {' or '.join(sorted(needed))}. Ask whoever "
            "gave you the key for one with that role.",
            code="role_missing",
        )


def _who_are_you(caller: Principal) -> NotAuthorized:
    if caller.refused == "expired":
        return NotAuthorized("This key has expired; ask whoever gave it to you for a new one.", code="key_expired")
    if caller.refused == "unknown":
        return NotAuthorized(
            "This key is not known here, or no longer; check that it was sent whole, as `Authorization: Bearer KEY`.",
            code="key_unknown",
        )
    return NotAuthorized(
        "A key is required: send it as `Authorization: Bearer KEY` (or `X-API-Key: KEY`); whoever "
        "runs this service gives them out.",
        code="key_missing",
    )
