"""`GET /`, and the API's documentation at `/docs` and `/redoc`, whose scripts this server has itself.

The scripts are Swagger UI's (Apache-2.0) and ReDoc's (MIT), as the package `fastapi-offline` (MIT) carries them. The
pages ask no other server for anything: a Content-Security-Policy tells the browser so.
"""

from __future__ import annotations

import asyncio
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from config.version import VERSION
from deployments.ingress import openapi
from deployments.ingress.ingress_api import IngressApi
from speech.errors import path_not_found

OPENAPI = "/openapi.json"
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
    "favicon.png": "image/png",
}
#: ReDoc's script shows its maker's logo from the maker's server, and has no setting to leave it out.
_FOREIGN_LOGO, _NO_IMAGE = b"https://cdn.redoc.ly/redoc/logo-mini.svg", b"data:image/svg+xml,"
#: Both pages have a script and styles in their HTML; ReDoc starts a worker from a blob.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; worker-src blob:; frame-ancestors 'self'"
)


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the routes."""
    folder = resources.files("fastapi_offline") / "static"

    @app.get("/", response_model=None, summary="Where things are; browsers go to the web page", **openapi.INDEX)
    async def index(request: Request) -> Response:
        prefix = _prefix(request)
        page = api.config.web_page_url
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(page or f"{prefix}/docs", 307, {"Vary": "Accept", "Cache-Control": "no-store"})
        places = {"docs": "/docs", "openapi": OPENAPI, "health": "/health", "ready": "/ready"}
        return JSONResponse(
            {"service": "cosygraph", "version": VERSION}
            | {name: prefix + path for name, path in places.items()}
            | ({"web_page": page} if page else {}),
            headers={"Vary": "Accept"},
        )

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> HTMLResponse:
        assets = _assets(request)
        return _page(
            get_swagger_ui_html(
                openapi_url=_prefix(request) + OPENAPI,
                title=app.title,
                swagger_js_url=f"{assets}/swagger-ui-bundle.js",
                swagger_css_url=f"{assets}/swagger-ui.css",
                swagger_favicon_url=f"{assets}/favicon.png",
            )
        )

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        assets = _assets(request)
        return _page(
            get_redoc_html(
                openapi_url=_prefix(request) + OPENAPI,
                title=app.title,
                redoc_js_url=f"{assets}/redoc.standalone.js",
                redoc_favicon_url=f"{assets}/favicon.png",
                with_google_fonts=False,
            )
        )

    @app.get("/docs/assets/{file}", include_in_schema=False)
    async def asset(file: str) -> Response:
        if file not in ASSETS:
            raise path_not_found()
        # Not for long: the next version has its files at the same addresses.
        headers = {"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"}
        content = await asyncio.to_thread((folder / file).read_bytes)
        return Response(content.replace(_FOREIGN_LOGO, _NO_IMAGE), media_type=ASSETS[file], headers=headers)


def _prefix(request: Request) -> str:
    prefix: str = request.scope.get("root_path", "")
    return prefix.rstrip("/")


def _assets(request: Request) -> str:
    return f"{_prefix(request)}/docs/assets"


def _page(page: HTMLResponse) -> HTMLResponse:
    page.headers["Content-Security-Policy"] = POLICY
    return page
