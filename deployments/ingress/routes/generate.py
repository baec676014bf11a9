"""`POST /api/generate`: speech by our own form."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from deployments.ingress import form
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.openapi import GENERATE


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the route."""

    @app.post("/api/generate", summary="Speak a text in the voice of a clip, or in a stored one", **GENERATE)
    async def generate(request: Request) -> Response:
        sent = await form.read(request)
        return await api.speak(sent.fields, sent.prompt_audio, context_of(request))
