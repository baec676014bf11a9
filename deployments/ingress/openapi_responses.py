"""What `/docs` says of answers: every error in one shape, by its status, and the headers that all of them have."""

from __future__ import annotations

_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}

ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": _TEXT | {"description": "cause and remedy"},
                "type": _TEXT,
                "param": _TEXT_OR_NULL | {"description": "the field that caused it"},
                "code": _TEXT_OR_NULL | {"description": "finer than type"},
            },
        }
    },
}

TRACE = {
    "X-Trace-Id": {"required": True, "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
    "X-Trace-Url": {"description": "where the trace is, if it is kept for certain", "schema": _TEXT},
}
RETRY = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}

_REASONS = {
    400: "The request is wrong (input_validation)",
    401: "A key is needed and none that counts was shown (not_authorized)",
    403: "The key may not do this (not_authorized)",
    404: "No such voice or model (voice_not_found, not_found)",
    409: "What is stored already stands against it (conflict)",
    422: "The engine can't speak that dialect (unsupported_dialect)",
    429: "The key's limits are reached (rate_limited); see Retry-After",
    503: "Overloaded, stopping, or a stage is down; see Retry-After",
    504: "The deadline passed (deadline_exceeded)",
}
_ELSE = {
    "default": {
        "description": "Any other error; `internal` is a defect of the service",
        "headers": TRACE,
        "content": {"application/json": {"schema": ERROR}},
    }
}


def json(description: str, schema: dict, headers: dict | None = None) -> dict:
    return {
        "description": description,
        "headers": TRACE | (headers or {}),
        "content": {"application/json": {"schema": schema}},
    }


def errors(*statuses: int, **reasons: str) -> dict:
    """Those of an endpoint; `reasons`: what else than usual one of them means, `_404="No such voice"`."""
    told = _REASONS | {int(name[1:]): reason for name, reason in reasons.items()}
    known = sorted({*statuses, *(int(name[1:]) for name in reasons)})
    return {status: json(told[status], ERROR, RETRY if status in (429, 503) else None) for status in known} | _ELSE


#: What any request for something that isn't open to everybody may get.
GATE = (401, 403, 429)
