"""A request under limits, whatever reads it: so many bytes of headers and of body, and these within the deadline.

Without the last, a client that sends a byte now and then would hold its place, and its connection, for ever. Serve's
HTTP server takes headers of megabytes.
"""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from deployments.ingress.context import RequestContext
from speech.errors import DeadlineExceeded, InvalidInput

#: A clip of 20 MB as base64, and some. Readers refuse earlier what they can know earlier.
MAX_BYTES = 32 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024  #: of all headers, the path and the query together


def limited(scope: Scope, receive: Receive, run: RequestContext) -> Receive:
    """Raises InvalidInput at once for too large a head, and DeadlineExceeded or InvalidInput into whoever reads the
    body; behind its end nothing is limited."""
    head = len(scope["path"]) + len(scope.get("query_string", b""))
    if head + sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEAD_BYTES:
        raise InvalidInput(
            f"The request's headers and address are larger than {MAX_HEAD_BYTES // 1024} KB together; "
            "send fewer or shorter ones.",
            code="head_too_large",
        )
    received, whole = 0, False

    async def within_limits() -> Message:
        nonlocal received, whole
        if whole:
            return await receive()
        try:
            async with asyncio.timeout(max(0.0, run.remaining_s())):
                message = await receive()
        except TimeoutError:
            raise DeadlineExceeded(
                "The request's body did not arrive within the request's deadline; send it in one "
                "go, or over a quicker connection.",
                code="upload_too_slow",
            ) from None
        whole = message["type"] != "http.request" or not message.get("more_body", False)
        received += len(message.get("body", b""))
        if received > MAX_BYTES:
            raise InvalidInput(
                f"The request's body is larger than {MAX_BYTES // 1024**2} MB, more than any request "
                "needs; send a shorter clip.",
                code="body_too_large",
            )
        return message

    return within_limits
