"""`POST /v1/audio/speech/batch`: up to 32 texts in one request, with the names that vLLM-Omni's clients know.

The body has `items`, each with its `input`. Any other field of `POST /v1/audio/speech` stands in an item, or beside the
items for all of them. An item is a request like any other: it has a trace of its own, it is admitted by itself, and it
counts against the caller's limits. Its failure is its own; the answer says of each item what became of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import AsyncExitStack
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response

from deployments.ingress import json_body, openai_fields
from deployments.ingress.context import RequestContext
from deployments.ingress.ingress_api import IngressApi, context_of
from deployments.ingress.openapi import BATCH
from deployments.ingress.request_models import MAX_ITEMS, BatchItem
from speech.errors import DeadlineExceeded, InvalidInput, RateLimited, SpeechError
from speech.mark import HEADER, Mark
from tracing import vocabulary

ROUTE = "/v1/audio/speech/batch"
#: Bytes of all audio files of an answer together; in base64 they are a third more. 32 items of 20 s fit as WAV.
MAX_ANSWER_BYTES = 32 * 2**20
_FIELDS = tuple(BatchItem.model_fields)


def add(app: FastAPI, api: IngressApi) -> None:
    """Add the route."""

    @app.post(ROUTE, summary="Speak many texts; each fails alone", **BATCH)
    async def batch(request: Request) -> Response:
        common, items = await _read(request)
        ctx = context_of(request)
        limits = api.config.limits
        await ctx.extend_deadline(limits.long_deadline_s)
        results = await _Batch(api, ctx, common).run(items)
        failed = sum(result["status"] == "error" for result in results)
        ctx.root.tags({vocabulary.REQUEST_ITEMS: len(items), vocabulary.REQUEST_ITEMS_FAILED: failed})
        answer = {
            "id": f"speech-batch-{ctx.trace_id}",
            "results": results,
            "total": len(items),
            "succeeded": len(items) - failed,
            "failed": failed,
        }
        # Up to 45 MB: written aside, because all requests share the event loop.
        body = await asyncio.to_thread(lambda: json.dumps(answer, ensure_ascii=False).encode())
        mark = Mark(api.config.marking.producer, ctx.trace_id).value()
        return Response(body, media_type="application/json", headers={HEADER: mark} if failed < len(items) else None)


async def _read(request: Request) -> tuple[dict[str, str], list[Any]]:
    """Return the fields for all items, as text, and the items as they were sent."""
    try:
        body = await json_body.read(request)
    except InvalidInput as error:
        if error.code != "clip_too_large":
            raise
        raise InvalidInput(
            f"The batch is larger than {json_body.MAX_BODY_BYTES // 2**20} MB. Send a clip that many items share once, "
            "as 'ref_audio' beside 'items', or store the voice (POST /v1/audio/voices) and name it in 'voice'.",
            code="batch_too_large",
        ) from error
    items = body.pop("items", None)
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
        count = f"; this batch has {len(items)}" if isinstance(items, list) else ""
        raise InvalidInput(
            f"The field 'items' must be a list of 1 to {MAX_ITEMS} items{count}. Each item is an object with its text "
            'in \'input\': {"items": [{"input": "Hello."}], "voice": "anna"}.',
            param="items",
            code="items_count",
        )
    if "input" in body:
        raise InvalidInput(
            "The field 'input' belongs into each item, not beside 'items'.", param="input", code="input_beside_items"
        )
    common = openai_fields.as_form(body)
    _check_names(common, ("items", *(name for name in _FIELDS if name != "input")), "body")
    return common, items


def _check_names(given: dict[str, str], known: tuple[str, ...], what: str) -> None:
    for name in given:
        if name not in known:
            raise InvalidInput(
                f"The {what} has a field that is not known. Known fields: {', '.join(known)}.", code="field_unknown"
            )
    if given.get("stream", "false") != "false":
        raise InvalidInput(
            "A batch answers with whole files. Leave 'stream' out, or send the text to POST /v1/audio/speech.",
            param="stream",
            code="batch_stream",
        )


def _merged(common: dict[str, str], item: Any) -> dict[str, str]:
    """Return an item's fields, with those for all items where it has none of its own.

    Fields that speak of the same thing are inherited together or not at all: an item with a voice of its own would
    otherwise be spoken by the clip for all, and a clip of its own would get the transcript of another.
    """
    if not isinstance(item, dict):
        raise InvalidInput("An item must be an object with its text in 'input'.", code="item_not_object")
    own = openai_fields.as_form(item)
    _check_names(own, _FIELDS, "item")
    inherited = dict(common)
    for names in (("voice", "ref_audio", "ref_text"), ("dialect", "language")):
        if any(name in own for name in names if name != "ref_text"):
            for name in names:
                inherited.pop(name, None)
    return inherited | own


class _Batch:
    """The items of one request on their way.

    Args:
        api: the ingress.
        ctx: the request that they came in.
        common: the fields for all items.
    """

    def __init__(self, api: IngressApi, ctx: RequestContext, common: dict[str, str]) -> None:
        self._api = api
        self._ctx = ctx
        self._common = common
        self._running = asyncio.Semaphore(api.config.limits.batch_items_at_once)
        self._own_place = asyncio.Lock()  # the place among the caller's requests that the batch itself holds
        self._counted = False  # the batch itself has counted for its first item
        self._bytes_left = MAX_ANSWER_BYTES

    async def run(self, items: list[Any]) -> list[dict[str, Any]]:
        """Speak all items, some side by side; returns their results in order. Cancelled, it cancels all of them."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._item(index, item)) for index, item in enumerate(items)]
        return [task.result() for task in tasks]

    async def _item(self, index: int, item: Any) -> dict[str, Any]:
        async with self._running, AsyncExitStack() as place:
            refused = await self._take_place(place)
            inner: RequestContext | None = None
            try:
                async with self._api.subrequest(
                    self._ctx,
                    f"POST {ROUTE}",
                    deadline_s=self._api.config.limits.deadline_s,
                    tags={vocabulary.REQUEST_ITEM: index},
                ) as inner:
                    if refused is not None:
                        raise refused
                    result = await self._speak(item, inner)
            except SpeechError as error:
                error.rename_param(openai_fields.THEIR_NAMES)
                result = _failed(error)
        assert inner is not None, "a subrequest that can't be opened raises no SpeechError"
        traced = {"trace_id": inner.trace_id, "trace_url": self._api.trace_url(inner), "voice_fit": inner.voice_fit}
        return {"index": index, **result, **{name: value for name, value in traced.items() if value is not None}}

    async def _take_place(self, place: AsyncExitStack) -> RateLimited | None:
        """Take a place among the caller's concurrent requests, and count the item against its rate.

        The batch holds a place already, in which its items run one after the other; for more of them side by side the
        caller needs more places. Waits for the batch's own place where there is no other.

        Returns:
            The error if the caller's rate is reached.
        """
        access, caller = self._api.access_control, self._ctx.caller
        try:
            if self._own_place.locked():
                try:
                    await place.enter_async_context(access.enter_inner(caller, own_place=True))
                    return None
                except RateLimited as error:
                    if error.code != "too_many_at_once":
                        raise
            await place.enter_async_context(self._own_place)
            if self._counted:
                await place.enter_async_context(access.enter_inner(caller, own_place=False))
            self._counted = True
            return None
        except RateLimited as error:
            return error

    async def _speak(self, item: Any, inner: RequestContext) -> dict[str, Any]:
        if self._ctx.remaining_s() <= 0:
            raise DeadlineExceeded(
                "The batch's deadline passed before this item was begun. Send fewer items at once.",
                code="batch_deadline",
            )
        self._check_room(1)
        given = _merged(self._common, item) | {"stream": "false"}
        given.setdefault("response_format", "wav")  # vLLM-Omni's default; OpenAI's knows no batch
        fields, clip = openai_fields.fields_of(given, None, self._api)
        response = await self._api.speak(fields, clip, inner)
        body = bytes(response.body)
        size = len(body) * 3 // 4 if fields.get("timestamps") else len(body)  # with times it is in base64 already
        self._check_room(size)
        self._bytes_left -= size
        spoken = await asyncio.to_thread(_timed if fields.get("timestamps") else _encoded, body)
        return {
            "status": "success",
            "media_type": response.media_type,
            **spoken,
            "seconds": round(inner.audio_s, 3),
            "usage": openai_fields.usage(len(fields.get("text", "")), inner.audio_s),
            "aigc": response.headers[HEADER],
        }

    def _check_room(self, size: int) -> None:
        if size > self._bytes_left:
            self._bytes_left = 0  # an item that is begun later would be spoken in vain
            raise InvalidInput(
                f"The audio files of this batch are larger than {MAX_ANSWER_BYTES // 2**20} MB together. Send this "
                "item in another batch, or ask for a smaller response_format: mp3, opus or aac.",
                code="answer_too_large",
            )


def _encoded(file: bytes) -> dict[str, Any]:
    return {"audio_data": base64.b64encode(file).decode("ascii")}


def _timed(answer: bytes) -> dict[str, Any]:
    """Return the file of a `TimedSpeech`, with the times of what is said in it."""
    found = json.loads(answer)
    return {"audio_data": found["audio"], "media_type": found["media_type"], "timestamps": found["timestamps"]}


def _failed(error: SpeechError) -> dict[str, Any]:
    retry_after = error.headers().get("Retry-After")
    found = {
        "status": "error",
        "error": error.message,
        "error_type": error.type,
        "error_code": error.code,
        "error_param": error.param,
        "status_code": error.status,
        "retry_after": None if retry_after is None else int(retry_after),
    }
    return {name: value for name, value in found.items() if value is not None}
