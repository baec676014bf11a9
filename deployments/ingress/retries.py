"""The attempts of one call to a stage: what went wrong with them, and whether another one is worth it.

A call is tried once more, inside the request's deadline, when its replica died (Serve does not retry what a replica has
accepted; all four stages are idempotent). An input that is lost, with its replica or because it was not kept that long,
is made again by the stage that made it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray.exceptions
from ray.serve.exceptions import DeploymentUnavailableError

from deployments import error_messages
from deployments.ingress.context import RequestContext
from deployments.wire import Reply
from speech.errors import DeadlineExceeded, StageUnavailable

log = logging.getLogger("ray.serve")

TRIES = 2

_DIED = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    DeploymentUnavailableError,
)


class RetryPolicy:
    """Of one call, `stage` being the span's name and `service` Serve's and Zipkin's."""

    def __init__(self, stage: str, service: str, run: RequestContext) -> None:
        self._stage, self._service = stage, service
        self._run = run
        self._died = self._lost = 0  # apart: when a stage dies late in its work, its inputs are mostly gone by then too
        self.remake = False  #: before the next attempt, its inputs are to be made again

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Around an attempt. Swallows a death that may be tried again; raises whatever else ends the call."""
        run, started = self._run, time.time_ns()
        self.remake = False
        try:
            yield
        except GeneratorExit:  # whoever took the stream's chunks wants no more of them
            run.lost(self._stage, self._service, started, "cancelled", error_messages.STREAM_BROKEN)
            raise
        except asyncio.CancelledError:
            run.lost(
                self._stage,
                self._service,
                started,
                "cancelled",
                error_messages.STREAM_BROKEN if run.abandoned else error_messages.CLIENT_LEFT,
            )
            raise
        except TimeoutError:
            run.lost(self._stage, self._service, started, DeadlineExceeded.type, error_messages.NO_ANSWER)
            raise DeadlineExceeded(
                f"{self._service} did not answer within the request's deadline; try again when "
                "the service is less busy."
            ) from None
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            if not isinstance(cause, _DIED):
                raise
            log.warning("%s was lost (%s), trace %s", self._service, type(cause).__name__, run.trace_id)
            run.lost(self._stage, self._service, started, StageUnavailable.type, error_messages.LOST_REPLICA)
            self._died += 1
            self._give_up_after(self._died)

    def accept(self, reply: Reply) -> bool:
        """Take a reply's spans. False where it is worth another attempt; raises its error where it has one."""
        self._run.collect(reply.spans)
        if reply.input_lost:  # the stage's own span says so
            self._lost += 1
            self._give_up_after(self._lost)
            self.remake = True
            return False
        if reply.error is not None:
            raise reply.error
        return True

    def _give_up_after(self, times: int) -> None:
        if times == TRIES or self._run.remaining_s() <= 0:
            raise StageUnavailable(
                f"{self._service} is not available; it is being restarted, try again shortly.", retry_after_s=5
            )
