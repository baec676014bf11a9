"""`GET /api/dialects`: dialects and languages, and which of them the engine in use can speak."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from deployments.ingress import openapi
from deployments.ingress.context import RequestContext
from deployments.ingress.ingress_api import IngressApi, context_of


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the route to the application."""

    @app.get(
        "/api/dialects",
        summary="Dialects and languages, and which of them the running engine can speak",
        **openapi.DIALECTS,
    )
    async def dialects(request: Request) -> Response:
        return _dialects(api, context_of(request))


def _dialects(api: IngressApi, ctx: RequestContext) -> JSONResponse:
    engine = api.engine_for(ctx).capabilities
    return JSONResponse(
        {
            "engine": {
                "name": engine.name,
                "version": engine.version,
                "notice": engine.notice,
                "modes": sorted(engine.modes),
                "sample_rate": engine.sample_rate,
                "reference_seconds": list(engine.reference_seconds),
                "fits_voices": engine.fits_voices,
                "mixes_voices": engine.mixes_voices,
                "live_text": engine.live_text,
                "timestamps": list(engine.timestamps),
            },
            "languages": sorted({dialect.language for dialect in api.registry if dialect.code in engine.dialects}),
            "dialects": api.registry.public(engine.dialects),
        }
    )
