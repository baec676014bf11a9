"""What `/docs` says of the endpoints whose bodies are read by hand (`form.py`, `json_body.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Response

from deployments.ingress.openapi_responses import GATE, RETRY, TRACE, errors, json
from speech.encoding import FORMATS
from speech.requests import RESPONSE_FORMATS, STREAM_FORMATS
from speech.text import MAX_INSTRUCTION, MAX_LONG_TEXT, MAX_TEXT, MAX_TRANSCRIPT

_STRING = {"type": "string"}
_CLIP = {
    "type": "string",
    "format": "binary",
    "description": "3 to 15 s of the voice: wav, flac, ogg, mp3, m4a, mp4, webm or aac, at least 16 kHz, at most 20 MB",
}
_DIALECT = {"type": "string", "description": "en-US, zh-CN, zh-Sichuan …; see /api/dialects. Never assumed."}
_SPEED = {"type": "number", "minimum": 0.5, "maximum": 2, "default": 1}
_SEED = {"type": "integer", "minimum": 0, "maximum": 4294967295, "default": 0}
_FORMAT = {"type": "string", "enum": list(RESPONSE_FORMATS)}
_STREAM = {"type": "string", "enum": list(STREAM_FORMATS)}
_TRANSCRIPT = {"type": "string", "maxLength": MAX_TRANSCRIPT, "description": "what is said in the clip, where known"}

_FIELDS = {
    "prompt_audio": _CLIP,
    "voice": {"type": "string", "description": "name or id of a stored voice, in place of a clip"},
    "text": {
        "type": "string",
        "minLength": 1,
        "maxLength": MAX_LONG_TEXT,
        "description": f"what to say; more than {MAX_TEXT} characters only with long_form",
    },
    "dialect": {
        "type": "string",
        "description": _DIALECT["description"] + " With `voice` it may be left out: the voice's own is taken.",
    },
    "mode": {
        "type": "string",
        "enum": ["fast", "instruct"],
        "default": "fast",
        "description": "fast = 3s极速复刻, instruct = 自然语言控制",
    },
    "style_instruction": {
        "type": "string",
        "maxLength": MAX_INSTRUCTION,
        "description": "how to say it; required with mode=instruct",
    },
    "prompt_text": _TRANSCRIPT,
    "speed": _SPEED,
    "seed": _SEED,
    "long_form": {"type": "boolean", "default": False, "description": "split by sentence, said side by side, joined"},
    "response_format": _FORMAT | {"default": "wav"},
    "stream_format": _STREAM
    | {"description": "audio: in chunks as it is made; sse: events (docs/api.md); absent: one whole file"},
}

_EVENTS = "text/event-stream"
_EVENT = {
    "type": "object",
    "required": ["data"],
    "description": "one of many",
    "properties": {
        "event": {"type": "string", "enum": ["stage", "audio", "done", "error"], "description": "ours have it"},
        "data": {"type": "string", "contentMediaType": "application/json"},
    },
}
_BYTES = {"type": "string", "format": "binary"}
_OR_VOICE = {"anyOf": [{"required": ["prompt_audio"]}, {"required": ["voice"]}]}


def _speech(
    fields: Mapping[str, dict], required: tuple[str, ...], *kinds: str, media: tuple[str, ...] = (), **more: object
) -> dict:
    """`kinds` of bodies, `media` types of answers; `more` of the body's schema."""
    schema = {
        "type": "object",
        "required": list(required),
        "properties": dict(fields),
        "additionalProperties": False,
    } | more
    media = media or (*sorted({form.media_type for form in FORMATS.values()}), _EVENTS)
    answer = {
        "description": "Speech",
        "headers": TRACE,
        "content": {kind: {"schema": _EVENT if kind == _EVENTS else _BYTES} for kind in media},
    }
    return {
        "response_class": Response,  # FastAPI would list JSON too
        "responses": {200: answer, **errors(400, 404, 422, 503, 504, *GATE)},
        "openapi_extra": {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind in kinds}}},
    }


GENERATE = _speech(_FIELDS, ("text",), "multipart/form-data", **_OR_VOICE)

SPEECH = _speech(
    {
        "model": _STRING | {"description": "one of GET /v1/models"},
        "input": {"type": "string", "minLength": 1, "maxLength": MAX_LONG_TEXT},
        "voice": {
            "oneOf": [_STRING, {"type": "object", "required": ["id"], "properties": {"id": _STRING}}],
            "description": "a stored voice; of no account where ref_audio is sent",
        },
        "instructions": {"type": "string", "maxLength": MAX_INSTRUCTION},
        "response_format": _FORMAT | {"default": "mp3"},
        "speed": _SPEED,
        "stream_format": _STREAM | {"default": "audio"},
        "ref_audio": {"type": "string", "description": "the clip as a data URL; in a multipart form also as a file"},
        "ref_text": _TRANSCRIPT,
        "language": {"type": "string", "description": "in place of dialect, where the engine speaks one dialect of it"},
        "dialect": _DIALECT,
        "seed": _SEED,
        "long_form": {"type": "boolean", "description": "true by itself where input is longer than one piece"},
        "stream": {"type": "boolean", "default": True, "description": "false: one whole file"},
        "task_type": {"type": "string", "enum": ["Base"]},
    },
    ("input",),
    "application/json",
    "multipart/form-data",
)

_MODEL = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by"],
    "properties": {
        "id": _STRING,
        "object": {"type": "string", "enum": ["model"]},
        "created": {"type": "integer", "description": "seconds since the epoch"},
        "owned_by": _STRING,
    },
}

MODELS = {
    "responses": {
        200: json(
            "As OpenAI's API has it",
            {
                "type": "object",
                "required": ["object", "data"],
                "properties": {
                    "object": {"type": "string", "enum": ["list"]},
                    "data": {"type": "array", "items": _MODEL},
                },
            },
        ),
        **errors(*GATE),
    }
}

MODEL = {"responses": {200: json("The model", _MODEL), **errors(*GATE, _404="No such model (not_found)")}}

_DIALECT_ENTRY = {
    "type": "object",
    "required": ["code", "supported"],
    "properties": {
        "code": _STRING,
        "supported": {"type": "boolean", "description": "whether the running engine can speak it"},
    },
}

DIALECTS = {
    "responses": {
        200: json(
            "All of them",
            {
                "type": "object",
                "required": ["engine", "languages", "dialects"],
                "properties": {
                    "engine": {"type": "object", "required": ["name", "version", "notice", "modes", "sample_rate"]},
                    "languages": {"type": "array", "items": _STRING},
                    "dialects": {"type": "array", "items": _DIALECT_ENTRY},
                },
            },
        ),
        **errors(),
    }
}

HEALTH = {
    "responses": {
        200: json(
            "It does",
            {"type": "object", "required": ["status"], "properties": {"status": {"type": "string", "enum": ["ok"]}}},
        ),
        **errors(),
    }
}

_READY = {
    "type": "object",
    "required": ["ready", "draining", "line", "stages"],
    "properties": {
        "ready": {"type": "boolean"},
        "draining": {"type": "boolean"},
        "line": {"enum": ["primary", "fallback"]},
        "stages": {"type": "object", "additionalProperties": {"type": "boolean"}},
    },
}

READY = {
    "responses": {
        200: json("Every stage answers", _READY),
        **errors(),
        503: json("Some stage doesn't, or the service is stopping", _READY, RETRY),
    }
}

_THEIRS = {
    "tts_text": _FIELDS["text"],
    "prompt_text": _TRANSCRIPT,
    "prompt_wav": _CLIP,
    "instruct_text": _FIELDS["style_instruction"],
    "dialect": _DIALECT,
    "spk_id": {"type": "string", "description": "a stored voice"},
}


def cosyvoice(needed: tuple[str, ...]) -> dict:
    """Of one of CosyVoice's paths."""
    fields = {name: _THEIRS[name] for name in (*needed, "dialect")}
    kinds = (
        ("multipart/form-data",)
        if "prompt_wav" in needed
        else ("multipart/form-data", "application/x-www-form-urlencoded")
    )
    return _speech(fields, needed, *kinds, media=(FORMATS["pcm"].media_type,))
