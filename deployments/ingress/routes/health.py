"""`GET /health` and `GET /ready`: the ingress lives; every stage has a replica that answers."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import Response

from config.version import VERSION
from deployments.ingress import openapi
from deployments.ingress.ingress_api import IngressApi


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the routes to the application."""

    @app.get("/health", response_model=None, summary="The ingress lives", **openapi.HEALTH)
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": VERSION}

    @app.get("/ready", summary="Every stage has a replica that answers", **openapi.READY)
    async def ready() -> Response:
        return await api.ready()
