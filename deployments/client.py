"""Typed clients of the four stages, as the DAG in `graph.py` calls them, and what to do when a stage is gone.

A call is retried once, inside the request's deadline, when its replica died (Serve does not retry what a replica has
accepted; all four stages are idempotent). An input that is lost, with its replica or because it was not kept that long,
is made again by the stage that made it. A stage past the deadline says so itself; the ingress waits a little longer,
then speaks for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import ray.exceptions
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments import messages
from deployments.arrays import Shelf
from deployments.run import Run
from deployments.voice_cache import KeptVoice
from deployments.wire import UPLOAD, Reply
from engines.contract import Utterance
from speech.errors import DeadlineExceeded, StageUnavailable
from tracing import Carrier, vocabulary

log = logging.getLogger("ray.serve")

#: How much longer than the stage itself the ingress waits for the stage's own "deadline exceeded".
GRACE_S = 0.25
TRIES = 2

_DIED = (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError, ray.exceptions.WorkerCrashedError,
         ray.exceptions.NodeDiedError, DeploymentUnavailableError)


@dataclass(frozen=True)
class Result:
    """A stage's successful reply, and how to make it again should its arrays be lost."""

    reply: Reply
    remake: Callable[[], Awaitable[Result]]


class StageClient:
    """One deployment as seen from the ingress. `handle` is Serve's."""

    stage: str
    service: str
    method: str  #: of the deployment
    remote: Callable = None
    shelf: Shelf = None

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    def __getstate__(self) -> dict:
        """Serve pickles clients, inside the graph, also to look for handles in them: what connects them stays here."""
        return {"handle": self.handle}

    def connect(self, shelf: Shelf) -> None:
        """Look the method up, in the replica: each look-up makes a new handle, so once is enough.

        `shelf`: the ingress's own, for what it hands to a stage.
        """
        self.remote = getattr(self.handle, self.method).remote
        self.shelf = shelf

    async def _call(self, run: Run, send: Callable[[Carrier, tuple[Result, ...]], Awaitable[Reply]],
                    *inputs: Result) -> Result:
        """`send(carrier, inputs)` makes the remote call. Raises the stage's SpeechError, or one for a lost stage."""
        died = lost = 0  # counted apart: when a stage dies late in its work, its inputs are mostly gone by then too
        while True:
            started = time.time_ns()
            try:
                async with asyncio.timeout(max(0.0, run.remaining_s()) + GRACE_S):
                    reply = await send(run.carrier(), inputs)
            except asyncio.CancelledError:
                run.lost(self.stage, self.service, started, "cancelled", messages.CLIENT_LEFT)
                raise
            except TimeoutError:
                run.lost(self.stage, self.service, started, DeadlineExceeded.type, messages.NO_ANSWER)
                raise DeadlineExceeded(f"{self.service} did not answer within the request's deadline; try again when "
                                       "the service is less busy.") from None
            except Exception as error:
                cause = getattr(error, "cause", None) or error
                if not isinstance(cause, _DIED):
                    raise
                log.warning("%s was lost (%s), trace %s", self.service, type(cause).__name__, run.trace_id)
                run.lost(self.stage, self.service, started, StageUnavailable.type, messages.LOST_REPLICA)
                died += 1
                self._give_up_after(died, run)
                continue
            run.collect(reply.spans)
            if reply.input_lost:  # the stage's own span says so
                lost += 1
                self._give_up_after(lost, run)
                inputs = tuple([await result.remake() for result in inputs])
                continue
            if reply.error is not None:
                raise reply.error
            return Result(reply, partial(self._call, run, send, *inputs))

    def _give_up_after(self, times: int, run: Run) -> None:
        if times == TRIES or run.remaining_s() <= 0:
            raise StageUnavailable(f"{self.service} is not available; it is being restarted, try again shortly.",
                                   retry_after_s=5)


class AudioClient(StageClient):
    stage, service, method = vocabulary.PREPROCESS_AUDIO, "audio-service", "prepare"

    async def prepare(self, upload: bytes, transcript: str | None, run: Run) -> Result:
        """Of the whole request, these two alone make the voice: it is kept by them (`deployments/voice_cache.py`)."""
        def send(carrier, inputs):
            # Put anew for every try: the shelf doesn't keep it as long as a request may last.
            parts = self.shelf.pack({UPLOAD: np.frombuffer(upload, np.uint8)})
            return self.remote(carrier, parts, transcript)
        return await self._call(run, send)


class EmbeddingClient(StageClient):
    stage, service, method = vocabulary.EXTRACT_SPEAKER, "embedding-service", "extract"

    async def extract(self, clip: Result, run: Run) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, inputs[0].reply.facts, inputs[0].reply.parts)
        return await self._call(run, send, clip)


class TtsClient(StageClient):
    stage, service, method = vocabulary.GENERATE_MEL, "tts-service", "generate"

    async def generate(self, utterance: Utterance, voice: Result, run: Run) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, utterance, inputs[0].reply.parts)
        return await self._call(run, send, voice)

    async def generate_kept(self, utterance: Utterance, voice: KeptVoice, run: Run) -> Result:
        """The same with a voice that this ingress has kept, and can hand out as often as it is lost."""
        def send(carrier, inputs):
            return self.remote(carrier, utterance, self.shelf.pack(voice.arrays))  # anew, like an upload
        return await self._call(run, send)


class VocoderClient(StageClient):
    stage, service, method = vocabulary.VOCODE_WAV, "vocoder-service", "vocode"

    async def vocode(self, mel: Result, run: Run) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, inputs[0].reply.facts, inputs[0].reply.parts)
        return await self._call(run, send, mel)
