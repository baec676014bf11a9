"""`WS /v1/audio/speech/stream`: speech for text while it is written, as vLLM-Omni's streaming clients ask for it.

docs/live.md has the messages. OpenAPI can't describe a WebSocket: it has the answer to a plain GET, which says so.
"""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI, WebSocket
from fastapi.responses import JSONResponse

from config.routes import LIVE
from deployments.ingress.ingress_api import IngressApi
from deployments.ingress.live_handshake import Handshake
from deployments.ingress.live_session import LiveSession
from deployments.ingress.openapi import LIVE_HANDSHAKE
from speech.errors import UpgradeRequired


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the WebSocket, and the answer to those who ask for a page there."""

    @app.websocket(LIVE)
    async def live(websocket: WebSocket) -> None:
        await LiveSession(websocket, cast(Handshake, websocket.state.handshake), api).run()

    # Without a status FastAPI would describe an answer of 200, which this path never gives.
    @app.get(
        LIVE,
        summary="Speak a text while it is written, over a WebSocket",
        status_code=UpgradeRequired.status,
        **LIVE_HANDSHAKE,
    )
    async def no_upgrade() -> JSONResponse:
        raise UpgradeRequired(
            "This path is a WebSocket: connect to it with ws:// or wss://, and send session.config first. docs/live.md "
            "has its messages."
        )
