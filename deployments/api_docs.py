"""What `/docs` says of the endpoints whose bodies are read by hand (`form.py`, `json_body.py`)."""

from __future__ import annotations

from collections.abc import Mapping

from speech.requests import RESPONSE_FORMATS, STREAM_FORMATS
from speech.text import MAX_INSTRUCTION, MAX_LONG_TEXT, MAX_TEXT, MAX_TRANSCRIPT

_ERROR = {"content": {"application/json": {"schema": {
    "type": "object", "properties": {"error": {"type": "object", "properties": {
        "message": {"type": "string"}, "type": {"type": "string"},
        "param": {"type": "string", "nullable": True}, "code": {"type": "string", "nullable": True}}}}}}}}

_CLIP = {"type": "string", "format": "binary",
         "description": "3 to 15 s of the voice: wav, flac, ogg or mp3, at least 16 kHz, at most 20 MB"}
_DIALECT = {"type": "string", "description": "en-US, zh-CN, zh-Sichuan …; see /api/dialects. Never assumed."}
_SPEED = {"type": "number", "minimum": 0.5, "maximum": 2, "default": 1}
_SEED = {"type": "integer", "minimum": 0, "maximum": 4294967295, "default": 0}
_FORMAT = {"type": "string", "enum": list(RESPONSE_FORMATS)}
_STREAM = {"type": "string", "enum": list(STREAM_FORMATS)}
_TRANSCRIPT = {"type": "string", "maxLength": MAX_TRANSCRIPT, "description": "what is said in the clip, where known"}

_FIELDS = {
    "prompt_audio": _CLIP,
    "voice": {"type": "string", "description": "name or id of a stored voice, in place of a clip"},
    "text": {"type": "string", "minLength": 1, "maxLength": MAX_LONG_TEXT,
             "description": f"what to say; more than {MAX_TEXT} characters only with long_form"},
    "dialect": {"type": "string", "description": _DIALECT["description"] + " With `voice` it may be left out: the "
                                                                          "voice's own is taken."},
    "mode": {"type": "string", "enum": ["fast", "instruct"], "default": "fast",
             "description": "fast = 3s极速复刻, instruct = 自然语言控制"},
    "style_instruction": {"type": "string", "maxLength": MAX_INSTRUCTION,
                          "description": "how to say it; required with mode=instruct"},
    "prompt_text": _TRANSCRIPT,
    "speed": _SPEED,
    "seed": _SEED,
    "long_form": {"type": "boolean", "default": False, "description": "split by sentence, said side by side, joined"},
    "response_format": _FORMAT | {"default": "wav"},
    "stream_format": _STREAM | {"description": "audio: in chunks as it is made; sse: events (docs/api.md); absent: one "
                                               "whole file"},
}

_TRACE = {"X-Trace-Id": {"schema": {"type": "string"}}, "X-Trace-Url": {"schema": {"type": "string"}}}
_AUDIO = {media: {} for media in ("audio/wav", "audio/pcm", "audio/flac", "audio/mpeg", "audio/ogg", "audio/aac",
                                  "text/event-stream")}
_REFUSALS = {
    400: {"description": "The request is wrong (input_validation)", **_ERROR},
    401: {"description": "A key is needed and none that counts was shown (not_authorized)", **_ERROR},
    403: {"description": "The key may not do this (not_authorized)", **_ERROR},
    404: {"description": "No such voice or model (voice_not_found, not_found)", **_ERROR},
    422: {"description": "The engine can't speak that dialect (unsupported_dialect)", **_ERROR},
    429: {"description": "The key's limits are reached (rate_limited); see Retry-After", **_ERROR},
    503: {"description": "Overloaded, stopping, or a stage is down; see Retry-After", **_ERROR},
    504: {"description": "The deadline passed (deadline_exceeded)", **_ERROR},
}


def _speech(fields: Mapping[str, dict], required: tuple[str, ...], *media: str) -> dict:
    schema = {"type": "object", "required": list(required), "properties": dict(fields)}
    return {"responses": {200: {"description": "Speech", "content": _AUDIO, "headers": _TRACE}, **_REFUSALS},
            "openapi_extra": {"requestBody": {"required": True, "content": {
                kind: {"schema": schema} for kind in media}}}}


GENERATE = _speech(_FIELDS, ("text",), "multipart/form-data")

SPEECH = _speech({
    "model": {"type": "string"},
    "input": {"type": "string", "minLength": 1, "maxLength": MAX_LONG_TEXT},
    "voice": {"type": "string", "description": "a stored voice; of no account where ref_audio is sent"},
    "instructions": {"type": "string", "maxLength": MAX_INSTRUCTION},
    "response_format": _FORMAT | {"default": "mp3"},
    "speed": _SPEED,
    "stream_format": _STREAM | {"default": "audio"},
    "ref_audio": {"type": "string", "description": "the clip as a data URL; in a multipart form also as a file"},
    "ref_text": _TRANSCRIPT,
    "language": {"type": "string", "description": "in place of dialect, where the engine speaks one dialect of it"},
    "dialect": _DIALECT,
    "seed": _SEED,
}, ("input",), "application/json", "multipart/form-data")

MODELS = {"responses": {200: {"description": "As OpenAI's API has it", "content": {"application/json": {}}},
                        404: {"description": "No such model", **_ERROR}}}

_THEIRS = {"tts_text": _FIELDS["text"], "prompt_text": _TRANSCRIPT, "prompt_wav": _CLIP,
           "instruct_text": _FIELDS["style_instruction"], "dialect": _DIALECT,
           "spk_id": {"type": "string", "description": "a stored voice"}}


def cosyvoice(needed: tuple[str, ...]) -> dict:
    """Of one of CosyVoice's paths."""
    fields = {name: _THEIRS[name] for name in (*needed, "dialect")}
    return _speech(fields, needed, "multipart/form-data")
