"""Answers HTTP/1.0 clients without chunks, which HTTP/1.0 does not have (RFC 9112, section 7.1).

Serve's HTTP server frames every answer of unknown length in chunks, whatever the client's version. So an answer to such
a client is collected, and leaves whole with its length.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


def is_http10(scope: Scope) -> bool:
    """Tell whether the client speaks HTTP/1.0."""
    return bool(scope.get("http_version") == "1.0")


class WholeAnswers:
    """ASGI middleware around the application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http10 = scope["type"] == "http" and is_http10(scope)
        await self._app(scope, receive, _Collected(send) if http10 else send)


class _Collected:
    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and not any(
            name.lower() == b"content-length" for name, _ in message.get("headers", ())
        ):
            self._start = message
        elif self._start is not None and message["type"] == "http.response.body":
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                length = (b"content-length", str(len(self._body)).encode())
                await self._send({**self._start, "headers": [*self._start.get("headers", ()), length]})
                await self._send({"type": "http.response.body", "body": bytes(self._body)})
        else:
            await self._send(message)
