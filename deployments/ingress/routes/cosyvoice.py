"""The paths of CosyVoice's own FastAPI server (FunAudioLLM/CosyVoice, runtime/python/fastapi), for its clients.

They take its form fields, by POST or GET (its client sends its form with GET). They answer as it does: int16 samples at
the engine's rate, nothing around them, as they are made. Two things differ. Its clients can't name a dialect, and none
is assumed here: it is the stored voice's, the key's, or the one that `cosyvoice_dialect` in the graph's config states
for these paths; a field `dialect` may be sent too. And `spk_id` names a stored voice.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from starlette.responses import Response

from deployments.ingress import form
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.openapi import cosyvoice as docs
from speech.dialects import Registry
from speech.errors import InvalidInput, SpeechError
from speech.limits import MAX_TEXT

FORM = form.Kind("prompt_wav", text="tts_text", required=False)
RENAMED = {
    "tts_text": "text",
    "prompt_text": "prompt_text",
    "instruct_text": "style_instruction",
    "spk_id": "voice",
    "dialect": "dialect",
}
_THEIR_NAMES = {ours: theirs for theirs, ours in RENAMED.items()} | {"prompt_audio": "prompt_wav"}
#: path -> fields it must have
PATHS = {
    "/inference_sft": ("tts_text", "spk_id"),
    "/inference_zero_shot": ("tts_text", "prompt_text", "prompt_wav"),
    "/inference_cross_lingual": ("tts_text", "prompt_wav"),
    "/inference_instruct": ("tts_text", "spk_id", "instruct_text"),
    "/inference_instruct2": ("tts_text", "instruct_text", "prompt_wav"),
}
#: What their instructions are wrapped in; the engine adds its own.
#: Only the first of a row of spaces may begin a match: each would read on to the row's end.
_WRAPPING = re.compile(r"^\s*You are a helpful assistant\.\s*|(?<!\s)\s*<\|endofprompt\|>\s*$")
_IN_DIALECT = re.compile(r"请用(?:这句话用)?(.{2,5}?)(?:表达|说(?:这句话)?)[。.]?")


def add(app: FastAPI, api: IngressApi) -> None:
    """Add a route for each path and method."""
    for path, needed in PATHS.items():
        for method in ("GET", "POST"):  # a route each: an operation's id is its own
            app.add_api_route(
                path,
                _endpoint(api, needed),
                methods=[method],
                response_model=None,
                summary="As CosyVoice's own server has it",
                **docs(needed),
            )


def _endpoint(api: IngressApi, needed: tuple[str, ...]) -> Callable[[Request], Awaitable[Response]]:
    async def inference(request: Request) -> Response:
        try:
            return await _inference(api, request, needed)
        except SpeechError as error:
            error.rename_param(_THEIR_NAMES)
            raise

    return inference


async def _inference(api: IngressApi, request: Request, needed: tuple[str, ...]) -> Response:
    sent = await form.read(request, FORM)
    given = sent.fields
    for name in needed:
        if name not in given and not (name == "prompt_wav" and sent.prompt_audio is not None):
            raise InvalidInput(
                f"The field '{name}' is missing; this path needs {', '.join(needed)}.", param=name, code="field_missing"
            )
    for name in given:
        if name not in RENAMED:
            raise InvalidInput(
                f"The form has a field that is not known. Known fields: {', '.join(RENAMED)}, prompt_wav.",
                code="field_unknown",
            )
    fields = {
        ours: given[theirs]
        for theirs, ours in RENAMED.items()
        if theirs in needed or theirs == "dialect"
        if theirs in given
    }
    fields |= _instructed(fields.pop("style_instruction", ""), api.registry, "dialect" in fields)
    if len(fields.get("text", "")) > MAX_TEXT:
        fields["long_form"] = "true"
    fields |= {"response_format": "pcm", "stream_format": "audio"}
    return await api.speak(fields, sent.prompt_audio, context_of(request), default_dialect=api.config.cosyvoice_dialect)


def _instructed(text: str, registry: Registry, dialect_is_named: bool) -> dict[str, str]:
    """Return an instruction as our fields: one that names a dialect as that dialect, any other as style."""
    text = _WRAPPING.sub("", text)
    if not text:
        return {}
    if not dialect_is_named and (named := _IN_DIALECT.fullmatch(text)):
        for dialect in registry:
            if named[1] in (dialect.name, dialect.name.removesuffix("话")):
                return {"dialect": dialect.code}
    return {"mode": "instruct", "style_instruction": text}
