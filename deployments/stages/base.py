"""The base of all four stages: a span around the work, a deadline, errors as replies, a health check."""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any, TypeVar

import ray
from ray import serve

from deployments import place, trace_error_messages
from deployments.arrays import HOLD_S, Array, ArrayStore, InputLost, Nodes
from deployments.safe_traceback import safe_traceback
from deployments.settings import StageConfig
from deployments.span_errors import record_error
from deployments.stages.device import gpu_utilization, pick_device
from deployments.stages.health import ComputeHealth, Unhealthy
from deployments.wire import StageReply
from engines import contract
from speech.errors import DeadlineExceeded, SpeechError, StageUnavailable, internal_error
from tracing import CallContext, FinishedSpan, NonRecordingSpan, Span, vocabulary

log = logging.getLogger("ray.serve")

#: Longest batch or step before a replica counts as wedged. On two busy cores a batch may honestly take a minute.
WEDGED_AFTER_S = {"cpu": 120.0, "gpu": 20.0}

T = TypeVar("T")
AnySpan = Span | NonRecordingSpan


class Stage(ABC):
    """Base of the four services. A subclass sets `name` (the span's) and `service` (Serve's and Zipkin's).

    Attributes:
        engine: the configured engine.
        device: the torch device that this replica computes on.
        arrays: the arrays that this replica holds for the next stage.
        node_id: this replica's node: calls are read on its clock.
        health: what `check_health` asks; set by the subclass.
    """

    name: str
    service: str
    uses_device = True
    node_id: str = ""
    health: ComputeHealth

    def __init__(self, config: StageConfig) -> None:
        self.config = config
        self.engine = contract.create(config.engine, config.engine_options)
        self.device = pick_device(config.device) if self.uses_device else "cpu"
        self.replica_id: str = serve.get_replica_context().replica_id.unique_id
        self.node_id = ray.get_runtime_context().get_node_id()
        self.arrays = ArrayStore(self.node_id, Nodes(), host=place.node_address())
        self.tracer = place.tracer(self.service, self.replica_id)
        self._static_tags: dict[str, Any] = {
            vocabulary.STAGE: self.name,
            vocabulary.DEVICE: self.device,
            vocabulary.MODEL_NAME: self.engine.capabilities.name,
            vocabulary.MODEL_VERSION: self.engine.capabilities.version,
        }

    @abstractmethod
    def running_s(self) -> float:
        """Return the seconds for which the present computing has been under way; 0 when idle."""

    def work_stats(self) -> dict[str, float]:
        """Return what this replica has done: `deployments.scaling.work_log.Work` by field; nothing by default."""
        return {}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Return what the scaling policy reads. Serve calls this by its name, where the service is autoscaled."""
        return self.work_stats()

    def watch(self, executor: Executor, probe: Callable[[], Array] | None) -> ComputeHealth:
        """Return the health of the threads of `executor`. `probe`: see `ComputeHealth`."""
        limit = self.config.wedged_after_s
        if limit is None:
            limit = WEDGED_AFTER_S["cpu" if self.device.startswith("cpu") else "gpu"]
        return ComputeHealth(
            self.service, executor, probe, self.running_s, wedged_after_s=limit, stuck_after_s=self.config.stuck_after_s
        )

    async def check_health(self) -> None:
        """Raise if this replica no longer computes; Serve replaces it after three times in a row."""
        try:
            await self.health.check()
        except Unhealthy as error:
            log.error("%s", error)
            raise

    async def ping(self) -> str:
        """Return the replica's id: proof for `/ready` that it can be reached."""
        return self.replica_id

    async def answer(
        self, call: CallContext, work: Callable[[AnySpan], Awaitable[T]], span: AnySpan | None = None
    ) -> StageReply[T]:
        """Run `work(span)` inside the stage's span and the call's deadline; whatever happens becomes a reply.

        A cancelled call has no reply: the ingress, which cancelled it, closes the trace in this stage's name.

        Args:
            call: the call's trace context and deadline.
            work: returns the outcome.
            span: one that is open already; else a new one is opened.
        """
        span = span or self.open_span(call)
        try:
            async with asyncio.timeout(_remaining_s(call)):
                value = await work(span)
        except Exception as error:
            return self._failed(span, error)
        self._expire_later()
        return StageReply(self._close_span(span), value)

    async def answer_stream(
        self, call: CallContext, work: Callable[[AnySpan], AsyncGenerator[T, None]], span: AnySpan | None = None
    ) -> AsyncGenerator[StageReply[T], None]:
        """Run `work(span)` as `answer` does, one reply for each outcome that it yields.

        These replies carry no spans. The last one carries them, and no outcome; it has the error if there was one.
        """
        span = span or self.open_span(call)
        try:
            async with aclosing(work(span)) as values:
                while True:
                    async with asyncio.timeout(_remaining_s(call)):
                        value = await anext(values, None)
                    if value is None:
                        break
                    yield StageReply([], value)
        except Exception as error:
            yield self._failed(span, error)
            return
        self._expire_later()
        yield StageReply(self._close_span(span))

    def open_span(self, call: CallContext, started_ns: int | None = None) -> AnySpan:
        """Open the stage's span. `started_ns`: where it also covers earlier calls; else it starts now."""
        span = self.tracer.server(self.name, parent=call, start_ns=started_ns or time.time_ns())
        span.tags({vocabulary.QUEUE_WAIT_MS: round(call.waited_ms(), 3), **self._static_tags})
        return span

    def _close_span(self, span: AnySpan) -> list[FinishedSpan]:
        if (load := gpu_utilization(self.device)) is not None:
            span.tag(vocabulary.GPU_UTILIZATION, load)
        return span.end()

    def _expire_later(self) -> None:
        if len(self.arrays):
            asyncio.get_running_loop().call_later(HOLD_S + 0.1, self.arrays.expire)

    def _failed(self, span: AnySpan, error: Exception) -> StageReply[Any]:
        """Turn an exception into a reply. The log says where; client and trace get our own words and no others."""
        if isinstance(error, InputLost):
            log.warning("%s: an earlier stage's array is lost (%s)", self.service, error)
        elif not isinstance(error, (SpeechError, TimeoutError)):
            log.error("%s failed, trace %s: %s", self.name, span.trace_id, safe_traceback(error))
        failure = self._as_speech_error(error)
        record_error(span, failure)
        return StageReply(span.end(), error=failure, input_lost=isinstance(error, InputLost))

    def _as_speech_error(self, error: Exception) -> SpeechError:
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(
                f"The request's deadline passed while {self.service} had it; try again when the service is less busy, "
                "or with a shorter text.",
                service=self.service,
            )
        if isinstance(error, InputLost):
            return StageUnavailable(trace_error_messages.LOST_ARRAY, service=self.service)
        if not isinstance(error, SpeechError):
            return internal_error(self.service)
        if error.status >= 500:  # an engine knows of no services
            error.service = self.service
        return error


def _remaining_s(call: CallContext) -> float:
    """Return the seconds until the request's deadline. Raises TimeoutError if it has passed."""
    if (remaining := call.remaining_s()) <= 0:
        raise TimeoutError
    return remaining
