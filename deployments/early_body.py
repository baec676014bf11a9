"""The request's body rides along: Serve's HTTP proxy sends a replica the headers alone, and the replica asks it for the
body by an actor call of its own, which takes 3 ms on two cores. Bodies here are a few hundred kilobytes and have mostly
arrived by then, so the door (in the proxy) puts what is there into the ASGI scope, and the gateway (in the ingress)
takes it out again. What is late, or larger, comes the usual way, behind it.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive, Scope

#: In bytes and in seconds: what is waited for. A slow upload is the ingress's to time, so it isn't held up here.
MOST_BYTES = 1024 * 1024
MOST_S = 0.02

_KEY = "cosygraph.early_body"


async def put(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """In the proxy: a scope with the beginning of the body in it, and a `receive` for the rest."""
    chunks: list[bytes] = []
    size, more, left = 0, True, []
    end = time.monotonic() + MOST_S
    while more and size < MOST_BYTES:
        try:
            async with asyncio.timeout(end - time.monotonic()):
                message = await receive()
        except TimeoutError:
            break
        if message["type"] != "http.request":
            left.append(message)
            break
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)

    async def rest() -> Message:
        return left.pop() if left else await receive()
    return {**scope, _KEY: (b"".join(chunks), more)}, rest


def take(scope: Scope, receive: Receive) -> Receive:
    """In the ingress: a `receive` that begins with what the scope brought. The scope no longer has it afterwards."""
    body, more = scope.pop(_KEY, (None, True))
    if body is None or (not body and more):
        return receive
    early: list[Message] = [{"type": "http.request", "body": body, "more_body": more}]

    async def whole() -> Message:
        return early.pop() if early else await receive()
    return whole
