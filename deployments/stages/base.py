"""What all four stages share: a span around the work, a deadline, errors as replies, settings that change live."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor
from contextlib import aclosing

import numpy as np
import ray
from ray import serve

from deployments import error_messages
from deployments.arrays import HOLD_S, ArrayStore, InputLost, Nodes
from deployments.ingress.context import record
from deployments.safe_traceback import safe_traceback
from deployments.settings import BatchSettings, StageConfig
from deployments.stages.batching import Batched, Batcher
from deployments.stages.continuous_batching import ContinuousBatcher
from deployments.stages.device import gpu_utilization, pick_device
from deployments.stages.health import ComputeHealth, Unhealthy
from deployments.wire import Reply
from engines import contract
from speech.errors import DeadlineExceeded, InternalError, SpeechError, StageUnavailable
from tracing import CallContext, FinishedSpan, Span, Tracer, vocabulary

log = logging.getLogger("ray.serve")

#: Longest batch or step before a replica counts as wedged. On two busy cores a batch may honestly take a minute.
WEDGED_AFTER_S = {"cpu": 120.0, "gpu": 20.0}


class Stage:
    """Base of the four services. A subclass sets `name` (the span's) and `service` (Serve's and Zipkin's)."""

    name: str
    service: str
    uses_device = True
    batching = {"max_batch_size": 8, "batch_wait_ms": 200.0}

    def __init__(self, config: StageConfig) -> None:
        self.config = config
        self.engine = contract.create(config.engine, config.engine_options)
        self.device = pick_device(config.device) if self.uses_device else "cpu"
        self.replica_id = serve.get_replica_context().replica_id.unique_id
        self.shelf = ArrayStore(ray.get_runtime_context().get_node_id(), Nodes())
        self.tracer = Tracer(self.service, instance=self.replica_id)
        self.batcher: Batcher | ContinuousBatcher = Batcher(
            self.compute, prepare_thread=self._prepare_thread, **self.batching
        )
        self._about = {
            vocabulary.STAGE: self.name,
            vocabulary.DEVICE: self.device,
            vocabulary.MODEL_NAME: self.engine.capabilities.name,
            vocabulary.MODEL_VERSION: self.engine.capabilities.version,
        }

    def _prepare_thread(self) -> None:
        """OpenMP's thread count is each thread's own: set where the models run, not only where they were loaded.

        Ray starts replicas with a fraction of a CPU with OMP_NUM_THREADS=1.
        """
        if torch := sys.modules.get("torch"):  # else the engine's loader imports it in this thread, and sets it
            torch.set_num_threads(self.config.threads)

    def load(self, loader: Callable):
        """The engine's model, loaded (and so warmed up) in the thread that will compute with it.

        Each thread that runs a parallel region gets an OpenMP team of its own. With a second team there are more
        threads than cores, and libgomp then puts them to sleep at every barrier instead of letting them spin (2,900
        voluntary switches a request in VOCODE_WAV, which took a third longer for it).
        """
        model = self.batcher.in_thread(lambda: loader(self.device, self.config.threads))
        self.vitals = self.watched(self.batcher.executor, model.probe if isinstance(model, contract.Probed) else None)
        return model

    def watched(self, executor: Executor, probe: Callable[[], np.ndarray] | None) -> ComputeHealth:
        """What `check_health` looks at: the threads of `executor`."""
        limit = self.config.wedged_after_s
        if limit is None:
            limit = WEDGED_AFTER_S["cpu" if self.device.startswith("cpu") else "gpu"]
        return ComputeHealth(
            self.service, executor, probe, self.running_s, wedged_after_s=limit, stuck_after_s=self.config.stuck_after_s
        )

    def running_s(self) -> float:
        """How long what computes now has been computing, in seconds; 0 when idle."""
        return self.batcher.running_s()

    def compute(self, items):
        """A batch of what `submit` was given; runs in the batcher's thread."""
        raise TypeError(f"{type(self).__name__} computes nothing in batches")

    def reconfigure(self, user_config: dict) -> None:
        """Serve calls this at start and whenever `user_config` changes; the process lives on."""
        settings = BatchSettings(**user_config)
        self.batcher.configure(**settings.model_dump(exclude_none=True))

    async def check_health(self) -> None:
        """Serve replaces the replica when this raises three times in a row."""
        try:
            await self.vitals.check()
        except Unhealthy as sick:
            log.error("%s", sick)
            raise

    async def ping(self) -> str:
        """For readiness: an answer proves a replica that can be reached."""
        return self.replica_id

    async def answer(
        self, carrier: CallContext, work: Callable[[Span], Awaitable[dict]], span: Span | None = None
    ) -> Reply:
        """Run `work(span)` inside the stage's span and the carrier's deadline; whatever happens becomes a Reply.

        `work` returns the Reply's fields beside the spans. A cancelled call has no reply: the ingress, which
        cancelled it, closes the trace in this stage's name. `span`: one that is open already.
        """
        span = span or self.open(carrier)
        try:
            async with asyncio.timeout(_remaining_s(carrier)):
                fields = await work(span)
        except Exception as error:
            return self._failed(span, error)
        self._tidy_later()
        return Reply(spans=self._closed(span), **fields)

    async def answer_in_parts(
        self, carrier: CallContext, work: Callable[[Span], AsyncIterator[dict]]
    ) -> AsyncIterator[Reply]:
        """The same where `work(span)` gives the fields of one Reply after the other. They carry no spans; the last
        Reply carries nothing else, but for the error where there was one."""
        span = self.open(carrier)
        try:
            async with aclosing(work(span)) as parts:
                while True:
                    async with asyncio.timeout(_remaining_s(carrier)):
                        fields = await anext(parts, None)
                    if fields is None:
                        break
                    yield Reply(spans=[], **fields)
        except Exception as error:
            yield self._failed(span, error)
            return
        self._tidy_later()
        yield Reply(spans=self._closed(span))

    def open(self, carrier: CallContext, started_ns: int | None = None) -> Span:
        """The stage's span. `started_ns` where it tells of earlier calls too; else it starts now."""
        now = time.time_ns()
        span = self.tracer.server(self.name, parent=carrier, start_ns=started_ns or now)
        span.tags(**{vocabulary.QUEUE_WAIT_MS: max(0.0, round((now - carrier.sent_ns) / 1e6, 3))}, **self._about)
        return span

    def _closed(self, span: Span) -> list[FinishedSpan]:
        if (load := gpu_utilization(self.device)) is not None:
            span.tag(vocabulary.GPU_UTILIZATION, load)
        return span.records()

    def _tidy_later(self) -> None:
        if len(self.shelf):
            asyncio.get_running_loop().call_later(HOLD_S + 0.1, self.shelf.tidy)

    def _failed(self, span: Span, error: Exception) -> Reply:
        """The log says where; client and trace get no more than our own words, and nobody a foreign message."""
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded(
                f"The request's deadline passed while {self.service} had it; try again when the service is less busy, "
                "or with a shorter text."
            )
        elif isinstance(error, InputLost):
            log.warning("%s: an earlier stage's array is lost (%s)", self.service, error)
            error = StageUnavailable(error_messages.LOST_ARRAY)
            record(error, span)
            return Reply(spans=span.records(), error=error, input_lost=True)
        elif not isinstance(error, SpeechError):
            log.error("%s failed, trace %s: %s", self.name, span.trace_id, safe_traceback(error))
            error = InternalError(
                f"{self.service} failed in a way it should not have; its log says where, under this trace's id."
            )
        record(error, span)
        return Reply(spans=span.records(), error=error)

    async def batched(self, span: Span, item, deadline_ns: int) -> Batched:
        """Hand over to the batcher and tag the member's span with what became of it, also where it failed."""
        done = await self.batcher.settle(item, deadline_ns)
        self.tell(span, done)
        if isinstance(done.value, Exception):
            raise done.value
        return done

    @staticmethod
    def tell(span: Span, done: Batched) -> None:
        """Tag a member's span with what became of it."""
        if done.size is not None:
            span.annotate(vocabulary.BATCH_STARTED, at_ns=done.started_ns)
        span.tags(
            **{
                vocabulary.BATCH_ID: done.batch_id,
                vocabulary.BATCH_SIZE: done.size,
                vocabulary.BATCH_WAIT_MS: round(done.wait_ms, 3),
                vocabulary.COMPUTE_MS: round(done.compute_ms, 3),
            }
        )

    def __del__(self) -> None:
        if batcher := getattr(self, "batcher", None):  # absent where the constructor failed
            batcher.close()


def _remaining_s(carrier: CallContext) -> float:
    """Until the request's deadline. Raises TimeoutError where it has passed."""
    remaining = (carrier.deadline_ns - time.time_ns()) / 1e9
    if remaining <= 0:
        raise TimeoutError
    return remaining
