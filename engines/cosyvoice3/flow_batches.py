"""Groups rows into flow batches by similar length, so that little of a batch is padding.

The limits are those of the fastest servers of this model (vLLM-Omni, SGLang-Omni). `batches` is the whole rule.
`FlowBatcher` adds the waiting, for rows that come one by one out of a decoder. Only the first chunk of a stream does
not wait, because a client hears silence until then. The other rows are taken in the order of their deadlines.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    rows: int = 16
    frames: int = 8_000  #: the most frames of all rows together, padding included
    gap: int = 384  #: the most frames between the shortest and the longest row
    padding: float = 0.25  #: the largest share of padding in the batch
    wait_ms: float = 30.0  #: the longest wait of a row for other rows

    def allow(self, shortest: int, longest: int, rows: int, total: int) -> bool:
        """Tell if rows of `total` frames together may be a batch. A single row always may, however long."""
        padded = longest * rows
        return rows == 1 or (
            rows <= self.rows
            and padded <= self.frames
            and longest - shortest <= self.gap
            and padded - total <= self.padding * padded
        )


#: rows and frames that batches are filled up to if each shape is captured as a graph of its own
_ROWS = (1, 2, 3, 4, 6, 8, 12, 16)
_FRAME_STEPS = ((1024, 64), (2048, 128), (4096, 256), (15_104, 512))


def bucket(rows: int, frames: int) -> tuple[int, int]:
    """Return the shape that a batch is filled up to: at most half as many rows and 64 or an eighth of frames more."""
    count = next((count for count in _ROWS if count >= rows), -(-rows // 8) * 8)
    step = next((step for end, step in _FRAME_STEPS if frames <= end), _FRAME_STEPS[-1][1])
    return count, -(-frames // step) * step


def shapes(limits: Limits, longest: int) -> list[tuple[int, int]]:
    """List the buckets that batches within the limits can take, in the order in which to record them.

    The bucket with most frames comes first, because later recordings then find room in its memory. Then come those of
    fewer rows before those of more, since most batches are small, and in each the longer before the shorter.

    Args:
        limits: of the batches.
        longest: the most frames of a row.
    """
    ends = sorted({bucket(1, frames)[1] for frames in range(1, longest + 1)})
    made = {
        bucket(rows, end)
        for before, end in zip((0, *ends), ends, strict=False)
        for rows in range(1, limits.rows + 1)
        if limits.allow(before + 1, before + 1, rows, rows * (before + 1))
    }
    most = max(made, key=lambda shape: (shape[0] * shape[1], shape))
    return [most, *sorted(made - {most}, key=lambda shape: (shape[0], -shape[1]))]


def batches(lengths: Sequence[int], limits: Limits = Limits()) -> list[list[int]]:
    """Group the indices of rows, given their lengths in frames, into batches; each row is in exactly one."""
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


class _Entry(NamedTuple, Generic[T]):
    since: float
    frames: int
    row: T
    first: bool
    deadline: float
    strict: bool  # True: it was given


class FlowBatcher(Generic[T]):
    """A queue that collects rows until a batch is full or its oldest row has waited long enough.

    First chunks of streams don't wait. They form the next batch, before all others, and without other rows, which would
    make the batch take longer. Rows whose waiting time is up are overtaken by at most one such batch.

    Args:
        limits: see `Limits`.
        clock: returns monotonic seconds.
    """

    def __init__(self, limits: Limits = Limits(), clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._waiting: list[_Entry[T]] = []  # oldest first
        self._overtaken = False  # True: the last batch overtook the oldest row

    def __len__(self) -> int:
        return len(self._waiting)

    def configure(self, limits: Limits) -> None:
        """Set other limits, from the next batch on."""
        self._limits = limits

    def add(self, row: T, frames: int, first: bool = False, deadline: float | None = None) -> None:
        """Queue a row.

        Args:
            row: the row.
            frames: its length.
            first: True for the first chunk of a stream.
            deadline: the time by the clock at which it is needed; None: as soon as its waiting time is up.
        """
        now, strict = self._clock(), deadline is not None
        deadline = now + self._limits.wait_ms / 1000 if deadline is None else deadline
        self._waiting.append(_Entry(now, frames, row, first, deadline, strict))

    def remove(self, row: T) -> None:
        """Drop a row whose request was cancelled; does nothing for a row that is gone."""
        self._waiting = [entry for entry in self._waiting if entry.row is not row]

    def leave(self, before: float) -> list[tuple[T, int, float]]:
        """Remove the rows that were given a deadline before this time; returns each with its frames and deadline."""
        near = [entry for entry in self._waiting if entry.strict and entry.deadline < before]
        self._waiting = [entry for entry in self._waiting if all(entry is not other for other in near)]
        return [(entry.row, entry.frames, entry.deadline) for entry in near]

    def due_in(self) -> float | None:
        """Return the seconds until `take` gives a batch though none is full; None while no row waits."""
        if not self._waiting:
            return None
        return max(0.0, self._waiting[0].since + self._limits.wait_ms / 1000 - self._clock())

    def take(self, idle: bool = False) -> list[T]:
        """Take the next batch: first chunks, or else the row of the nearest deadline and others; maybe none yet.

        Args:
            idle: True: no other row will come (none is being decoded), so that waiting would gain nothing.
        """
        if not self._waiting:
            return []
        by_deadline = sorted(range(len(self._waiting)), key=lambda index: self._waiting[index].deadline)
        members = self._firsts() or self._company(by_deadline)
        ahead = self._waiting[members[0]].first
        full = len(members) == self._limits.rows or len(members) < len(self._waiting)
        if not (ahead or idle or full or self.due_in() == 0.0):
            return []
        self._overtaken = members[0] != 0
        taken = [self._waiting[index].row for index in members]
        self._waiting = [entry for index, entry in enumerate(self._waiting) if index not in set(members)]
        return taken

    def _firsts(self) -> list[int]:
        if self._overtaken and self.due_in() == 0.0:
            return []
        firsts = [index for index, entry in enumerate(self._waiting) if entry.first]
        return self._company(firsts) if firsts else []

    def _company(self, candidates: Sequence[int]) -> list[int]:
        """Choose the first candidate and the rows that fit to it: nearest in length first, then as they are given."""
        frames = self._waiting[candidates[0]].frames
        members = [candidates[0]]
        for index in sorted(candidates[1:], key=lambda i: abs(self._waiting[i].frames - frames)):
            if _fits([self._waiting[member].frames for member in (*members, index)], self._limits):
                members.append(index)
        return sorted(members)
