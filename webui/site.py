"""Builds the pages of all languages as one ASGI application, below whatever prefix it is served."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, Response

from speech.limits import MAX_CLIP_BYTES
from webui.html import InLanguage
from webui.offline import gr
from webui.page import Page
from webui.takes import TakeFiles
from webui.words import LANGUAGES, language_of

CSS = (Path(__file__).parent / "page.css").read_text()
#: Fonts that the machine has: none is fetched.
FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "PingFang SC",
    "Microsoft YaHei",
    "Noto Sans CJK SC",
    "WenQuanYi Micro Hei",
    "sans-serif",
)
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")


def build(api_url: str, zipkin_ui_url: str | None = None, api_docs_url: str | None = None) -> FastAPI:
    """Build one page a language, at `/zh/` and `/en/`; `/` leads to the browser's own. `/takes/` has their speech."""
    app = FastAPI(
        title="Cosygraph's page", docs_url=None, redoc_url=None, openapi_url=None, telemetry={"tracing": False}
    )

    @app.get("/")
    def by_browser(request: Request) -> RedirectResponse:
        language = language_of(request.headers.get("accept-language"))
        return RedirectResponse(
            f"{request.scope.get('root_path', '').rstrip('/')}/{language}/",
            307,
            {"Vary": "Accept-Language", "Cache-Control": "no-store"},
        )

    files = TakeFiles()
    files.sweep_by_itself()

    @app.get("/takes/{token}.{extension}")
    def take(token: str, extension: str) -> Response:
        found = files.file(token, extension)
        if found is None:
            return PlainTextResponse("This take is not here, or no longer.", 404, {"Cache-Control": "no-store"})
        path, media_type = found
        return FileResponse(path, media_type=media_type, headers={"Cache-Control": "private, no-cache"})

    for language in LANGUAGES:
        page = Page(language, api_url, files, zipkin_ui_url, api_docs_url).build()
        page.queue(api_open=False, default_concurrency_limit=None)
        gr.mount_gradio_app(
            app,
            page,
            f"/{language}",
            css=CSS,
            theme=_theme(),
            max_file_size=MAX_CLIP_BYTES,
            run_history=False,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            show_error=False,
            pwa=False,
        )
        app.add_middleware(InLanguage, language=language)
    return app


def _theme() -> gr.themes.Base:
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=MONO)
