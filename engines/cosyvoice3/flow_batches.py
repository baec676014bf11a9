"""Which rows share a flow batch: neighbours in length, so that little of the batch is padding.

The limits are those of the fastest servers of this model (vLLM-Omni, SGLang-Omni). `batches` is the whole rule;
`FlowBatcher` adds the waiting, for rows that come one by one out of a decoder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    rows: int = 16
    frames: int = 8_000  #: of all rows together, padding included
    gap: int = 384  #: frames between the shortest and the longest row
    padding: float = 0.25  #: share of the batch that is padding
    wait_ms: float = 30.0  #: the longest a row waits for company

    def allow(self, shortest: int, longest: int, rows: int, total: int) -> bool:
        """Whether rows of `total` frames together may be one batch. One row always may, however long."""
        padded = longest * rows
        return rows == 1 or (rows <= self.rows and padded <= self.frames and longest - shortest <= self.gap
                             and padded - total <= self.padding * padded)


def batches(lengths: Sequence[int], limits: Limits = Limits()) -> list[list[int]]:
    """Indices of rows of these lengths in frames, as batches; each row is in one of them."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    made: list[list[int]] = []
    for index in order:
        if made and _fits([lengths[member] for member in (*made[-1], index)], limits):
            made[-1].append(index)
        else:
            made.append([index])
    return made


def _fits(lengths: list[int], limits: Limits) -> bool:
    return limits.allow(min(lengths), max(lengths), len(lengths), sum(lengths))


class FlowBatcher(Generic[T]):
    """Collects rows until a batch is full or its oldest row has waited long enough.

    Args:
        limits: see `Limits`.
        clock: seconds, monotonic.
    """

    def __init__(self, limits: Limits = Limits(), clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._waiting: list[tuple[float, int, T]] = []  # since when, frames, row; oldest first

    def __len__(self) -> int:
        return len(self._waiting)

    def configure(self, limits: Limits) -> None:
        """Other limits, from the next batch on."""
        self._limits = limits

    def add(self, row: T, frames: int) -> None:
        self._waiting.append((self._clock(), frames, row))

    def remove(self, row: T) -> None:
        """Forget a row whose request was cancelled; does nothing for one that is gone."""
        self._waiting = [entry for entry in self._waiting if entry[2] is not row]

    def due_in(self) -> float | None:
        """Seconds until `take` gives a batch though none is full; None while nothing waits."""
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0][0] + self._limits.wait_ms / 1000 - self._clock())

    def take(self, idle: bool = False) -> list[T]:
        """The next batch, always with the oldest row in it; empty while it is better to wait.

        Args:
            idle: nothing else is coming (no row is being decoded), so that waiting could gain nothing.
        """
        if not self._waiting:
            return []
        members = self._company()
        full = len(members) == self._limits.rows or len(members) < len(self._waiting)
        if not (idle or full or self.due_in() == 0.0):
            return []
        taken = [self._waiting[index][2] for index in members]
        self._waiting = [entry for index, entry in enumerate(self._waiting) if index not in set(members)]
        return taken

    def _company(self) -> list[int]:
        """The oldest row, and whoever fits to it, nearest in length first."""
        oldest = self._waiting[0][1]
        members = [0]
        for index in sorted(range(1, len(self._waiting)), key=lambda i: (abs(self._waiting[i][1] - oldest), i)):
            if _fits([self._waiting[member][1] for member in (*members, index)], self._limits):
                members.append(index)
        return sorted(members)
