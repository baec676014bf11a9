"""`POST /v1/audio/speech` and `GET /v1/models`, as OpenAI's clients know them, with vLLM-Omni's further fields.

OpenAI's API reference (audio/createSpeech) and vLLM-Omni's (serving/speech_api) say what the fields mean; docs/api.md
says how they are used here.
"""

from __future__ import annotations

import base64
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from deployments.ingress import form, json_body, openai_fields, server_sent_events
from deployments.ingress.context import RequestContext, StageProgress
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.openapi import MODEL, MODELS, SPEECH
from speech.errors import InvalidInput, SpeechError
from speech.words import Word

FORM = form.Kind("ref_audio", text="input and voice", required=False)


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the routes."""

    @app.post("/v1/audio/speech", summary="Speak a text, as OpenAI's clients ask for it", **SPEECH)
    async def speech(request: Request) -> Response:
        try:
            return await _speech(api, request)
        except SpeechError as error:
            error.rename_param(openai_fields.THEIR_NAMES)
            raise

    @app.get("/v1/models", summary="The engine that runs", **MODELS)
    async def models() -> JSONResponse:
        return JSONResponse({"object": "list", "data": [_model(api)]})

    @app.get("/v1/models/{model}", summary="The same by its name", **MODEL)
    async def model(model: str) -> JSONResponse:
        openai_fields.check_model(model, api)
        return JSONResponse(_model(api))


def _model(api: IngressApi) -> dict[str, Any]:
    return {
        "id": api.engine.capabilities.name,
        "object": "model",
        "created": api.started_s,
        "owned_by": openai_fields.OWNER,
    }


async def _speech(api: IngressApi, request: Request) -> Response:
    given, clip = await _read(request)
    for name in given:
        if name not in openai_fields.FIELDS:
            raise InvalidInput(
                f"The body has a field that is not known. Known fields: {', '.join(openai_fields.FIELDS)}.",
                code="field_unknown",
            )
    fields, clip = openai_fields.fields_of(given, clip, api)
    return await api.speak(fields, clip, context_of(request), event_format=EventFormat())


async def _read(request: Request) -> tuple[dict[str, str], bytes | None]:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        sent = await form.read(request, FORM)
        return sent.fields, sent.prompt_audio
    return openai_fields.as_form(await json_body.read(request)), None


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
            None, {"type": "speech.audio.done", "usage": openai_fields.usage(summary.characters, summary.seconds)}
        )

    def error(self, error: SpeechError, ctx: RequestContext) -> bytes:
        """Return the last event of a stream that failed."""
        error.rename_param(openai_fields.THEIR_NAMES)
        return server_sent_events.event(None, {"type": "error", **error.body()})
