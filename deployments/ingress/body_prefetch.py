"""Sends the beginning of a request's body along with its headers.

Serve's HTTP proxy sends a replica the headers alone. The replica asks it for the body by an actor call of its own,
which takes 2 to 3 ms on two cores. Bodies here are a few hundred kilobytes and have mostly arrived by then. So
`proxy_middleware.py` puts the bytes that are there into the ASGI scope, and `tracing_middleware.py`, in the ingress,
takes them out again. Later bytes come the usual way, behind them.

The proxy can't know which application a path belongs to, so it does this for the marked routes alone
(`config/routes.py`). If no application has taken a whole body within `AGAIN_AFTER_S`, the body comes the usual way too:
another application on a path that ends like ours gets it that much later. The ingress skips the second copy.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import Message, Receive, Scope

from config.routes import PREFETCHED

#: Most bytes and seconds to wait for. The ingress times slow uploads, so they aren't held up here.
MOST_BYTES = 1024 * 1024
MOST_S = 0.02
AGAIN_AFTER_S = 1.0

_KEY = "cosygraph.early_body"


async def put(scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Put the beginning of the body into the scope, in the proxy.

    Returns:
        The scope with the beginning in it, and a `receive` for the rest. A scope of another path comes back as it is.
    """
    if not scope["path"].endswith(PREFETCHED):
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
    """Return the next message, or None if there is none in time; `receive` can be given up and called again."""
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
    """Take the beginning out of the scope, in the ingress. Returns a `receive` that starts with it."""
    early = scope.pop(_KEY, None)
    if early is None:
        return receive
    due: list[Message] = [early]
    again = True

    async def whole() -> Message:
        nonlocal again
        if due:
            return due.pop()
        message = await receive()
        if again and message["type"] == "http.request":  # the same bytes, on their usual way
            message = await receive()
        again = False
        return message

    return whole
