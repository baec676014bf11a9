"""`/v1/audio/voices`: store a voice, list the stored ones, look at one; rename, fit or delete one (docs/api.md).

A clip is checked here as audio-service will check it, so that a bad one is refused while its owner is still there.
The store's work and decoding happen in threads: none of it may hold up the event loop.
"""

from __future__ import annotations

import logging
from asyncio import to_thread
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from deployments.ingress import form, json_body, openapi
from deployments.ingress.context import RequestContext
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.limited_threads import LimitedThreads
from deployments.ingress.request_tags import tag_dialect
from deployments.safe_traceback import safe_traceback
from speech import audio
from speech.errors import InvalidInput, NotFound, NotOwner, SpeechError
from tracing import vocabulary
from voices import ClipFacts, VoiceRecord, Voices
from voices.enrolment import FILE, parse
from voices.names import check_name

log = logging.getLogger("ray.serve")

ALL = "/v1/audio/voices"
ONE = "/v1/audio/voices/{voice}"
FIT = "/v1/audio/voices/{voice}/fit"
FORM = form.Kind(FILE, also=("prompt_audio",), text="name, dialect and consent")
#: Clips decoded at a time, in one ingress replica: each takes up to 184 MB (15 s at 384 kHz in 8 channels).
ENROLMENTS = 2


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the routes."""
    endpoints = _Endpoints(api)

    @app.post(ALL, summary="Store a voice", status_code=201, **openapi.ENROL)
    async def enrol(request: Request) -> JSONResponse:
        return await endpoints.enrol(request)

    @app.get(ALL, summary="All stored voices", **openapi.VOICES)
    async def voices() -> JSONResponse:
        return await endpoints.all()

    @app.get(ONE, summary="One stored voice, by name or id", **openapi.VOICE)
    async def voice(voice: str) -> JSONResponse:
        return await endpoints.one(voice)

    @app.patch(ONE, summary="Rename a stored voice", **openapi.RENAME_VOICE)
    async def rename(voice: str, request: Request) -> JSONResponse:
        return await endpoints.rename(voice, request)

    @app.post(FIT, summary="Fit a stored voice to its speaker, now or again", status_code=202, **openapi.FIT_VOICE)
    async def fit(voice: str, request: Request) -> JSONResponse:
        return await endpoints.fit(voice, request)

    @app.delete(ONE, summary="Delete a stored voice and all that is kept of it", **openapi.DELETE_VOICE)
    async def delete(voice: str, request: Request) -> JSONResponse:
        return await endpoints.delete(voice, request)


class _Endpoints:
    def __init__(self, api: IngressApi) -> None:
        self._api = api
        self._enrolments = LimitedThreads(ENROLMENTS, "enrol")

    async def enrol(self, request: Request) -> JSONResponse:
        try:
            return await self._enrol(request)
        except InvalidInput as error:
            error.rename_param(dict.fromkeys(FORM.also, FILE))
            raise

    async def _enrol(self, request: Request) -> JSONResponse:
        store, ctx = self._store(), context_of(request)
        sent = await form.read(request, FORM)
        upload = sent.prompt_audio
        assert upload is not None, "FORM has refused a form without its clip"
        enrolment = parse(sent.fields, self._api.registry)
        tag_dialect(ctx, enrolment.dialect, "request")
        self._api.engine.capabilities.check_dialect(enrolment.dialect.code)
        async with self._enrolments.place:
            clip = await self._checked(upload, ctx)
            facts, owner = ClipFacts.of(clip, upload), ctx.caller.key
            record, created = await self._enrolments.run(store.create, enrolment, upload, facts, owner)
        if created:
            await self._prepare(record, ctx)
            await self._queue(record, ctx)
        return JSONResponse(await self._public(record), 201 if created else 200)

    async def _queue(self, record: VoiceRecord, ctx: RequestContext) -> None:
        if not (record.fit and self._api.fitting.on):
            return
        try:
            await self._api.fitting.ask(record, ctx.trace_id)
        except SpeechError as error:  # fitting-service finds a voice without its fit by itself
            log.warning("the fit of a stored voice could not be queued: %s", safe_traceback(error))

    async def _public(self, record: VoiceRecord) -> dict[str, object]:
        return record.public((await self._api.fitting.shown([record])).get(record.id))

    async def _prepare(self, record: VoiceRecord, ctx: RequestContext) -> None:
        try:
            await self._api.prepare_voice(record, ctx)
        except InvalidInput:  # no voice can be found in this clip, now or later
            await to_thread(self._store().delete, record)
            raise
        except SpeechError as error:  # it is stored all the same; its first request finds the voice
            log.warning("a stored voice waits for its first request, trace %s: %s", ctx.trace_id, safe_traceback(error))

    async def _checked(self, upload: bytes, ctx: RequestContext) -> audio.Clip:
        seconds = self._api.engine.capabilities.reference_seconds
        found = await self._enrolments.run(audio.read, upload, seconds=seconds)
        ctx.root.tags(  # before any check, as in audio-service: the trace of a refused clip must say what it was
            {
                vocabulary.AUDIO_SAMPLE_RATE: found.rate,
                vocabulary.AUDIO_FORMAT: found.format,
                vocabulary.AUDIO_DURATION: round(found.seconds, 3),
            }
        )
        clip = await self._enrolments.run(audio.checked, found, seconds=seconds)
        ctx.root.tag(vocabulary.AUDIO_CLIPPING, round(clip.clipped_ratio, 5))
        return clip

    async def all(self) -> JSONResponse:
        records = await to_thread(self._store().all)
        fits = await self._api.fitting.shown(records)
        return JSONResponse({"object": "list", "data": [record.public(fits.get(record.id)) for record in records]})

    async def one(self, voice: str) -> JSONResponse:
        return JSONResponse(await self._public(await to_thread(self._store().find, voice)))

    async def rename(self, voice: str, request: Request) -> JSONResponse:
        store = self._store()
        name = _new_name(await json_body.read(request))
        record = await self._changeable(voice, request)
        return JSONResponse(await self._public(await to_thread(store.rename, record, name)))

    async def fit(self, voice: str, request: Request) -> JSONResponse:
        record = await self._changeable(voice, request)
        record, fit = await self._api.fitting.ask(record, context_of(request).trace_id, again=True)
        return JSONResponse(record.public(fit), 202)

    async def delete(self, voice: str, request: Request) -> JSONResponse:
        record = await self._changeable(voice, request)
        await to_thread(self._store().delete, record)
        return JSONResponse({"id": record.id, "object": "audio.voice.deleted", "deleted": True})

    async def _changeable(self, voice: str, request: Request) -> VoiceRecord:
        """Return the voice, if the caller may change it.

        Raises:
            VoiceNotFound: there is none.
            NotOwner: it was stored with another key.
        """
        ctx = context_of(request)
        record = await to_thread(self._store().find, voice)
        if not record.can_change(ctx.caller.key, admin=self._api.is_admin(ctx)):
            raise NotOwner(
                "This voice was stored with another key. Change, fit or delete it with that key, or ask an "
                "administrator.",
                param="voice",
                code="voice_not_yours",
            )
        return record

    def _store(self) -> Voices:
        if self._api.voices_store is None:
            raise NotFound(
                "No voices are stored here: this service runs without a place for them. Send the clip along "
                "with each request instead, or ask its operator to set `voices.url`.",
                code="voices_off",
            )
        return self._api.voices_store


def _new_name(body: dict[str, Any]) -> str:
    """Return the checked name in the body of a renaming. Raises InvalidInput for anything else in it."""
    if unknown := set(body) - {"name"}:
        raise InvalidInput(
            f"Only 'name' can be changed, and the body holds {len(unknown)} more. To change a voice's clip, dialect or "
            "transcript, store it again.",
            code="field_unknown",
        )
    name = body.get("name", "")
    if not isinstance(name, str):
        raise InvalidInput("The field 'name' must be text.", param="name", code="field_type")
    return check_name(name)
