"""Counts what one replica does, for the scaling policy to read.

Every count only grows, and so does the time spent. Then a rate can be read between any two reports, however far apart
they are, and a lost report loses nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Work(NamedTuple):
    """The counts of one replica at one moment.

    Attributes:
        age_s: seconds since the replica started.
        arrived: requests that came.
        done: requests that were finished, whatever became of them.
        steps: batches, or steps of a continuous batch, that were computed.
        members: requests in each step, summed over the steps.
        busy_s: seconds of computing, summed over the steps.
        waited_s: seconds between arrival and computing, summed over the requests.
        waiting: requests in the queue now.
        computing: requests that are computed now.
        batch: most members of a step.
        lanes: steps that the replica computes at a time.
        limit: most requests that the replica has inside at a time; 0 is no limit.
    """

    age_s: float = 0.0
    arrived: float = 0.0
    done: float = 0.0
    steps: float = 0.0
    members: float = 0.0
    busy_s: float = 0.0
    waited_s: float = 0.0
    waiting: float = 0.0
    computing: float = 0.0
    batch: float = 1.0
    lanes: float = 1.0
    limit: float = 0.0


def read(stats: Mapping[str, float]) -> Work | None:
    """Return the counts that `WorkLog.stats` has reported; None if they are not whole."""
    try:
        return Work._make([float(stats[name]) for name in Work._fields])
    except (KeyError, TypeError, ValueError):
        return None


class WorkLog:
    """Counts one replica's work. Its methods may be called from any thread.

    Args:
        clock: seconds, for tests.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_s = clock()
        self._lock = threading.Lock()
        self._arrived = self._done = self._steps = self._members = 0
        self._busy_s = self._waited_s = 0.0

    def arrive(self) -> None:
        """Count a request that came."""
        with self._lock:
            self._arrived += 1

    def finish(self, count: int = 1) -> None:
        """Count requests that were finished."""
        with self._lock:
            self._done += count

    def wait(self, seconds: float) -> None:
        """Add the time that requests have waited before they were computed."""
        with self._lock:
            self._waited_s += max(0.0, seconds)

    def step(self, members: int, seconds: float) -> None:
        """Count a step of computing.

        Args:
            members: requests that were computed together.
            seconds: how long it took.
        """
        with self._lock:
            self._steps += 1
            self._members += members
            self._busy_s += max(0.0, seconds)

    def stats(
        self,
        *,
        waiting: int,
        computing: int,
        batch: int = 1,
        lanes: int = 1,
        limit: int = 0,
        cpu_s: float | None = None,
    ) -> dict[str, float]:
        """Return the counts as Serve's `record_autoscaling_stats` wants them: `Work` by field.

        Args:
            waiting: see `Work`.
            computing: see `Work`.
            batch: see `Work`.
            lanes: see `Work`.
            limit: see `Work`.
            cpu_s: seconds of CPU that the replica has used, where no steps are counted: each request is then a step.
        """
        with self._lock:
            return {
                "age_s": self._clock() - self._started_s,
                "arrived": float(self._arrived),
                "done": float(self._done),
                "steps": float(self._steps if cpu_s is None else self._done),
                "members": float(self._members if cpu_s is None else self._done),
                "busy_s": self._busy_s if cpu_s is None else cpu_s,
                "waited_s": self._waited_s,
                "waiting": float(waiting),
                "computing": float(computing),
                "batch": float(batch),
                "lanes": float(lanes),
                "limit": float(limit),
            }
