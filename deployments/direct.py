"""Stage calls without Serve's accept-or-reject handshake.

Serve makes every handle call a stream of two items: "accepted", then the result. The handshake enforces
`max_ongoing_requests`, which this graph keeps above what its ingress admits, so the answer is always the same; and the
stream costs more than the call. One flag of the router decides between the two ways, and Serve sets it from nothing
that a user can configure. Where a release has no such flag, calls go the usual way.
"""

from __future__ import annotations

import logging

from ray.serve.handle import DeploymentHandle

log = logging.getLogger("ray.serve")
FLAG = "_enable_strict_max_ongoing_requests"


def without_handshake(handle: DeploymentHandle) -> bool:
    """Set up `handle` for plain calls; True where it worked. Call it on the event loop that makes the calls."""
    if not handle.is_initialized:
        handle._init()
    router = getattr(handle._router, "_asyncio_router", None)
    if not hasattr(router, FLAG):
        log.warning("this release of Ray Serve has no %s: stage calls keep the handshake and cost more", FLAG)
        return False
    setattr(router, FLAG, False)
    return True
