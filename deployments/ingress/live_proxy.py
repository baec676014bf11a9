"""The proxy's part in a WebSocket session: back pressure, and the end of a session whose ingress replica is lost.

Serve's proxy answers a handshake that it can't pass on as if it were a plain request, which a WebSocket's server takes
for a defect. And a connection whose replica dies it just drops. Here both get our error and a trace.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.ingress import live_flow, live_messages
from deployments.ingress.live_flow import ProxyFlow
from deployments.safe_traceback import safe_traceback
from speech.errors import SpeechError

log = logging.getLogger("ray.serve")

LOST = 1012  #: RFC 6455's registry: the service restarts

#: Writes a trace for a session: its error, the session's id (None before it has one); returns the trace's id.
Trace = Callable[[SpeechError, str | None], str]


async def relay(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, error: Callable[[int | None], SpeechError], trace: Trace
) -> None:
    """Pass one WebSocket on to Serve's proxy.

    Args:
        app: Serve's proxy.
        scope: the WebSocket's.
        receive: from the client.
        send: to the client.
        error: the error for the proxy's own status; None where it has none, because the replica was lost.
        trace: speaks for the ingress.
    """
    flow = ProxyFlow(receive, send)
    answer = _Answer(flow.send)
    try:
        await app({**scope, live_flow.KEY: True}, answer.receiving(flow.receive), answer.send)
    except Exception as failure:  # Serve's; what it says could quote the request
        log.error("the proxy failed: %s", safe_traceback(failure))
    finally:
        flow.close()
    if flow.gone or answer.left or answer.ended:
        return
    problem = error(answer.status)
    trace_id = trace(problem, flow.session_id)
    if answer.accepted:
        event = live_messages.error(problem, trace_id=trace_id)
        await flow.send({"type": "websocket.send", "text": live_messages.written(event)})
        await flow.send({"type": "websocket.close", "code": LOST, "reason": "lost"})
        return
    body = json.dumps(problem.body(), ensure_ascii=False).encode()
    headers = {"content-type": "application/json", "x-trace-id": trace_id, **problem.headers()}
    found = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": found})
    await send({"type": "websocket.http.response.body", "body": body})


class _Answer:
    """Watches what becomes of a WebSocket; the proxy's own answers are held back."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None  #: of the proxy's own answer
        self.accepted = self.ended = self.left = False

    def receiving(self, receive: Receive) -> Receive:
        async def watched() -> Message:
            message = await receive()
            self.left = self.left or message["type"] == "websocket.disconnect"
            return message

        return watched

    async def send(self, message: Message) -> None:
        kind: Any = message["type"]
        if kind.startswith("http.response"):
            self.status = message.get("status", self.status)
            return
        self.accepted = self.accepted or kind == "websocket.accept"
        self.ended = self.ended or kind == "websocket.close" or kind.startswith("websocket.http.response")
        await self._send(message)
