"""The pages of all languages as one ASGI application, below whatever prefix it is served."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse

from webui.offline import gr
from webui.page import Page
from webui.words import HTML_LANGUAGE, LANGUAGES, language_of

MAX_UPLOAD = "20mb"
CSS = (Path(__file__).parent / "page.css").read_text()
#: Fonts that the machine has: none is fetched.
FONTS = ("system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC",
         "WenQuanYi Micro Hei", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

#: Three spans of a trace; without one of its own the browser asks for /favicon.ico.
ICON = ("<link rel='icon' href=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
        "<path stroke='%231f7a8c' stroke-width='3' d='M1 3h10M4 8h7M7 13h8'/></svg>\">")


def build(api_url: str, zipkin_ui_url: str | None = None, api_docs_url: str | None = None) -> FastAPI:
    """One page a language at `/zh/` and `/en/`; `/` leads to the browser's own."""
    app = FastAPI(title="Cosygraph's page", docs_url=None, redoc_url=None, openapi_url=None,
                  telemetry={"tracing": False})

    @app.get("/")
    def by_browser(request: Request) -> RedirectResponse:
        language = language_of(request.headers.get("accept-language"))
        return RedirectResponse(f"{request.scope.get('root_path', '').rstrip('/')}/{language}/", 307,
                                {"Vary": "Accept-Language", "Cache-Control": "no-store"})

    for language in LANGUAGES:
        page = Page(language, api_url, zipkin_ui_url, api_docs_url).build()
        page.queue(api_open=False, default_concurrency_limit=None)
        gr.mount_gradio_app(app, page, f"/{language}", css=CSS, head=_head(language), theme=_theme(),
                            max_file_size=MAX_UPLOAD, run_history=False, footer_links=[], enable_monitoring=False,
                            ssr_mode=False, mcp_server=False, show_error=False, pwa=False)
    return app


def _head(language: str) -> str:
    """Gradio's own words (drop a file, record …) follow the browser's language; here they follow the page's."""
    name = HTML_LANGUAGE[language]
    return (f"<script>Object.defineProperty(navigator, 'language', {{get: () => '{name}'}});"
            f"Object.defineProperty(navigator, 'languages', {{get: () => ['{name}']}});"
            f"document.documentElement.lang = '{name}';</script>{ICON}")


def _theme() -> gr.themes.Base:
    return gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=FONTS, font_mono=MONO)
