"""The OpenAPI description of each operation, made from the request models, the response models and the errors.

The routes read their bodies by hand (`form.py`, `json_body.py`), so FastAPI can't derive the description itself.
"""

from __future__ import annotations

from typing import Any

from fastapi import Response
from pydantic import BaseModel

from deployments.ingress import response_models
from deployments.ingress.request_models import (
    MAX_ITEMS,
    BatchItem,
    CosyVoiceForm,
    EnrolmentForm,
    GenerateForm,
    RenameBody,
    SpeechBody,
    VerifyForm,
)
from speech import errors
from speech.encoding import FORMATS
from speech.errors import SpeechError
from speech.mark import HEADER
from voices.record import PublicVoice

Description = dict[str, Any]

TRACE: Description = {
    "X-Trace-Id": {"required": True, "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
    "X-Trace-Url": {"description": "address of the trace, if it is kept for certain", "schema": {"type": "string"}},
}
VOICE_FIT: Description = {
    "X-Voice-Fit": {
        "description": "the stored voice that was used, where the engine fits voices",
        "schema": {"type": "string", "enum": ["fitted", "steered"]},
    }
}
MARK: Description = {
    HEADER: {"required": True, "description": "the mark of synthetic speech, as JSON", "schema": {"type": "string"}}
}
RETRY: Description = {"Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}}
_RETRIED = (429, 503)

_FORM, _URLENCODED, _JSON = "multipart/form-data", "application/x-www-form-urlencoded", "application/json"
_EVENTS = "text/event-stream"
_EVENT = {
    "type": "object",
    "required": ["data"],
    "description": "one of many",
    "properties": {
        "event": {
            "type": "string",
            "enum": ["stage", "fit", "audio", "done", "error"],
            "description": "not with OpenAI's",
        },
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}

#: The errors of any operation that is not open, and those of any operation that speaks.
_ACCESS = (errors.NotAuthorized, errors.RoleMissing, errors.RateLimited)
_SPEAKING = (
    *_ACCESS,
    errors.InvalidInput,
    errors.UnsupportedDialect,
    errors.VoiceNotFound,
    errors.Overloaded,
    errors.StageUnavailable,
    errors.VoiceStoreUnavailable,
    errors.DeadlineExceeded,
)
_VOICES = (*_ACCESS, errors.NotFound, errors.VoiceStoreUnavailable)


def answer(description: str, model: type[BaseModel], *headers: Description) -> Description:
    """Describe a JSON answer."""
    return {
        "description": description,
        "model": model,
        "headers": {k: v for each in (TRACE, *headers) for k, v in each.items()},
    }


def failures(*kinds: type[SpeechError]) -> dict[int | str, Description]:
    """Describe the errors of an operation, by status: each kind's docstring and type."""
    found: dict[int | str, Description] = {}
    for status in sorted({kind.status for kind in kinds}):
        causes = [f"{_first_sentence(kind)} ({kind.type})" for kind in kinds if kind.status == status]
        found[status] = answer("; ".join(causes), response_models.ErrorBody, *([RETRY] if status in _RETRIED else []))
    other = "Any other error; `internal` is a defect of the service"
    return found | {"default": answer(other, response_models.ErrorBody)}


def _first_sentence(kind: type[SpeechError]) -> str:
    return (kind.__doc__ or "").strip().split(".")[0]


def body(schema: Description, *media: str) -> Description:
    """Describe a request body that may have any of these media types."""
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in media}}}


def schema(model: type[BaseModel], only: tuple[str, ...] | None = None, required: tuple[str, ...] = ()) -> Description:
    """Return a model's JSON schema, inline: nullable fields lose their null, since absence says the same.

    Args:
        model: the request model; it has no models inside.
        only: the fields to show; None shows all.
        required: fields that are required beside the model's own.
    """
    made = model.model_json_schema()
    properties = {
        name: _without_null(field) for name, field in made["properties"].items() if only is None or name in only
    }
    needed = [name for name in made.get("required", []) if name in properties]
    return {
        "type": "object",
        "required": sorted({*needed, *required}, key=list(properties).index),
        "properties": properties,
        "additionalProperties": False,
    }


def _without_null(field: Description) -> Description:
    kept = {name: value for name, value in field.items() if name not in ("anyOf", "title") and value is not None}
    kinds = [kind for kind in field.get("anyOf", []) if kind != {"type": "null"}]
    return kept | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def _speech(request: Description, *media: str, answers: tuple[str, ...] = ()) -> Description:
    """Describe an operation that speaks: its body's media types, and those of its answers."""
    timed: Description = {} if answers else {"model": response_models.TimedSpeech}
    answers = answers or (*sorted({form.media_type for form in FORMATS.values()}), _EVENTS)
    speech = {
        "description": "Speech",
        "headers": {**TRACE, **VOICE_FIT, **MARK},
        "content": {
            kind: {"schema": _EVENT if kind == _EVENTS else {"type": "string", "format": "binary"}} for kind in answers
        },
        **timed,
    }
    return {
        "response_class": Response,  # FastAPI would list JSON too
        "responses": {200: speech, **failures(*_SPEAKING)},
        "openapi_extra": body(request, *media),
    }


def _batch() -> Description:
    """Describe the body of a batch: its items, and the fields for all of them."""
    item = schema(BatchItem)
    common = schema(BatchItem, tuple(name for name in BatchItem.model_fields if name != "input"))
    items = {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": item}
    return common | {"required": ["items"], "properties": {"items": items, **common["properties"]}}


def cosyvoice(needed: tuple[str, ...]) -> Description:
    """Describe one of CosyVoice's paths, which needs these fields."""
    media = (_FORM,) if "prompt_wav" in needed else (_FORM, _URLENCODED)
    return _speech(schema(CosyVoiceForm, (*needed, "dialect")), *media, answers=(FORMATS["pcm"].media_type,))


GENERATE: Description = _speech(
    schema(GenerateForm) | {"anyOf": [{"required": ["prompt_audio"]}, {"required": ["voice"]}]}, _FORM
)
SPEECH: Description = _speech(schema(SpeechBody), _JSON, _FORM)
#: OpenAPI can't describe a WebSocket; this is its handshake.
LIVE_HANDSHAKE: Description = {
    "responses": {
        101: {"description": "The WebSocket is open; docs/live.md has its messages"},
        **failures(*_ACCESS, errors.UpgradeRequired, errors.StageUnavailable),
    },
    "description": "A WebSocket, which OpenAPI can't describe: docs/live.md has its messages. A plain GET gets 426.",
}
BATCH: Description = {
    "responses": {
        200: answer(
            "What became of each item", response_models.SpeechBatch, {HEADER: {**MARK[HEADER], "required": False}}
        ),
        **failures(*_ACCESS, errors.InvalidInput, errors.DeadlineExceeded),
    },
    "openapi_extra": body(_batch(), _JSON),
}
MODELS: Description = {
    "responses": {200: answer("The running engine", response_models.ModelList), **failures(*_ACCESS)}
}
MODEL: Description = {
    "responses": {200: answer("The model", response_models.Model), **failures(*_ACCESS, errors.NotFound)}
}
DIALECTS: Description = {"responses": {200: answer("All dialects", response_models.Dialects), **failures()}}
INDEX: Description = {
    "responses": {
        200: answer("Where things are", response_models.Index),
        307: {
            "description": "For a browser: the web page, or /docs where there is none",
            "headers": {**TRACE, "Location": {"required": True, "schema": {"type": "string"}}},
        },
        **failures(),
    }
}
HEALTH: Description = {"responses": {200: answer("The ingress runs", response_models.Health), **failures()}}
READY: Description = {
    "responses": {
        200: answer("Every stage answers", response_models.Ready),
        **failures(),
        503: answer("A stage does not answer, or the service is stopping", response_models.Ready, RETRY),
    }
}

VERIFY: Description = {
    "responses": {
        200: answer("The marks in the file", response_models.Verification),
        **failures(*_ACCESS, errors.InvalidInput, errors.Overloaded, errors.StageUnavailable, errors.DeadlineExceeded),
    },
    "openapi_extra": body(schema(VerifyForm), _FORM),
}

ENROL: Description = {
    "responses": {
        201: answer("Stored", PublicVoice),
        200: answer("It was stored already, under this name", PublicVoice),
        **failures(
            *_VOICES,
            errors.InvalidInput,
            errors.UnsupportedDialect,
            errors.Conflict,
            errors.Overloaded,
            errors.StageUnavailable,
            errors.DeadlineExceeded,
        ),
    },
    "openapi_extra": body(schema(EnrolmentForm), _FORM),
}
VOICES: Description = {
    "responses": {200: answer("All voices, the oldest first", response_models.VoiceList), **failures(*_VOICES)}
}
VOICE: Description = {"responses": {200: answer("The voice", PublicVoice), **failures(*_VOICES, errors.VoiceNotFound)}}
RENAME_VOICE: Description = {
    "responses": {
        200: answer("The voice under its new name", PublicVoice),
        **failures(*_VOICES, errors.InvalidInput, errors.VoiceNotFound, errors.NotOwner, errors.Conflict),
    },
    "openapi_extra": body(schema(RenameBody), _JSON),
}
FIT_VOICE: Description = {
    "responses": {
        202: answer("The voice; its fit is queued, or under way", PublicVoice),
        **failures(*_VOICES, errors.VoiceNotFound, errors.NotOwner, errors.Conflict),
    }
}
DELETE_VOICE: Description = {
    "responses": {
        200: answer("Deleted", response_models.VoiceDeleted),
        **failures(*_VOICES, errors.VoiceNotFound, errors.NotOwner),
    }
}
