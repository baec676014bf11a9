"""`/v1/audio/voices`: store a voice, list the stored ones, look at one, delete one (docs/api.md, "Voices").

A clip is checked here as audio-service will check it, so that a bad one is refused while its owner is still there.
What the store does, and decoding, happens in threads: none of it may hold up the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import to_thread
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from deployments.ingress import form
from deployments.ingress.context import RequestContext
from deployments.ingress.routes import voices_openapi
from deployments.safe_traceback import safe_traceback
from engines.contract import Engine
from speech import audio
from speech.dialects import Registry
from speech.errors import InvalidInput, NotFound, NotOwner, SpeechError
from tracing import vocabulary
from voices import ClipFacts, VoiceRecord, Voices
from voices.enrolment import FILE, parse

log = logging.getLogger("ray.serve")

ALL = "/v1/audio/voices"
ONE = "/v1/audio/voices/{voice}"
FORM = form.Kind(FILE, also=("prompt_audio",), text="name, dialect and consent")
#: Clips decoded at a time, in one ingress replica: each takes up to 184 MB (15 s at 384 kHz in 8 channels).
ENROLMENTS = 2


class Api(Protocol):
    """What the endpoints need of the ingress. A request's `state.run` is its `RequestContext`."""

    engine: Engine
    registry: Registry
    voices_store: Voices | None  #: None: no voices are stored here

    async def get_ready(self, record: VoiceRecord, run: RequestContext) -> None:
        """Find the voice in its clip, so that its first request need not. Raises the stages' SpeechErrors."""
        ...

    def administers(self, run: RequestContext) -> bool:
        """Whether its caller may delete what others have stored: by an admin's key, or where no keys are in force."""
        ...


def add(app: FastAPI, api: Api) -> None:
    endpoints = _Endpoints(api)

    @app.post(ALL, summary="Store a voice", status_code=201, **voices_openapi.ENROL)
    async def enrol(request: Request):
        return await endpoints.enrol(request)

    @app.get(ALL, summary="All stored voices", **voices_openapi.LIST)
    async def voices():
        return await endpoints.all()

    @app.get(ONE, summary="One stored voice, by name or id", **voices_openapi.ONE)
    async def voice(voice: str):
        return await endpoints.one(voice)

    @app.delete(ONE, summary="Delete a stored voice and all that is kept of it", **voices_openapi.DELETE)
    async def delete(voice: str, request: Request):
        return await endpoints.delete(voice, request)


class _Endpoints:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._enrolments = asyncio.Semaphore(ENROLMENTS)

    async def enrol(self, request: Request) -> JSONResponse:
        try:
            return await self._enrol(request)
        except InvalidInput as error:
            if error.param not in FORM.also:
                raise
            raise InvalidInput(error.message, param=FILE, code=error.code) from error

    async def _enrol(self, request: Request) -> JSONResponse:
        store, run = self._store(), request.state.run
        asked = await form.read(request, FORM)
        enrolment = parse(asked.fields, self._api.registry)
        run.root.tags(
            **{
                vocabulary.REQUEST_DIALECT: enrolment.dialect.tag,
                vocabulary.REQUEST_LANGUAGE: enrolment.dialect.language,
                vocabulary.REQUEST_DIALECT_SOURCE: "request",
            }
        )
        self._api.engine.capabilities.check_dialect(enrolment.dialect.code)
        async with self._enrolments:
            clip = await self._checked(asked.prompt_audio, run)
            record, created = await to_thread(
                store.create, enrolment, asked.prompt_audio, ClipFacts.of(clip, asked.prompt_audio), run.caller.key
            )
        if created:
            await self._get_ready(record, run)
        return JSONResponse(record.public(), 201 if created else 200)

    async def _get_ready(self, record: VoiceRecord, run: RequestContext) -> None:
        try:
            await self._api.get_ready(record, run)
        except InvalidInput:  # no voice can be found in this clip, now or later
            await to_thread(self._store().delete, record)
            raise
        except SpeechError as error:  # it is stored all the same; its first request finds the voice
            log.warning("a stored voice waits for its first request, trace %s: %s", run.trace_id, safe_traceback(error))

    async def _checked(self, upload: bytes, run: RequestContext) -> audio.Clip:
        seconds = self._api.engine.capabilities.reference_seconds
        heard = await to_thread(audio.read, upload, seconds=seconds)
        run.root.tags(  # before any check, as in audio-service: the trace of a refused clip must say what it was
            {
                vocabulary.AUDIO_SAMPLE_RATE: heard.rate,
                vocabulary.AUDIO_FORMAT: heard.format,
                vocabulary.AUDIO_DURATION: round(heard.seconds, 3),
            }
        )
        clip = await to_thread(audio.checked, heard, seconds=seconds)
        run.root.tag(vocabulary.AUDIO_CLIPPING, round(clip.clipped_ratio, 5))
        return clip

    async def all(self) -> JSONResponse:
        records = await to_thread(self._store().all)
        return JSONResponse({"object": "list", "data": [record.public() for record in records]})

    async def one(self, voice: str) -> JSONResponse:
        return JSONResponse((await to_thread(self._store().find, voice)).public())

    async def delete(self, voice: str, request: Request) -> JSONResponse:
        store, run = self._store(), request.state.run
        record = await to_thread(store.find, voice)
        if not record.may_be_deleted_by(run.caller.key, admin=self._api.administers(run)):
            raise NotOwner(
                "This voice was stored with another key. Delete it with that key, or ask an administrator.",
                param="voice",
                code="voice_not_yours",
            )
        await to_thread(store.delete, record)
        return JSONResponse({"id": record.id, "object": "audio.voice.deleted", "deleted": True})

    def _store(self) -> Voices:
        if self._api.voices_store is None:
            raise NotFound(
                "No voices are stored here: this service runs without a place for them. Send the clip along "
                "with each request instead, or ask whoever runs it to set `voices.url`.",
                code="voices_off",
            )
        return self._api.voices_store
