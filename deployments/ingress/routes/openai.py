"""`POST /v1/audio/speech` and `GET /v1/models`, as OpenAI's clients know them, with vLLM-Omni's further fields.

OpenAI's API reference (audio/createSpeech) and vLLM-Omni's (serving/speech_api) say what the fields mean; docs/api.md
says how they are used here.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from deployments.ingress import form, json_body, server_sent_events
from deployments.ingress.context import RequestContext, StageProgress
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.openapi import MODEL, MODELS, SPEECH
from deployments.ingress.request_models import SpeechBody
from speech import data_url
from speech.errors import InvalidInput, NotFound, SpeechError
from speech.limits import MAX_CLIP_BYTES, MAX_TEXT
from speech.words import Word

FORM = form.Kind("ref_audio", text="input and voice", required=False)
#: OpenAI's and vLLM-Omni's names of fields -> ours.
RENAMED = {"input": "text", "instructions": "style_instruction", "ref_text": "prompt_text"}
THEIR_NAMES = {ours: theirs for theirs, ours in RENAMED.items()} | {"prompt_audio": "ref_audio"}
SAME = ("dialect", "speed", "seed", "response_format", "stream_format", "timestamps", "long_form")
FIELDS = tuple(SpeechBody.model_fields)
#: CosyVoice3's speech tokens: 25 a second, whatever the engine.
_TOKENS_PER_SECOND = 25
_OWNER = "cosygraph"


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the routes."""

    @app.post("/v1/audio/speech", summary="Speak a text, as OpenAI's clients ask for it", **SPEECH)
    async def speech(request: Request) -> Response:
        try:
            return await _speech(api, request)
        except SpeechError as error:
            error.rename_param(THEIR_NAMES)
            raise

    @app.get("/v1/models", summary="The engine that runs", **MODELS)
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model(api)]})

    @app.get("/v1/models/{model}", summary="The same by its name", **MODEL)
    async def model(model: str) -> JSONResponse:
        _check_model(model, api)
        return JSONResponse(_model(api))


def _model(api: IngressApi) -> dict[str, Any]:
    return {"id": api.engine.capabilities.name, "object": "model", "created": api.started_s, "owned_by": _OWNER}


def _check_model(name: str, api: IngressApi) -> None:
    known = (api.engine.capabilities.name, _OWNER, *api.config.aliases.models)
    if name not in known:
        raise NotFound(
            f"There is no such model here; there are {' and '.join(known)} (GET /v1/models). If your client can't send "
            "another name, the operator of this service can add it to `aliases.models`.",
            param="model",
            code="model_not_found",
        )


async def _speech(api: IngressApi, request: Request) -> Response:
    given, clip = await _read(request)
    for name in given:
        if name not in FIELDS:
            raise InvalidInput(
                f"The body has a field that is not known. Known fields: {', '.join(FIELDS)}.", code="field_unknown"
            )
    fields, clip = fields_of(given, clip, api)
    return await api.speak(fields, clip, context_of(request), event_format=EventFormat())


def fields_of(given: Mapping[str, str], clip: bytes | None, api: IngressApi) -> tuple[dict[str, str], bytes | None]:
    """Turn the fields of a `SpeechBody`, as text, into those of `speech.requests`, and the clip.

    Args:
        given: fields whose names have been checked.
        clip: the clip, if it came as a file.
        api: the ingress, for its models and dialects.

    Raises:
        InvalidInput: a field is wrong.
        NotFound: there is no such model.
    """
    if model := given.get("model"):
        _check_model(model, api)
    if given.get("task_type", "Base") != "Base":
        raise InvalidInput(
            "The field 'task_type' can only be Base here: a voice comes from a clip or from a stored voice.",
            param="task_type",
            code="task_type_unknown",
        )
    fields = {
        ours: given[theirs] for theirs, ours in (*RENAMED.items(), *((name, name) for name in SAME)) if theirs in given
    }
    fields["mode"] = "instruct" if fields.get("style_instruction", "").strip() else "fast"
    if fields["mode"] == "fast":
        fields.pop("style_instruction", None)
    fields.setdefault("response_format", "mp3")
    if given.get("stream") != "false" and not fields.get("timestamps"):
        # Theirs answers in chunks unless it is told otherwise; with timestamps, which chunks can't hold, in one piece.
        fields.setdefault("stream_format", "audio")
    if len(fields.get("text", "")) > MAX_TEXT:
        fields.setdefault("long_form", "true")
    if "ref_audio" in given:
        clip = data_url.decode(given["ref_audio"], MAX_CLIP_BYTES)
    elif clip is None and "voice" in given:
        fields["voice"] = given["voice"]
    if "dialect" not in fields and (dialect := _dialect_of(given.get("language"), api)):
        fields["dialect"] = dialect
    return fields, clip


async def _read(request: Request) -> tuple[dict[str, str], bytes | None]:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        sent = await form.read(request, FORM)
        return sent.fields, sent.prompt_audio
    return as_form(await json_body.read(request)), None


def as_form(body: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields of a JSON object as a form would have them; null is no field.

    Raises:
        InvalidInput: a value is no text, number or flag.
    """
    voice = body.get("voice")
    named = {**body, "voice": voice.get("id")} if isinstance(voice, dict) else body
    return {name: _text(name, value) for name, value in named.items() if value is not None}


def _text(name: str, value: Any) -> str:
    """Return a JSON value as a form would have it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    known = name if name in FIELDS else None
    raise InvalidInput(
        f"The field {known!r} must be a text, a number, or true or false."
        if known
        else "A field of the body must be a text, a number, or true or false.",
        param=known,
        code="field_type",
    )


def _dialect_of(language: str | None, api: IngressApi) -> str | None:
    """Return the dialect that a language stands for, if the engine speaks exactly one of it; None if none is named.

    Raises:
        InvalidInput: the engine speaks no dialect of the language, or several: none is taken for another.
    """
    if not language or language.lower() == "auto":
        return None
    supported = api.engine.capabilities.dialects
    spoken = [dialect for dialect in api.registry if dialect.code in supported]
    wanted = language.lower()
    exact = [dialect for dialect in spoken if wanted == dialect.code.lower()]
    matches = exact or [dialect for dialect in spoken if wanted in (dialect.language, _english(dialect.language))]
    if len(matches) == 1:
        code: str = matches[0].code
        return code
    raise InvalidInput(
        "The field 'language' names "
        + (
            "no language that the running engine speaks"
            if not matches
            else "a language of which the running engine speaks several dialects"
        )
        + f". Send 'dialect': one of {', '.join(sorted(d.code for d in matches or spoken))}.",
        param="language",
        code="language_unclear",
    )


def _english(code: str) -> str:
    return {
        "zh": "chinese",
        "en": "english",
        "ja": "japanese",
        "ko": "korean",
        "de": "german",
        "es": "spanish",
        "fr": "french",
        "it": "italian",
        "ru": "russian",
    }.get(code, code)


def usage(characters: int, seconds: float) -> dict[str, int]:
    """Return OpenAI's figures of an answer: tokens are characters in, and 25 a second of speech out."""
    tokens_in, tokens_out = characters, round(seconds * _TOKENS_PER_SECOND)
    return {"input_tokens": tokens_in, "output_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


class EventFormat(server_sent_events.EventFormat):
    """Writes OpenAI's events."""

    progress = False

    def __init__(self) -> None:
        super().__init__(lambda ctx: None)

    def stage(self, progress: StageProgress) -> bytes:
        """Raise TypeError: OpenAI's events know no stages."""
        raise TypeError("OpenAI's events know no stages")

    def audio(self, data: bytes, seconds: float, words: tuple[Word, ...] | None = None) -> bytes:
        """Return an event with a part of the audio."""
        fields = {"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}
        return server_sent_events.event(None, fields | server_sent_events.timestamps(words))

    def done(self, summary: server_sent_events.StreamSummary, ctx: RequestContext) -> bytes:
        """Return the last event."""
        return server_sent_events.event(
            None, {"type": "speech.audio.done", "usage": usage(summary.characters, summary.seconds)}
        )

    def error(self, error: SpeechError, ctx: RequestContext) -> bytes:
        """Return the last event of a stream that failed."""
        error.rename_param(THEIR_NAMES)
        return server_sent_events.event(None, {"type": "error", **error.body()})
