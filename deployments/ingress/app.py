"""The HTTP application behind the gateway: its routes, and every error in our own shape."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from deployments.ingress import openapi
from deployments.ingress.routes import cosyvoice, generate, openai, voices
from speech.errors import InternalError, MethodNotAllowed, NotFound, SpeechError


def build(api) -> FastAPI:
    """`api`: the ingress replica (`deployments.ingress.deployment.CosyVoice3Api`)."""
    # FastAPI's own OpenTelemetry would wake up as soon as anybody sets a global provider. A redirect to where a slash
    # less is would quote the request's path and Host.
    app = FastAPI(
        title="Cosygraph",
        description="Voice cloning as a Ray Serve graph; one request, one trace.",
        telemetry={"tracing": False},
        redirect_slashes=False,
    )

    for routes in (generate, openai, voices, cosyvoice):
        routes.add(app, api)

    @app.get(
        "/api/dialects",
        summary="Dialects and languages, and which of them the running engine can speak",
        **openapi.DIALECTS,
    )
    async def dialects(request: Request):
        return await api.dialects(request.state.run)

    @app.get("/health", summary="The ingress lives", **openapi.HEALTH)
    async def health():
        return {"status": "ok"}

    @app.get("/ready", summary="Every stage has a replica that answers", **openapi.READY)
    async def ready():
        return await api.ready()

    @app.exception_handler(SpeechError)
    async def speech_error(request: Request, error: SpeechError):
        return _answer(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException):
        more = {"Allow": _methods(request)} if error.status_code == 405 else error.headers
        return _answer(request, _translated(error), more)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception):
        # Without it Starlette answers in a shape of its own before the gateway, which logs it, knows of the error.
        return _answer(
            request,
            InternalError("The service failed in a way it should not have; its log says where, under this trace's id."),
        )

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect):
        raise asyncio.CancelledError from error

    return app


def _methods(request: Request) -> str:
    """What a path takes; Starlette names the methods of the first of its routes alone."""
    return ", ".join(
        sorted(
            {
                method
                for route in request.app.routes
                if route.matches(request.scope)[0] is Match.PARTIAL
                for method in route.methods
            }
        )
    )


def _translated(error: HTTPException) -> SpeechError:
    if error.status_code == 404:
        return NotFound("There is nothing at this path; GET /docs lists what there is.")
    if error.status_code == 405:
        return MethodNotAllowed("This path does not take this method; GET /docs says which it takes.")
    return InternalError("The service failed in a way it should not have.")


def _answer(request: Request, error: SpeechError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    request.state.run.error = error
    return JSONResponse(error.body(), error.status, {**(headers or {}), **error.headers()})
