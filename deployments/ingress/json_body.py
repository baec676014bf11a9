"""Reads a request's body as a JSON object, under a limit."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from deployments.ingress.form import FORM_OVERHEAD_BYTES
from speech.audio import check_size
from speech.errors import InvalidInput
from speech.limits import MAX_CLIP_BYTES

#: A clip of the largest size in base64, and room for everything else.
MAX_BODY_BYTES = MAX_CLIP_BYTES * 4 // 3 + FORM_OVERHEAD_BYTES
#: Commas and opening brackets: there are no more values than these. json.loads takes seconds for millions of values,
#: and holds the event loop for all requests. Base64 has none, and the longest texts of a batch together have fewer.
MAX_SIGNS = 256 * 1024
_SIGNS = (b",", b"[", b"{")


async def read(request: Request) -> dict[str, Any]:
    """Read the body.

    Raises:
        InvalidInput: the body is no JSON object.
        ClientDisconnect: the client left meanwhile.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            check_size(MAX_CLIP_BYTES + 1)
    if len(body) > MAX_SIGNS and sum(map(body.count, _SIGNS)) > MAX_SIGNS:
        raise InvalidInput(
            f"The body holds more than {MAX_SIGNS:,} values or commas, far more than any request here needs. Send the "
            "documented fields alone, and split long texts over several requests.",
            code="json_too_complex",
        )
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
