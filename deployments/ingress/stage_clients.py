"""Typed clients of the four stages, as the DAG in `graph.py` calls them. What is done when a stage is gone: `tries.py`.

A stage past the deadline says so itself; the ingress waits a little longer, then speaks for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import partial

import numpy as np
from ray.serve.handle import DeploymentHandle

from deployments import error_messages
from deployments.arrays import ArrayStore, InputLost, Parts
from deployments.ingress.context import RequestContext
from deployments.ingress.retries import RetryPolicy
from deployments.ingress.voice_cache import KeptVoice
from deployments.wire import FINAL, PART, SECONDS, SO_FAR, UPLOAD, Reply, SoFar
from engines.contract import Utterance
from tracing import CallContext, vocabulary

#: How much longer than the stage itself the ingress waits for the stage's own "deadline exceeded".
GRACE_S = 0.25


@dataclass(frozen=True)
class Result:
    """A stage's successful reply, and how to make it again should its arrays be lost."""

    reply: Reply
    remake: Callable[[], Awaitable[Result]]


Unpack = Callable[[Parts], Awaitable[dict[str, np.ndarray]]]  #: `ArrayStore.unpack`


async def unpacked(result: Result, unpack: Unpack) -> dict[str, np.ndarray]:
    """A result's arrays, the result made again once where they are lost. Raises InputLost where they are again."""
    try:
        return await unpack(result.reply.parts)
    except InputLost:
        return await unpack((await result.remake()).reply.parts)


async def _answered(response: Awaitable[Reply]) -> Reply:
    """The reply. Whoever is cancelled takes the remote call along: Serve does that only for a client that has left."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise


Made = Result | KeptVoice  #: a voice as GENERATE_MEL takes it: just found, or kept by this ingress


class StageClient:
    """One deployment as seen from the ingress. `handle` is Serve's."""

    stage: str
    service: str
    method: str  #: of the deployment
    remote: Callable = None
    shelf: ArrayStore = None

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    def __getstate__(self) -> dict:
        """Serve pickles clients, inside the graph, also to look for handles in them: what connects them stays here."""
        return {"handle": self.handle}

    def connect(self, shelf: ArrayStore) -> None:
        """Look the method up, in the replica: each look-up makes a new handle, so once is enough.

        `shelf`: the ingress's own, for what it hands to a stage.
        """
        self.remote = getattr(self.handle, self.method).remote
        self.shelf = shelf

    async def _call(
        self, run: RequestContext, send: Callable[[CallContext, tuple[Result, ...]], Awaitable[Reply]], *inputs: Result
    ) -> Result:
        """`send(carrier, inputs)` makes the remote call. Raises the stage's SpeechError, or one for a lost stage."""
        tries = RetryPolicy(self.stage, self.service, run)
        while True:
            with tries.guarding():
                async with asyncio.timeout(max(0.0, run.remaining_s()) + GRACE_S):
                    reply = await _answered(send(run.carrier(), inputs))
                if tries.accept(reply):
                    return Result(reply, partial(self._call, run, send, *inputs))
            if tries.remake:
                inputs = tuple([await result.remake() for result in inputs])

    async def _watched(
        self, run: RequestContext, send: Callable[[CallContext, tuple[Result, ...]], Awaitable[Reply]], *inputs: Result
    ) -> Result:
        with run.watching(self.stage, self.service):
            return await self._call(run, send, *inputs)


class AudioClient(StageClient):
    stage, service, method = vocabulary.PREPROCESS_AUDIO, "audio-service", "prepare"

    async def prepare(self, upload: bytes, transcript: str | None, run: RequestContext) -> Result:
        """Of the whole request, these two alone make the voice: it is kept by them (`deployments/ingress/voice_cache.py`)."""

        def send(carrier, inputs):
            # Put anew for every try: the shelf doesn't keep it as long as a request may last.
            parts = self.shelf.pack({UPLOAD: np.frombuffer(upload, np.uint8)})
            return self.remote(carrier, parts, transcript)

        return await self._watched(run, send)


class EmbeddingClient(StageClient):
    stage, service, method = vocabulary.EXTRACT_SPEAKER, "embedding-service", "extract"

    async def extract(self, clip: Result, run: RequestContext) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, inputs[0].reply.facts, inputs[0].reply.parts)

        return await self._watched(run, send, clip)


class TtsClient(StageClient):
    stage, service, method = vocabulary.GENERATE_MEL, "tts-service", "generate"
    remote_stream: Callable = None

    def connect(self, shelf: ArrayStore) -> None:
        super().connect(shelf)
        self.remote_stream = self.handle.options(stream=True).stream.remote

    async def generate(self, utterance: Utterance, voice: Made, run: RequestContext) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, utterance, self._parts(voice, inputs))

        return await self._watched(run, send, *_inputs(voice))

    async def stream(
        self, utterance: Utterance, voice: Made, run: RequestContext, beyond: tuple | None = None
    ) -> AsyncIterator[Result]:
        """The mel's chunks as they are made, but for those that reach no further than `beyond` (`MelChunk.reaches`).

        A stage that dies on the way is replaced by another one, which says the same again (same seed, same tokens),
        maybe cut elsewhere: what was given out already is passed over.
        """
        inputs, tries, ended = _inputs(voice), RetryPolicy(self.stage, self.service, run), False
        with run.watching(self.stage, self.service):
            while not ended:
                with tries.guarding():
                    replies = self.remote_stream(run.carrier(), utterance, self._parts(voice, inputs))
                    try:
                        while not ended:
                            async with asyncio.timeout(max(0.0, run.remaining_s()) + GRACE_S):
                                reply = await anext(replies)
                            if not tries.accept(reply):
                                break
                            ended = not reply.facts
                            if not ended and (beyond is None or reaches(reply.facts) > beyond):
                                before, beyond = beyond, reaches(reply.facts)
                                yield Result(reply, partial(self._again, utterance, voice, run, before))
                    finally:
                        if not ended:
                            replies.cancel()
                if tries.remake:
                    inputs = tuple([await result.remake() for result in inputs])

    async def _again(self, utterance: Utterance, voice: Made, run: RequestContext, beyond: tuple | None) -> Result:
        """A chunk in place of one that was lost; it may reach further."""
        async with aclosing(self.stream(utterance, voice, run, beyond)) as chunks:
            return await anext(chunks)

    def _parts(self, voice: Made, inputs: tuple[Result, ...]) -> Parts:
        """A kept voice is put on the shelf anew for every try, like an upload."""
        return self.shelf.pack(voice.arrays) if isinstance(voice, KeptVoice) else inputs[0].reply.parts


def reaches(facts: dict) -> tuple[int, float, bool]:
    """`MelChunk.reaches`, of a chunk's reply."""
    return facts[PART], facts[SECONDS], facts[FINAL]


def _inputs(voice: Made) -> tuple[Result, ...]:
    """What has to be made again where it is lost."""
    return () if isinstance(voice, KeptVoice) else (voice,)


class VocoderClient(StageClient):
    stage, service, method = vocabulary.VOCODE_WAV, "vocoder-service", "vocode"
    remote_chunk: Callable = None

    def connect(self, shelf: ArrayStore) -> None:
        super().connect(shelf)
        self.remote_chunk = self.handle.vocode_chunk.remote

    async def vocode(self, mel: Result, run: RequestContext) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, inputs[0].reply.facts, inputs[0].reply.parts)

        return await self._watched(run, send, mel)

    async def follow(self, chunks: AsyncIterator[Result], run: RequestContext) -> AsyncIterator[Result]:
        """The audio that each chunk of a mel adds, as the chunks come.

        vocoder-service makes one span of all its calls, with the last one. Where a stream ends before, the ingress
        speaks for it.
        """
        so_far, silent = SoFar(), True

        def send(carrier, inputs):
            return self.remote_chunk(carrier, inputs[0].reply.facts, inputs[0].reply.parts, so_far)

        async with aclosing(chunks):  # or whoever made them would go on, for as long as a failure's traceback is kept
            with ExitStack() as watch:
                try:
                    async for chunk in chunks:
                        if so_far.reached is not None and reaches(chunk.reply.facts) <= so_far.reached:
                            continue  # one that was made again in place of a lost one came as far
                        if not so_far.chunks:
                            watch.enter_context(run.watching(self.stage, self.service))
                        silent = True  # a call that fails has a span, its own or the ingress's
                        audio = await self._call(run, send, chunk)
                        so_far, silent = audio.reply.facts[SO_FAR], bool(audio.reply.spans)
                        yield audio
                except BaseException:
                    if not silent:
                        run.lost(self.stage, self.service, so_far.started_ns, "cancelled", error_messages.STREAM_BROKEN)
                    raise
