"""Typed clients of the four stages, as the DAG in `graph.py` calls them. `retries.py` decides about lost stages.

A stage past the deadline says so itself; the ingress waits a little longer, then speaks for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from ray.serve.handle import DeploymentHandle

from deployments import ray_internals
from deployments.arrays import Array, ArrayStore, Packed, PackedArrays
from deployments.ingress.context import StageContext
from deployments.ingress.incoming_text import IncomingText
from deployments.ingress.peer_clocks import PeerClocks
from deployments.ingress.retries import RetryPolicy
from deployments.ingress.stage_result import AnyVoice, LocalInput, StageInput, StageResult, VoiceRef
from deployments.ingress.voice_cache import CachedVoice
from deployments.wire import (
    ClipReply,
    MelChunkReply,
    MelReply,
    StageReply,
    VoiceReply,
)
from engines.contract import Reach, Said, TextWanted
from speech.errors import DeadlineExceeded
from speech.utterance import Utterance
from tracing import CallContext, vocabulary

#: How much longer than the stage itself the ingress waits for the stage's own "deadline exceeded".
GRACE_S = 0.25
#: text tokens with which a live text is begun; the engine says how many it wants after that
FIRST_TOKENS = 5

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
I_co = TypeVar("I_co", covariant=True)


class Response(Protocol[T_co]):
    """A call under way, as Serve's `DeploymentResponse` has it."""

    def __await__(self) -> Any: ...

    def cancel(self) -> Any: ...


async def _reply(response: Response[StageReply[T]]) -> StageReply[T]:
    """Await a reply. If this task is cancelled, cancel the remote call too: Serve does so only on a disconnect."""
    try:
        return cast("StageReply[T]", await response)
    except asyncio.CancelledError:
        response.cancel()
        raise


class StageClient:
    """A stage's deployment as the ingress sees it.

    Args:
        handle: Serve's handle of the deployment.
    """

    stage: str
    service: str
    arrays: ArrayStore
    clocks: PeerClocks

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self.handle = handle

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the handle alone. Serve pickles clients, inside the graph, also to look for handles in them."""
        return {"handle": self.handle}

    def connect(self, arrays: ArrayStore, clocks: PeerClocks) -> None:
        """Look up the deployment's methods. Call it in the replica: each look-up makes a new handle, so once is enough.

        Args:
            arrays: the ingress's own arrays, for what it hands to a stage.
            clocks: the ingress's view of other nodes' clocks.
        """
        self.arrays, self.clocks = arrays, clocks
        ray_internals.prefer_local_replicas(self.handle)

    async def _call(
        self,
        ctx: StageContext,
        send: Callable[[CallContext, I_co], Response[StageReply[T]]],
        given: StageInput[I_co],
        spans_earlier_calls: bool = False,
    ) -> StageResult[T]:
        """Make a remote call, with retries.

        Args:
            ctx: the request.
            send: makes the remote call with the input's value.
            given: the call's input, which is made again if it is lost.
            spans_earlier_calls: the reply's span began with an earlier call.

        Raises:
            SpeechError: the stage's own, or one for a lost stage.
        """
        policy, call = self._policy(ctx), self.clocks.tell(ctx.call_context())
        while True:
            with policy.attempt():
                async with asyncio.timeout(max(0.0, call.remaining_s()) + GRACE_S):
                    reply = await _reply(send(call, given.value))
                reply = self._timed(reply, None if spans_earlier_calls else call.sent_ns)
                if policy.accept(reply):
                    # A reply without an error has a value.
                    return StageResult(
                        cast(T, reply.value),
                        partial(self._call, ctx, send, given, spans_earlier_calls),
                        reported=bool(reply.spans),
                    )
            if policy.remake_input:
                given = await given.remake()
            call = call.resent()

    def _policy(self, ctx: StageContext) -> RetryPolicy:
        return RetryPolicy(self.stage, self.service, ctx, partial(ray_internals.replica_node, self.handle))

    def _timed(self, reply: StageReply[T], sent_ns: int | None) -> StageReply[T]:
        """Measure the replica's clock by its reply; see `PeerClocks.read`."""
        return replace(reply, spans=self.clocks.read(reply.spans, sent_ns, time.time_ns())) if reply.spans else reply

    async def _run(
        self,
        ctx: StageContext,
        send: Callable[[CallContext, I_co], Response[StageReply[T]]],
        given: StageInput[I_co],
    ) -> StageResult[T]:
        """Make a remote call and report its start and end as the stage's progress."""
        with ctx.progress(self.stage, self.service):
            return await self._call(ctx, send, given)


class AudioClient(StageClient):
    """Calls `deployments/stages/audio.py`."""

    stage, service = vocabulary.PREPROCESS_AUDIO, vocabulary.AUDIO
    remote: Callable[[CallContext, Packed, str | None], Response[StageReply[ClipReply]]]

    def connect(self, arrays: ArrayStore, clocks: PeerClocks) -> None:
        """Look up `AudioService.preprocess`."""
        super().connect(arrays, clocks)
        self.remote = self.handle.preprocess.remote

    async def preprocess(self, upload: bytes, transcript: str | None, ctx: StageContext) -> StageResult[ClipReply]:
        """Check and resample a clip.

        Upload and transcript alone make the voice, so they are its key in `voice_cache.py`.
        """

        def send(call: CallContext, upload: bytes) -> Response[StageReply[ClipReply]]:
            # Packed anew for every attempt: an array is not held as long as a request may last.
            return self.remote(call, self.arrays.pack(np.frombuffer(upload, np.uint8)), transcript)

        return await self._run(ctx, send, LocalInput(upload))


class EmbeddingClient(StageClient):
    """Calls `deployments/stages/embedding.py`."""

    stage, service = vocabulary.EXTRACT_SPEAKER, vocabulary.EMBEDDING
    remote: Callable[[CallContext, ClipReply, bool], Response[StageReply[VoiceReply]]]

    def connect(self, arrays: ArrayStore, clocks: PeerClocks) -> None:
        """Look up `EmbeddingService.extract`."""
        super().connect(arrays, clocks)
        self.remote = self.handle.extract.remote

    async def extract(self, clip: StageResult[ClipReply], for_fit: bool, ctx: StageContext) -> StageResult[VoiceReply]:
        """Find the voice in a clip; `for_fit` also finds what a fit without the clip needs."""

        def send(call: CallContext, clip: ClipReply) -> Response[StageReply[VoiceReply]]:
            return self.remote(call, clip, for_fit)

        return await self._run(ctx, send, clip)


class TtsClient(StageClient):
    """Calls `deployments/stages/tts.py`."""

    stage, service = vocabulary.GENERATE_MEL, vocabulary.TTS
    remote: Callable[[CallContext, Utterance, PackedArrays], Response[StageReply[MelReply]]]
    remote_stream: Callable[[CallContext, Utterance, PackedArrays, Said, Reach | None], Any]

    def connect(self, arrays: ArrayStore, clocks: PeerClocks) -> None:
        """Look up `TtsService.generate` and `TtsService.stream`."""
        super().connect(arrays, clocks)
        self.remote = self.handle.generate.remote
        self.remote_stream = self.handle.options(stream=True).stream.remote

    async def generate(self, utterance: Utterance, voice: VoiceRef, ctx: StageContext) -> StageResult[MelReply]:
        """Compute an utterance's mel."""

        def send(call: CallContext, voice: AnyVoice) -> Response[StageReply[MelReply]]:
            return self.remote(call, utterance, self._packed(voice))

        return await self._run(ctx, send, _input(voice))

    async def stream(
        self,
        utterance: Utterance,
        voice: VoiceRef,
        ctx: StageContext,
        beyond: Reach | None = None,
        said: Said = (),
    ) -> AsyncGenerator[StageResult[MelChunkReply], None]:
        """Yield the mel's chunks as they are made, except those that reach no further than `beyond`.

        A stage that dies on the way is replaced by another replica. It is given the tokens said so far and goes on
        after them. What was given out already is not made again; chunks that came further are skipped.

        Args:
            utterance: what to say.
            voice: the voice to say it in.
            ctx: the request.
            beyond: a chunk's `reaches`.
            said: a chunk's `said`.
        """
        with ctx.progress(self.stage, self.service):
            async with aclosing(self._stream(utterance, voice, ctx, beyond, said)) as found:
                async for chunk in found:
                    if not isinstance(chunk, TextWanted):
                        yield chunk

    async def stream_live(
        self,
        text: IncomingText,
        utterance: Utterance,
        voice: VoiceRef,
        ctx: StageContext,
        enter: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        paced: bool = False,
    ) -> AsyncGenerator[StageResult[MelChunkReply], None]:
        """Say a text while it comes, and yield its mel's chunks; only where `Capabilities.live_text` is true.

        Each time the engine has said what the text so far allows, it is called again with more text and with the
        tokens that it had said. So no replica is bound to the utterance. Each call has a span.

        Args:
            text: the text.
            utterance: how to say it; its own text is not used.
            voice: the voice to say it in. It should be held here (`CachedVoice`), since texts may take minutes.
            ctx: the request.
            enter: entered for each call, and left while more text is waited for.
            paced: the request's deadline does not limit that wait.

        Raises:
            SpeechError: as `stream`, and those of `IncomingText.take`.
        """
        beyond: Reach | None = None
        said: Said = ()
        given_s, heard_until = 0.0, time.monotonic()
        wanted, complete, taken = FIRST_TOKENS, False, ""
        try:
            with ctx.progress(self.stage, self.service):
                while not complete:
                    with ctx.continuity.waiting_for_text():
                        async with _deadline(None if paced else ctx):
                            taken, complete = await text.take(wanted, taken, heard_until - time.monotonic())
                    live = replace(utterance, text=taken, live=True, open=not complete)
                    async with enter(), aclosing(self._stream(live, voice, ctx, beyond, said)) as found:
                        async for chunk in found:
                            if isinstance(chunk, TextWanted):
                                said, wanted = chunk.said, chunk.tokens
                                continue
                            if beyond is None or chunk.value.part > beyond[0]:
                                given_s = 0.0
                            beyond, said = chunk.value.reaches, chunk.value.said
                            heard_until = max(heard_until, time.monotonic()) + chunk.value.seconds - given_s
                            given_s = chunk.value.seconds
                            yield chunk
        finally:
            await text.close()

    async def _stream(
        self, utterance: Utterance, voice: VoiceRef, ctx: StageContext, beyond: Reach | None, said: Said
    ) -> AsyncGenerator[StageResult[MelChunkReply] | TextWanted, None]:
        """Make one call, with retries; an open text's ends with TextWanted."""
        policy, call = self._policy(ctx), self.clocks.tell(ctx.call_context())
        given, ended = _input(voice), False
        wanted: TextWanted | None = None
        while not ended:
            with policy.attempt():
                replies = self.remote_stream(call, utterance, self._packed(given.value), said, beyond)
                try:
                    while not ended:
                        async with asyncio.timeout(max(0.0, call.remaining_s()) + GRACE_S):
                            reply: StageReply[MelChunkReply | TextWanted] = await anext(replies)
                        reply = self._timed(reply, call.sent_ns)
                        if not policy.accept(reply):
                            break
                        chunk = reply.value
                        ended = chunk is None
                        if isinstance(chunk, TextWanted):
                            wanted, said = chunk, chunk.said
                        elif chunk is not None and (beyond is None or chunk.reaches > beyond):
                            before, beyond, said = beyond, chunk.reaches, chunk.said
                            yield StageResult(chunk, partial(self._again, utterance, voice, ctx, before, said))
                finally:
                    if not ended:
                        replies.cancel()
            if policy.remake_input:
                given = await given.remake()
            call = call.resent()
        if wanted is not None:
            yield wanted

    async def _again(
        self,
        utterance: Utterance,
        voice: VoiceRef,
        ctx: StageContext,
        beyond: Reach | None,
        said: Said,
    ) -> StageResult[MelChunkReply]:
        """Make a chunk in place of one that was lost; it may reach further."""
        async with aclosing(self.stream(utterance, voice, ctx, beyond, said)) as chunks:
            return await anext(chunks)

    def _packed(self, voice: AnyVoice) -> PackedArrays:
        """Return a voice as it is sent; the ingress's own is packed anew for every attempt, like an upload."""
        return self.arrays.pack_all(voice.arrays) if isinstance(voice, CachedVoice) else voice.arrays


def _input(voice: VoiceRef) -> StageInput[AnyVoice]:
    return LocalInput(voice) if isinstance(voice, CachedVoice) else voice


@asynccontextmanager
async def _deadline(ctx: StageContext | None) -> AsyncGenerator[None, None]:
    """Limit a wait for text to the request's deadline; None: there is no limit."""
    try:
        async with asyncio.timeout(None if ctx is None else max(0.0, ctx.remaining_s())):
            yield
    except TimeoutError:
        raise DeadlineExceeded(
            "The request's deadline passed before its text was complete; send the text faster, or in more requests.",
            param="text",
            code="text_overdue",
        ) from None


class WatermarkClient(StageClient):
    """Calls `VocoderService.find_watermark`, on the vocoder's handle."""

    stage, service = vocabulary.FIND_WATERMARK, vocabulary.VOCODER
    remote: Callable[[CallContext, Packed, int], Response[StageReply[float]]]

    def connect(self, arrays: ArrayStore, clocks: PeerClocks) -> None:
        """Look up the method."""
        super().connect(arrays, clocks)
        self.remote = self.handle.find_watermark.remote

    async def find(self, samples: Array, rate: int, ctx: StageContext) -> float:
        """Look for the watermark in mono float32 (n,) at `rate` Hz; returns 0 to 1. Raises the stage's errors."""

        def send(call: CallContext, samples: Array) -> Response[StageReply[float]]:
            return self.remote(call, self.arrays.pack(samples), rate)

        return (await self._call(ctx, send, LocalInput(samples))).value
