"""Cross-origin requests: which web pages of other origins may call the API from a browser."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from config import routes
from deployments.settings import Cors
from speech.errors import SERVICE_HEADER
from speech.mark import HEADER

#: Headers of an answer that a page's script may read, beside the ones that any script may.
EXPOSED = ("X-Trace-Id", "X-Trace-Url", "X-Voice-Fit", "Retry-After", SERVICE_HEADER, HEADER)


def around(app: ASGIApp, settings: Cors) -> ASGIApp:
    """Wrap the whole ingress, its tracing included.

    A preflight is answered here, so it needs no key and makes no trace, whether or not an origin is allowed: a browser
    sends it by itself, and it carries no request of a user's. Without allowed origins every preflight is refused.
    """
    methods = {method for route in routes.ROUTES for method in route.methods}
    return CORSMiddleware(
        app,
        allow_origins=settings.allowed_origins,
        allow_methods=sorted(methods),
        allow_headers=["*"],  # API keys, trace contexts of several formats, and what client libraries add
        expose_headers=EXPOSED if settings.allowed_origins else (),
        max_age=settings.max_age_s,
    )
