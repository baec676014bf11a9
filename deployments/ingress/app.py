"""The HTTP application behind the tracing middleware: its routes, and every error in our own shape."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from config.routes import SPEECH
from config.version import VERSION
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.routes import (
    batch,
    cosyvoice,
    dialects,
    generate,
    health,
    live,
    openai,
    pages,
    verify,
    voices,
)
from speech.errors import MethodNotAllowed, SpeechError, internal_error, path_not_found


def build(api: IngressApi) -> FastAPI:
    """Build the application of one ingress replica."""
    # FastAPI's own OpenTelemetry would wake up as soon as any library sets a global provider. A redirect to the path
    # without its last slash would quote the request's path and Host.
    app = FastAPI(
        title="Cosygraph",
        version=VERSION,
        description="Voice cloning as a Ray Serve graph; one request, one trace.",
        telemetry={"tracing": False},
        redirect_slashes=False,
        docs_url=None,  # pages.py has them, without scripts from elsewhere
        redoc_url=None,
    )

    for routes in (generate, openai, batch, live, voices, verify, cosyvoice, dialects, health, pages):
        routes.add(app, api)
    _answer_head(app)

    @app.exception_handler(SpeechError)
    async def speech_error(request: Request, error: SpeechError) -> Response:
        return _error_response(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        more = {"Allow": _methods(request)} if error.status_code == 405 else error.headers
        return _error_response(request, _translated(error), more)

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> Response:
        # Without it Starlette answers in a shape of its own before the middleware, which logs it, knows of the error.
        return _error_response(request, internal_error())

    @app.exception_handler(ClientDisconnect)
    async def client_left(request: Request, error: ClientDisconnect) -> None:
        raise asyncio.CancelledError from error

    return app


def _answer_head(app: FastAPI) -> None:
    """Answer HEAD wherever GET only reads; Serve's HTTP server leaves the body out."""
    for route in list(app.routes):
        if isinstance(route, APIRoute) and route.methods == {"GET"} and route.path not in SPEECH:
            app.add_api_route(
                route.path, route.endpoint, methods=["HEAD"], response_model=None, include_in_schema=False
            )


def _methods(request: Request) -> str:
    """Return the methods that a path takes; Starlette names those of the first of its routes alone."""
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
        return path_not_found()
    if error.status_code == 405:
        return MethodNotAllowed("This path does not take this method; GET /docs says which it takes.")
    return internal_error()


def _error_response(request: Request, error: SpeechError, headers: Mapping[str, str] | None = None) -> JSONResponse:
    context_of(request).error = error
    return JSONResponse(error.body(), error.status, {**(headers or {}), **error.headers()})
