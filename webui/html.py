"""Puts Gradio's HTML into the page's language.

Gradio's own words (drop a file, record …) follow the browser's language. They read it before any script of ours runs,
so the document itself says which language it is.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.words import HTML_LANGUAGE, TEXTS

#: Before Gradio's own scripts: the page's first event reads the form that was kept.
_FORM = (Path(__file__).parent / "form.js").read_text()

#: Three spans of a trace; without an icon of the page's own the browser asks for /favicon.ico.
ICON = (
    "<link rel='icon' href=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>"
    "<path stroke='%231f7a8c' stroke-width='3' d='M1 3h10M4 8h7M7 13h8'/></svg>\">"
)


def head(language: str) -> bytes:
    name = HTML_LANGUAGE[language]
    return (
        f"<script>Object.defineProperty(navigator, 'language', {{get: () => '{name}'}});"
        f"Object.defineProperty(navigator, 'languages', {{get: () => ['{name}']}});{_FORM}</script>{ICON}"
        # The page is empty until Gradio's scripts have come: seconds on a slow line.
        "<style>#coming { padding: 2rem; } body:has(.gradio-container) #coming { display: none; }</style>"
    ).encode()


def coming(language: str) -> bytes:
    """Return what stands in the page until it is built."""
    return f'<p id="coming" role="status">Cosygraph · {escape(TEXTS[language]["coming"])}</p>'.encode()


class InLanguage:
    """Wraps one language's page as ASGI middleware: `head` goes to the beginning of the document's own."""

    def __init__(self, app: ASGIApp, language: str) -> None:
        self._app = app
        self._language = language

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].endswith(f"/{self._language}/"):
            await self._app(scope, receive, send)
            return
        # Gradio would compress the document.
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: Message | None = None
        body = b""

        async def changed(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":  # what is a server's own business
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body", False):
                return
            whole = body.replace(b"<head>", b"<head>" + head(self._language), 1)
            whole = whole.replace(b"<gradio-app", coming(self._language) + b"<gradio-app", 1)
            assert start is not None, "ASGI sends the start before the body"
            named = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            await send({**start, "headers": [*named, (b"content-length", str(len(whole)).encode())]})
            await send({"type": "http.response.body", "body": whole})

        await self._app({**scope, "headers": headers}, receive, changed)
