"""The request's body rides along: Serve's HTTP proxy sends a replica the headers alone, and the replica asks it for the
body by an actor call of its own, which takes 2 to 3 ms on two cores. Bodies here are a few hundred kilobytes and have
mostly arrived by then, so the door (in the proxy) puts what is there into the ASGI scope, and the gateway (in the
ingress) takes it out again. What is late, or larger, comes the usual way, behind it.

The door can't know whose application a path belongs to, so it does this for our path alone (`PATH`), and where nobody
has taken a whole body within `AGAIN_AFTER_S`, it comes the usual way too. An application of somebody else's on a path
that ends like ours gets it that much later; the gateway passes over it.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive, Scope

#: In bytes and in seconds: what is waited for. A slow upload is the ingress's to time, so it isn't held up here.
MOST_BYTES = 1024 * 1024
MOST_S = 0.02
#: The route that takes clips, below whatever prefix.
PATH = "/api/generate"
AGAIN_AFTER_S = 1.0

_KEY = "cosygraph.early_body"


async def put(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """In the proxy: a scope with the beginning of the body in it, and a `receive` for what is behind it.

    A scope of another path comes back as it is.
    """
    if not scope["path"].endswith(PATH):
        return scope, receive
    chunks: list[bytes] = []
    size, more, read = 0, True, []
    end = time.monotonic() + MOST_S
    while more and size < MOST_BYTES:
        message = await _within(end - time.monotonic(), receive)
        if message is None:
            break
        if message["type"] != "http.request":
            read.append(message)
            break
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        more = message.get("more_body", False)
    if not chunks:
        return scope, _after(read, receive)
    early = {"type": "http.request", "body": b"".join(chunks), "more_body": more}
    if more:  # the rest stands behind it, on the usual way
        return {**scope, _KEY: early}, _after([early, *read], receive)
    again = [early]

    async def late() -> Message:
        if not again:
            return await receive()
        return await _within(AGAIN_AFTER_S, receive) or again.pop()

    return {**scope, _KEY: early}, _after(read, late)


async def _within(seconds: float, receive: Receive) -> Message | None:
    """The next message, or None where there is none in time; a server's `receive` can be given up and called again."""
    try:
        async with asyncio.timeout(seconds):
            return await receive()
    except TimeoutError:
        return None


def _after(messages: list[Message], receive: Receive) -> Receive:
    async def whole() -> Message:
        return messages.pop(0) if messages else await receive()

    return whole


def take(scope: Scope, receive: Receive) -> Receive:
    """In the ingress: a `receive` that begins with what the scope brought. The scope no longer has it afterwards."""
    early = scope.pop(_KEY, None)
    if early is None:
        return receive
    due, again = [early], True

    async def whole() -> Message:
        nonlocal again
        if due:
            return due.pop()
        message = await receive()
        if again and message["type"] == "http.request":  # what was early, on its usual way
            message = await receive()
        again = False
        return message

    return whole
