"""What `/docs` says of the voices' endpoints."""

from deployments.ingress.openapi_responses import GATE, errors, json

_STRING = {"type": "string"}

_VOICE = {
    "type": "object",
    "required": ["id", "object", "name", "dialect", "language", "created_at", "consent", "has_transcript", "clip"],
    "properties": {
        "id": _STRING,
        "object": {"type": "string", "enum": ["audio.voice"]},
        "name": _STRING,
        "dialect": _STRING,
        "language": _STRING,
        "created_at": {"type": "integer", "description": "seconds since the epoch"},
        "consent": {
            "type": "object",
            "properties": {"agreed": _STRING, "at": {"type": "string", "format": "date-time"}},
        },
        "has_transcript": {"type": "boolean", "description": "whether there is one; it is never shown"},
        "clip": {
            "type": "object",
            "properties": {
                "seconds": {"type": "number"},
                "sample_rate": {"type": "integer"},
                "format": _STRING,
                "bytes": {"type": "integer"},
            },
        },
    },
}

_NO_VOICES = "No voices are stored here (not_found)"
_NO_VOICE = "No such voice (voice_not_found), or no voices are stored here (not_found)"
_DOWN = "The voices' place can't be reached (voice_store_unavailable); see Retry-After"

_FIELDS = {
    "name": {
        "type": "string",
        "minLength": 1,
        "maxLength": 64,
        "description": "letters and digits of any script, '-', '_', and '.' but not first",
    },
    "audio_sample": {
        "type": "string",
        "format": "binary",
        "description": "3 to 15 s of the voice: wav, flac, ogg, mp3, m4a, mp4, webm or aac, at least 16 kHz, at most "
        "20 MB; the field may also be called prompt_audio",
    },
    "dialect": {"type": "string", "description": "en-US, zh-CN, zh-Sichuan …; see /api/dialects. Never assumed."},
    "consent": {
        "type": "string",
        "minLength": 1,
        "maxLength": 1000,
        "description": "what the speaker agreed to, in words; stored with the time",
    },
    "prompt_text": {"type": "string", "maxLength": 500, "description": "what is said in the clip, where known"},
}

ENROL = {
    "responses": {
        201: json("Stored", _VOICE),
        200: json("It was stored already, under this name", _VOICE),
        **errors(
            400,
            422,
            504,
            *GATE,
            _404=_NO_VOICES,
            _503=_DOWN,
            _409="The name or the clip is taken, or the limit is reached (conflict)",
        ),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["name", "audio_sample", "dialect", "consent"],
                        "properties": _FIELDS,
                        "additionalProperties": False,
                    }
                }
            },
        }
    },
}

LIST = {
    "responses": {
        200: json(
            "All of them, the oldest first",
            {
                "type": "object",
                "required": ["object", "data"],
                "properties": {
                    "object": {"type": "string", "enum": ["list"]},
                    "data": {"type": "array", "items": _VOICE},
                },
            },
        ),
        **errors(*GATE, _404=_NO_VOICES, _503=_DOWN),
    }
}

ONE = {"responses": {200: json("The voice", _VOICE), **errors(*GATE, _404=_NO_VOICE, _503=_DOWN)}}

DELETE = {
    "responses": {
        200: json(
            "Deleted",
            {
                "type": "object",
                "required": ["id", "object", "deleted"],
                "properties": {
                    "id": _STRING,
                    "object": {"type": "string", "enum": ["audio.voice.deleted"]},
                    "deleted": {"type": "boolean"},
                },
            },
        ),
        **errors(
            *GATE,
            _403="The key may not do this, or the voice was stored with another (not_authorized)",
            _404=_NO_VOICE,
            _503=_DOWN,
        ),
    }
}
