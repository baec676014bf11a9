"""Typed clients of the four stages, as the DAG in `graph.py` calls them, and what to do when a stage is gone.

A call is retried once, inside the request's deadline, when its replica died (Serve does not retry what a replica has
accepted; all four stages are idempotent), and an input whose owner died with its array is made again by the stage
that made it. A stage past the deadline says so itself; the ingress waits a little longer, then speaks for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import ray.exceptions
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from deployments import messages
from deployments.run import Run
from deployments.wire import Reply
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

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle
        self.remote: Callable = None

    def connect(self) -> None:
        """Look the method up, in the replica: each look-up makes a new handle, so once is enough."""
        self.remote = getattr(self.handle, self.method).remote

    async def _call(self, run: Run, send: Callable[[Carrier, tuple[Result, ...]], Awaitable[Reply]],
                    *inputs: Result) -> Result:
        """`send(carrier, inputs)` makes the remote call. Raises the stage's SpeechError, or one for a lost stage."""
        for attempt in range(1, TRIES + 1):
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
                inputs = await self._recover(run, error, started, inputs, last=attempt == TRIES)
                continue
            run.collect(reply.spans)
            if reply.error is not None:
                raise reply.error
            return Result(reply, partial(self._call, run, send, *inputs))
        raise AssertionError("unreachable: the last try returns or raises")

    async def _recover(self, run: Run, error: Exception, started: int, inputs: tuple[Result, ...],
                       last: bool) -> tuple[Result, ...]:
        """Inputs for the next try, or StageUnavailable where there can't be one."""
        cause = getattr(error, "cause", None) or error
        lost_input = isinstance(cause, ray.exceptions.ObjectLostError | ray.exceptions.ReferenceCountingAssertionError)
        if not lost_input and not isinstance(cause, _DIED):
            raise error
        log.warning("%s: %s: %s", self.service, type(cause).__name__, cause)
        message = messages.LOST_ARRAY if lost_input else messages.LOST_REPLICA
        run.lost(self.stage, self.service, started, StageUnavailable.type, message)
        if last or run.remaining_s() <= 0:
            raise StageUnavailable(f"{self.service} is not available; it is being restarted, try again shortly.",
                                   retry_after_s=5) from error
        return tuple([await result.remake() for result in inputs]) if lost_input else inputs


class AudioClient(StageClient):
    stage, service, method = vocabulary.PREPROCESS_AUDIO, "audio-service", "prepare"

    async def prepare(self, upload: bytes, utterance: Utterance, run: Run) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, upload, utterance.prompt_text)
        return await self._call(run, send)


class EmbeddingClient(StageClient):
    stage, service, method = vocabulary.EXTRACT_SPEAKER, "embedding-service", "extract"

    async def extract(self, clip: Result, run: Run) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, inputs[0].reply.facts, **inputs[0].reply.parts)
        return await self._call(run, send, clip)


class TtsClient(StageClient):
    stage, service, method = vocabulary.GENERATE_MEL, "tts-service", "generate"

    async def generate(self, utterance: Utterance, voice: Result, run: Run) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, utterance, **inputs[0].reply.parts)
        return await self._call(run, send, voice)


class VocoderClient(StageClient):
    stage, service, method = vocabulary.VOCODE_WAV, "vocoder-service", "vocode"

    async def vocode(self, mel: Result, run: Run) -> Result:
        def send(carrier, inputs):
            return self.remote(carrier, inputs[0].reply.facts, **inputs[0].reply.parts)
        return await self._call(run, send, mel)
