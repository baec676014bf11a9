"""`POST /v1/audio/verify`: which marks of synthetic speech a file has, and the trace that it comes from."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from deployments.ingress import form, openapi
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.limited_threads import LimitedThreads
from speech import verification
from speech.errors import InvalidInput
from tracing import vocabulary

PATH = "/v1/audio/verify"
FORM = form.Kind("file", text="nothing else", what="the audio to look at")
#: Files decoded at a time, in one ingress replica.
AT_ONCE = 2
_TOO_LARGE = "clip_too_large"
_EMPTY = "clip_empty"


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the route."""
    threads = LimitedThreads(AT_ONCE, "verify")

    @app.post(PATH, summary="Which marks of synthetic speech a file has", **openapi.VERIFY)
    async def verify(request: Request) -> JSONResponse:
        data, ctx = await _read(request), context_of(request)
        async with threads.place:
            found = await threads.run(verification.read, data)
        sure = await api.find_watermark(found.samples, found.rate, ctx)
        ctx.root.tags(
            {
                vocabulary.AUDIO_SAMPLE_RATE: found.rate,
                vocabulary.AUDIO_FORMAT: found.format,
                vocabulary.AUDIO_DURATION: round(found.seconds, 3),
            }
        )
        return JSONResponse(_report(found, sure, api))


async def _read(request: Request) -> bytes:
    try:
        sent = await form.read(request, FORM)
    except InvalidInput as error:
        if error.code == _TOO_LARGE:
            raise verification.too_large() from error
        if error.code == _EMPTY:
            return b""  # verification.read has the words for it
        raise
    if sent.fields:
        raise InvalidInput("The form has a field beside the file; this path takes 'file' alone.", code="field_unknown")
    assert sent.prompt_audio is not None, "FORM has refused a form without its file"
    return sent.prompt_audio


def _report(found: verification.MarkedFile, sure: float | None, api: IngressApi) -> dict[str, Any]:
    mark, watermark = found.mark, verification.watermark(sure)
    ours = mark is not None and mark.content_producer == api.config.marking.producer
    trace_id = mark.trace_id if mark is not None and ours else None
    return {
        "object": "audio.verification",
        "marked": mark is not None or bool(watermark and watermark["found"]),
        "metadata": mark.public() if mark is not None else None,
        "watermark": watermark,
        "ours": ours,
        "trace_id": trace_id,
        "trace_url": api.config.tracing.trace_url(trace_id) if trace_id else None,
        "format": found.format,
        "seconds": round(found.seconds, 3),
    }
