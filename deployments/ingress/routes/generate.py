"""`POST /api/generate`: our own form."""

from __future__ import annotations

from fastapi import FastAPI, Request

from deployments.ingress import form
from deployments.ingress.openapi import GENERATE


def add(app: FastAPI, api) -> None:
    """`api`: the ingress replica (`deployments.ingress.deployment.CosyVoice3Api`)."""

    @app.post("/api/generate", summary="Speak a text in the voice of a clip, or in a stored one", **GENERATE)
    async def generate(request: Request):
        asked = await form.read(request)
        ask, source = await api.asked(asked.fields, asked.prompt_audio, request.state.run)
        return await api.answer(ask, source, request.state.run)
