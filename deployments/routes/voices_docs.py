"""What `/docs` says of the voices' endpoints."""

_STRING = {"type": "string"}

_VOICE = {"type": "object", "properties": {
    "id": _STRING, "object": {"type": "string", "enum": ["audio.voice"]}, "name": _STRING, "dialect": _STRING,
    "language": _STRING, "created_at": {"type": "integer", "description": "seconds since the epoch"},
    "consent": {"type": "object", "properties": {"agreed": _STRING, "at": {"type": "string", "format": "date-time"}}},
    "has_transcript": {"type": "boolean", "description": "whether there is one; it is never shown"},
    "clip": {"type": "object", "properties": {
        "seconds": {"type": "number"}, "sample_rate": {"type": "integer"}, "format": _STRING,
        "bytes": {"type": "integer"}}}}}

_ERROR = {"type": "object", "properties": {"error": {"type": "object", "properties": {
    "message": _STRING, "type": _STRING, "param": {"type": "string", "nullable": True},
    "code": {"type": "string", "nullable": True}}}}}


def _json(description: str, schema: dict) -> dict:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_OFF_OR_UNKNOWN = _json("No such voice (voice_not_found), or no voices are stored here (not_found)", _ERROR)
_STORE_DOWN = _json("The voices' place can't be reached (voice_store_unavailable); see Retry-After", _ERROR)

_FIELDS = {
    "name": {"type": "string", "minLength": 1, "maxLength": 64,
             "description": "letters and digits of any script, '-', '_', and '.' but not first"},
    "audio_sample": {"type": "string", "format": "binary", "description":
                     "3 to 15 s of the voice: wav, flac, ogg or mp3, at least 16 kHz, at most 20 MB; the field may "
                     "also be called prompt_audio"},
    "dialect": {"type": "string", "description": "en-US, zh-CN, zh-Sichuan …; see /api/dialects. Never assumed."},
    "consent": {"type": "string", "minLength": 1, "maxLength": 1000,
                "description": "what the speaker agreed to, in words; stored with the time"},
    "prompt_text": {"type": "string", "maxLength": 500, "description": "what is said in the clip, where known"},
}

ENROL = {
    "responses": {
        201: _json("Stored", _VOICE),
        200: _json("It was stored already, under this name", _VOICE),
        400: _json("The request is wrong (input_validation)", _ERROR),
        404: _json("No voices are stored here (not_found)", _ERROR),
        409: _json("The name or the clip is taken, or the limit is reached (conflict)", _ERROR),
        422: _json("The engine can't speak that dialect (unsupported_dialect)", _ERROR),
        503: _STORE_DOWN,
    },
    "openapi_extra": {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "required": ["name", "audio_sample", "dialect", "consent"], "properties": _FIELDS}}}}},
}

LIST = {"responses": {
    200: _json("All of them, the oldest first", {"type": "object", "properties": {
        "object": {"type": "string", "enum": ["list"]}, "data": {"type": "array", "items": _VOICE}}}),
    404: _json("No voices are stored here (not_found)", _ERROR), 503: _STORE_DOWN}}

ONE = {"responses": {200: _json("The voice", _VOICE), 404: _OFF_OR_UNKNOWN, 503: _STORE_DOWN}}

DELETE = {"responses": {
    200: _json("Deleted", {"type": "object", "properties": {
        "id": _STRING, "object": {"type": "string", "enum": ["audio.voice.deleted"]}, "deleted": {"type": "boolean"}}}),
    403: _json("It was stored with another key (not_authorized)", _ERROR), 404: _OFF_OR_UNKNOWN, 503: _STORE_DOWN}}
