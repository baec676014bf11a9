"""What `/docs` says of the endpoints whose bodies are read by hand (`deployments/form.py`)."""

_ERROR = {"content": {"application/json": {"schema": {
    "type": "object", "properties": {"error": {"type": "object", "properties": {
        "message": {"type": "string"}, "type": {"type": "string"},
        "param": {"type": "string", "nullable": True}, "code": {"type": "string", "nullable": True}}}}}}}}

_FIELDS = {
    "prompt_audio": {"type": "string", "format": "binary",
                     "description": "3 to 15 s of the voice: wav, flac, ogg or mp3, at least 16 kHz, at most 20 MB"},
    "text": {"type": "string", "minLength": 1, "maxLength": 200, "description": "what to say"},
    "dialect": {"type": "string", "description": "en-US, zh-CN, zh-Sichuan …; see /api/dialects. Never assumed."},
    "mode": {"type": "string", "enum": ["fast", "instruct"], "default": "fast",
             "description": "fast = 3s极速复刻, instruct = 自然语言控制"},
    "style_instruction": {"type": "string", "description": "how to say it; required with mode=instruct"},
    "prompt_text": {"type": "string", "description": "what is said in the clip, where known"},
    "speed": {"type": "number", "minimum": 0.5, "maximum": 2, "default": 1},
    "seed": {"type": "integer", "minimum": 0, "maximum": 4294967295, "default": 0},
}

GENERATE = {
    "responses": {
        200: {"description": "Speech: 24 kHz, 16 bit, mono", "content": {"audio/wav": {}},
              "headers": {"X-Trace-Id": {"schema": {"type": "string"}}, "X-Trace-Url": {"schema": {"type": "string"}}}},
        400: {"description": "The request is wrong (input_validation)", **_ERROR},
        422: {"description": "The engine can't speak that dialect (unsupported_dialect)", **_ERROR},
        503: {"description": "Overloaded, stopping, or a stage is down; see Retry-After", **_ERROR},
        504: {"description": "The deadline passed (deadline_exceeded)", **_ERROR},
    },
    "openapi_extra": {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": {
        "type": "object", "required": ["prompt_audio", "text", "dialect"], "properties": _FIELDS}}}}},
}
