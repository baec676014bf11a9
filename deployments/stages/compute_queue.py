"""The contract of both batchers: requests wait in a queue, and one compute thread takes them from it.

`batching.Batcher` computes whole batches. `continuous_batching.ContinuousBatcher` lets requests join and leave between
two steps of the model. A stage needs to know neither: it has a `ComputeQueue`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from engines.contract import Reach, Said

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Batched(Generic[R_co]):
    """The outcome of a request, and what its span says of the batch. Times in ns since the epoch.

    Attributes:
        value: the result, or the exception that the request failed with.
        batch_id: 16 hex digits; None for a request that was rejected before it was computed.
        size: requests computed together; None for a request that was rejected before it was computed.
        arrived_ns: when the request was added.
        dequeued_ns: when it was taken from the queue; None for one that never was.
        started_ns: when its computing began.
        ended_ns: when its computing ended.
    """

    value: R_co
    batch_id: str | None
    size: int | None
    arrived_ns: int
    dequeued_ns: int | None
    started_ns: int
    ended_ns: int

    @property
    def wait_ms(self) -> float:
        """Milliseconds from arrival to the start of computing."""
        return (self.started_ns - self.arrived_ns) / 1e6

    @property
    def compute_ms(self) -> float:
        """Milliseconds of computing."""
        return (self.ended_ns - self.started_ns) / 1e6


class ComputeQueue(Protocol[T_contra, R_co]):
    """Runs one compute thread for many callers."""

    def configure(self, *, max_batch_size: int | None = None, batch_wait_ms: float | None = None) -> None:
        """Change settings live; None leaves a setting as it is. Raises ValueError on a value out of range."""
        ...

    def running_s(self) -> float:
        """Return the seconds for which the present batch or step has been computing; 0 when idle."""
        ...

    def work_stats(self) -> dict[str, float]:
        """Return what this queue has done: `deployments.scaling.work_log.Work` by field."""
        ...

    async def submit(self, item: T_contra, due_ns: float = float("inf")) -> Batched[R_co | Exception]:
        """Add a request and wait for its outcome. A request that failed has its exception as `value`.

        Args:
            item: what to compute.
            due_ns: when the result is needed. It may set the order; nothing is rejected for it.
        """
        ...

    def close(self) -> None:
        """Take no more requests."""
        ...


class StreamingComputeQueue(ComputeQueue[T_contra, R_co], Protocol[T_contra, R_co]):
    """A queue whose model also gives a result in chunks."""

    def stream(
        self, item: T_contra, said: Said = (), beyond: Reach | None = None
    ) -> AsyncGenerator[Batched[R_co | Exception], None]:
        """Add a request and yield its chunks as they are made, up to the last one or to an exception as `value`.

        Args:
            item: what to compute.
            said: what the same stream had said before (`engines.contract.MelChunk.said`).
            beyond: how far it was heard (`MelChunk.reaches`); only chunks that reach further are made.
        """
        ...
