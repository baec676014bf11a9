"""A client of WebSocket sessions, for tests of a served graph."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.helpers.serving import App, tone

CLIP = f"data:audio/wav;base64,{base64.b64encode(tone()).decode()}"
CONFIG = {"ref_audio": CLIP, "dialect": "en-US", "response_format": "pcm", "split_granularity": "sentence"}


@contextmanager
def session(app: App, configure: bool = True, **more: Any) -> Iterator[ClientConnection]:
    url = f"{app.url}/v1/audio/speech/stream".replace("http://", "ws://")
    with connect(url, proxy=None, **more) as found:
        if configure:
            send(found, "session.config", **CONFIG)
            assert event(found)["type"] == "session.configured"
        yield found


def send(ws: ClientConnection, kind: str, **fields: Any) -> None:
    ws.send(json.dumps({"type": kind, **fields}))


def event(ws: ClientConnection, audio: list[bytes] | None = None) -> dict[str, Any]:
    while isinstance(message := ws.recv(timeout=20), bytes):
        if audio is not None:
            audio.append(message)
    return json.loads(message)


def until(ws: ClientConnection, kind: str, audio: list[bytes] | None = None) -> list[dict[str, Any]]:
    events = [event(ws, audio)]
    while events[-1]["type"] != kind:
        events.append(event(ws, audio))
    return events


def say(ws: ClientConnection, *texts: str) -> dict[str, Any]:
    for text in texts:
        send(ws, "input.text", text=text)
    send(ws, "input.done")
    return until(ws, "session.done")[-1]
