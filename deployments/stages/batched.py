"""The base of the three stages with a model: the model in one compute thread, behind a queue that makes batches."""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from deployments.settings import BATCHING, BatchSettings, StageConfig
from deployments.stages.base import AnySpan, Stage
from deployments.stages.batching import Batcher
from deployments.stages.compute_queue import Batched, ComputeQueue
from deployments.stages.memory import give_back, trim
from engines import contract
from tracing import vocabulary

T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M")


class BatchedStage(Stage, Generic[T, R]):
    """A stage that computes items of type `T` into results of type `R`, many at a time."""

    batching = BATCHING
    queue: ComputeQueue[T, R]

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self.batcher: Batcher[T, R] = Batcher(
            self.compute, prepare_thread=self._prepare_thread, tidy=trim, **self.batching.model_dump()
        )
        self.queue = self.batcher

    def _prepare_thread(self) -> None:
        """Set OpenMP's thread count, which is each thread's own: where the models run, not only where they are loaded.

        Ray starts replicas with a fraction of a CPU with OMP_NUM_THREADS=1.
        """
        if torch := sys.modules.get("torch"):  # else the engine's loader imports it in this thread, and sets it
            torch.set_num_threads(self.config.threads)

    def load(self, loader: Callable[[str, int], M]) -> M:
        """Load the engine's model, and so warm it up, in the thread that will compute with it.

        Each thread that runs a parallel region gets an OpenMP team of its own. With a second team there are more
        threads than cores, and libgomp then puts them to sleep at every barrier instead of letting them spin (2,900
        voluntary switches a request in VOCODE_WAV, which took a third longer for it).
        """
        if isinstance(self.engine, contract.TunedEngine):
            os.environ.update(self.engine.process_settings.get(self.name, {}))
        model = self.batcher.in_thread(lambda: loader(self.device, self.config.threads))
        give_back()
        self.health = self.watch(self.batcher.executor, model.probe if isinstance(model, contract.Probed) else None)
        return model

    def running_s(self) -> float:
        """Return the seconds for which the present batch or step has been computing; 0 when idle."""
        return self.queue.running_s()

    def work_stats(self) -> dict[str, float]:
        """Return what this replica has done, for the scaling policy."""
        return self.queue.work_stats()

    @abstractmethod
    def compute(self, items: Sequence[T]) -> Sequence[R | Exception]:
        """Compute a batch, in the batcher's thread. One result per item; a failed item has its error in its place."""

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take new batch settings. Serve calls this at start and on every change; the process lives on."""
        self.queue.configure(**BatchSettings(**user_config).given())

    async def batched(self, span: AnySpan, item: T, due_ns: int) -> R:
        """Compute an item in a batch and tag its span with what became of it, also if it failed."""
        outcome = await self.queue.submit(item, due_ns)
        tag_batch(span, outcome)
        if isinstance(outcome.value, Exception):
            raise outcome.value
        return outcome.value

    def __del__(self) -> None:
        if queue := getattr(self, "queue", None):  # absent if the constructor failed
            queue.close()


def tag_batch(span: AnySpan, outcome: Batched[Any]) -> None:
    """Tag the span of one request with the batch it was computed in."""
    if outcome.dequeued_ns is not None:
        span.annotate(vocabulary.DEQUEUED, at_ns=outcome.dequeued_ns)
    if outcome.size is not None:
        span.annotate(vocabulary.BATCH_STARTED, at_ns=outcome.started_ns)
    span.tags(
        {
            vocabulary.BATCH_ID: outcome.batch_id,
            vocabulary.BATCH_SIZE: outcome.size,
            vocabulary.BATCH_WAIT_MS: round(outcome.wait_ms, 3),
            vocabulary.COMPUTE_MS: round(outcome.compute_ms, 3),
        }
    )
