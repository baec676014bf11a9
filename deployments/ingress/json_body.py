"""A JSON object as a request's body, read under a limit."""

from __future__ import annotations

import json

from starlette.requests import Request

from speech.audio import MAX_BYTES, check_size
from speech.errors import InvalidInput

#: A clip of the largest size in base64, and room for everything else.
MAX_BODY_BYTES = MAX_BYTES * 4 // 3 + 256 * 1024


async def read(request: Request) -> dict:
    """Raises InvalidInput for what is no JSON object, ClientDisconnect when the client leaves meanwhile."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            check_size(MAX_BYTES + 1)
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _no_object() from error
    if not isinstance(found, dict):
        raise _no_object()
    return found


def _no_object() -> InvalidInput:
    return InvalidInput(
        "The body must be a JSON object in UTF-8, with Content-Type: application/json (or a multipart form).",
        code="not_json",
    )
