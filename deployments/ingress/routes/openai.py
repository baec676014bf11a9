"""`POST /v1/audio/speech` and `GET /v1/models`, as OpenAI's clients know them, with what vLLM-Omni's send beside.

OpenAI's API reference (audio/createSpeech) and vLLM-Omni's (serving/speech_api) say what the fields mean; docs/api.md
says what is made of them here.
"""

from __future__ import annotations

import base64
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from deployments.ingress import form, json_body, responses
from deployments.ingress.context import RequestContext, StageProgress
from deployments.ingress.openapi import MODEL, MODELS, SPEECH
from speech import data_url
from speech.audio import MAX_BYTES
from speech.errors import InvalidInput, NotFound, SpeechError
from speech.text import MAX_TEXT

FORM = form.Kind("ref_audio", text="input and voice", required=False)
#: What they call it -> what we do.
RENAMED = {"input": "text", "instructions": "style_instruction", "ref_text": "prompt_text"}
SAME = ("dialect", "speed", "seed", "response_format", "stream_format", "long_form")
FIELDS = (*RENAMED, *SAME, "model", "voice", "ref_audio", "language", "stream", "task_type")
#: CosyVoice3's speech tokens: 25 a second, whatever the engine.
_TOKENS_PER_SECOND = 25
_OWNER = "cosygraph"


def add(app: FastAPI, api) -> None:
    """`api`: the ingress replica (`deployments.ingress.deployment.CosyVoice3Api`)."""

    @app.post("/v1/audio/speech", summary="Speak a text, as OpenAI's clients ask for it", **SPEECH)
    async def speech(request: Request):
        try:
            return await _speech(api, request)
        except SpeechError as error:
            raise _in_their_words(error) from error

    @app.get("/v1/models", summary="The engine that runs", **MODELS)
    async def models():
        return JSONResponse({"object": "list", "data": [_model(api)]})

    @app.get("/v1/models/{model}", summary="The same by its name", **MODEL)
    async def model(model: str):
        _check_model(model, api)
        return JSONResponse(_model(api))


def _model(api) -> dict:
    return {"id": api.engine.capabilities.name, "object": "model", "created": api.started_s, "owned_by": _OWNER}


def _check_model(name: str, api) -> None:
    known = (api.engine.capabilities.name, _OWNER)
    if name not in known:
        raise NotFound(
            f"There is no such model here; there are {' and '.join(known)} (GET /v1/models).",
            param="model",
            code="model_not_found",
        )


async def _speech(api, request: Request) -> Response:
    given, clip = await _read(request)
    for name in given:
        if name not in FIELDS:
            raise InvalidInput(
                f"The body has a field that is not known. Known fields: {', '.join(FIELDS)}.", code="field_unknown"
            )
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
    if given.get("stream") != "false":  # theirs answers in chunks unless it is told otherwise
        fields.setdefault("stream_format", "audio")
    if len(fields.get("text", "")) > MAX_TEXT:
        fields.setdefault("long_form", "true")
    if "ref_audio" in given:
        clip = data_url.decode(given["ref_audio"], MAX_BYTES)
    elif clip is None and "voice" in given:
        fields["voice"] = given["voice"]
    if "dialect" not in fields and (dialect := _dialect_of(given.get("language"), api)):
        fields["dialect"] = dialect
    run: RequestContext = request.state.run
    ask, source = await api.asked(fields, clip, run)
    return await api.answer(ask, source, run, EventFormat(len(ask.utterance.text)))


async def _read(request: Request) -> tuple[dict[str, str], bytes | None]:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        asked = await form.read(request, FORM)
        return asked.fields, asked.prompt_audio
    body = await json_body.read(request)
    if isinstance(voice := body.get("voice"), dict):
        body["voice"] = voice.get("id")
    return {name: _text(name, value) for name, value in body.items() if value is not None}, None


def _text(name: str, value: Any) -> str:
    """As a form would have it."""
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


def _dialect_of(language: str | None, api) -> str | None:
    """The dialect that a language stands for, where the running engine speaks one alone of it; None where none is
    named. Raises InvalidInput where there are several: none is taken for another."""
    if not language or language.lower() == "auto":
        return None
    can = api.engine.capabilities.dialects
    spoken = [dialect for dialect in api.registry if dialect.code in can]
    wanted = language.lower()
    exact = [dialect for dialect in spoken if wanted == dialect.code.lower()]
    found = exact or [dialect for dialect in spoken if wanted in (dialect.language, _english(dialect.language))]
    if len(found) == 1:
        return found[0].code
    raise InvalidInput(
        "The field 'language' names "
        + (
            "no language that the running engine speaks"
            if not found
            else "a language of which the running engine speaks several dialects"
        )
        + f". Send 'dialect': one of {', '.join(sorted(d.code for d in found or spoken))}.",
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


def _in_their_words(error: SpeechError) -> SpeechError:
    """The same error, its `param` the field that they know."""
    theirs = {ours: name for name, ours in RENAMED.items()} | {"prompt_audio": "ref_audio"}
    if error.param in theirs:
        error.param = theirs[error.param]
    return error


class EventFormat(responses.EventFormat):
    """OpenAI's events."""

    progress = False

    def __init__(self, characters: int) -> None:
        self._characters = characters

    def stage(self, progress: StageProgress) -> bytes:
        raise TypeError("OpenAI's events know no stages")

    def audio(self, data: bytes, seconds: float) -> bytes:
        return responses.event(None, {"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})

    def done(self, told: responses.StreamSummary, run: RequestContext) -> bytes:
        """Tokens are characters in, and 25 a second of speech out."""
        read, made = self._characters, round(told.seconds * _TOKENS_PER_SECOND)
        return responses.event(
            None,
            {
                "type": "speech.audio.done",
                "usage": {"input_tokens": read, "output_tokens": made, "total_tokens": read + made},
            },
        )

    def error(self, error: SpeechError, run: RequestContext) -> bytes:
        return responses.event(None, {"type": "error", **_in_their_words(error).body()})
