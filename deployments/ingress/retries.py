"""The attempts of one call to a stage: what went wrong with them, and whether another one is worth it.

A call is made once more, inside the request's deadline, when its replica died. Serve does not retry what a replica has
accepted; all four stages are idempotent. An input that is lost, with its replica or because it was held too short, is
made again by the stage that made it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray.exceptions
from ray.serve.exceptions import DeploymentUnavailableError

from deployments import trace_error_messages
from deployments.ingress.context import StageContext
from deployments.wire import StageReply
from speech.errors import DeadlineExceeded, StageUnavailable, stage_unavailable

log = logging.getLogger("ray.serve")

MAX_ATTEMPTS = 2

_DIED = (
    ray.exceptions.ActorDiedError,
    ray.exceptions.ActorUnavailableError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    DeploymentUnavailableError,
)


class RetryPolicy:
    """Decides about the attempts of one call.

    Args:
        stage: the span's name.
        service: Serve's and Zipkin's name of the stage's service.
        ctx: the request; it gets the spans of stages that could not report.
        node_of: returns the id of the node that a replica is on, by its actor's id.

    Attributes:
        remake_input: before the next attempt, the call's input must be made again.
    """

    def __init__(
        self,
        stage: str,
        service: str,
        ctx: StageContext,
        node_of: Callable[[str | None], str | None] = lambda actor_id: None,
    ) -> None:
        self._stage, self._service = stage, service
        self._ctx = ctx
        self._node_of = node_of
        # Counted apart: when a stage dies late in its work, its inputs are mostly gone by then too.
        self._deaths = self._losses = 0
        self.remake_input = False

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Guard one attempt. Swallows a death that is worth a retry; raises whatever else ends the call."""
        started = time.time_ns()
        self.remake_input = False
        try:
            yield
        except GeneratorExit:  # the reader of the stream wants no more chunks
            self._record(started, "cancelled", trace_error_messages.STREAM_BROKEN)
            raise
        except asyncio.CancelledError:
            message = trace_error_messages.STREAM_BROKEN if self._ctx.abandoned else trace_error_messages.CLIENT_LEFT
            self._record(started, "cancelled", message)
            raise
        except TimeoutError:
            self._record(started, DeadlineExceeded.type, trace_error_messages.NO_ANSWER)
            raise DeadlineExceeded(
                f"{self._service} did not answer within the request's deadline; try again when "
                "the service is less busy.",
                service=self._service,
            ) from None
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            if not isinstance(cause, _DIED):
                raise
            log.warning("%s was lost (%s), trace %s", self._service, type(cause).__name__, self._ctx.trace_id)
            node = self._node_of(getattr(cause, "actor_id", None))
            self._record(started, StageUnavailable.type, trace_error_messages.LOST_REPLICA, node)
            self._deaths += 1
            self._give_up_after(self._deaths)

    def accept(self, reply: StageReply[Any]) -> bool:
        """Take a reply's spans. False if another attempt is worth it; raises the reply's error if there is one."""
        self._ctx.add_spans(reply.spans)
        if reply.input_lost:  # the stage's own span says so
            self._losses += 1
            self._give_up_after(self._losses)
            self.remake_input = True
            return False
        if reply.error is not None:
            raise reply.error
        return True

    def _record(self, started_ns: int, error_type: str, message: str, node: str | None = None) -> None:
        self._ctx.record_lost_stage(self._stage, self._service, started_ns, error_type, message, node)

    def _give_up_after(self, times: int) -> None:
        if times == MAX_ATTEMPTS or self._ctx.remaining_s() <= 0:
            raise stage_unavailable(self._service)
