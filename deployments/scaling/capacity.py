"""How long requests wait at so many replicas: the arithmetic of the scaling policy, as plain functions of numbers.

A step with n members takes `base + per_member * n` seconds. The two are learned from what the replicas report, one mean
for each size of batch: what a batch of eight takes is known long after the last one was seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

#: Old measurements fade with this half-life. Batches of a size may come only once a day.
FADES_S = 6 * 3600.0
#: So many steps of one size at most hold an older mean against newer ones.
HOLDS = 50.0
#: Pull towards "a batch gains nothing", while batches of one size alone were seen; as a variance of the size.
DOUBT = 0.1
FULL = 0.95  #: a replica busier than this counts as never catching up
TAIL = 0.05  #: waits are predicted for all but this share of the requests


@dataclass
class _Size:
    mean_s: float
    steps: float
    at_s: float


class StepCost:
    """Learns what a step costs by the number of its members."""

    def __init__(self) -> None:
        self._sizes: dict[int, _Size] = {}
        self._line: tuple[float, float] | None = None
        self._now = 0.0

    @property
    def known(self) -> bool:
        """True once a step was seen."""
        return bool(self._sizes)

    def learn(self, steps: float, members: float, busy_s: float, now: float) -> None:
        """Take in the steps of one report.

        Args:
            steps: their number.
            members: their members, summed.
            busy_s: their seconds, summed.
            now: seconds of the caller's clock.
        """
        if steps <= 0 or members < steps or busy_s < 0:
            return
        size = round(members / steps)
        seen = self._sizes.get(size)
        if seen is None:
            self._sizes[size] = _Size(busy_s / steps, steps, now)
        else:
            held = min(seen.steps, HOLDS)
            seen.mean_s = (seen.mean_s * held + busy_s) / (held + steps)
            seen.steps, seen.at_s = held + steps, now
        self._line, self._now = None, now

    @property
    def base(self) -> float:
        """Seconds of a step, whatever its members."""
        return self._fit()[0]

    @property
    def per_member(self) -> float:
        """Seconds that each member adds."""
        return self._fit()[1]

    def _fit(self) -> tuple[float, float]:
        """Lay a line through the means, weighted by how many steps stand behind each."""
        if self._line is not None or not self._sizes:
            return self._line or (0.0, 0.0)
        now = self._now
        weights = {
            n: min(one.steps, HOLDS) * 0.5 ** (max(0.0, now - one.at_s) / FADES_S)  # a clock may be set back
            for n, one in self._sizes.items()
        }
        total = sum(weights.values()) or 1e-9
        n = sum(weight * size for size, weight in weights.items()) / total
        t = sum(weight * self._sizes[size].mean_s for size, weight in weights.items()) / total
        variance = sum(weight * (size - n) ** 2 for size, weight in weights.items()) / total
        together = sum(weight * (size - n) * (self._sizes[size].mean_s - t) for size, weight in weights.items()) / total
        slope = (together + DOUBT * t / n) / (variance + DOUBT)
        slope = min(max(slope, 0.0), t / n)
        self._line = max(t - slope * n, 0.0), slope
        return self._line

    def step_s(self, members: float) -> float:
        """Return the seconds of a step with so many members."""
        return self.base + self.per_member * members


@dataclass(frozen=True)
class Station:
    """One service, as its wait is reckoned.

    Attributes:
        base_s: seconds of a step, whatever its members.
        per_member_s: seconds that each member adds.
        batch: most members of a step.
        lanes: steps at a time in one replica.
        steps_per_request: steps that a request is a member of.
    """

    base_s: float
    per_member_s: float
    batch: int = 1
    lanes: int = 1
    steps_per_request: float = 1.0

    def step_s(self, members: float) -> float:
        """Return the seconds of a step with so many members."""
        return self.base_s + self.per_member_s * members

    @property
    def capacity(self) -> float:
        """Requests a second that one replica can do, in full batches."""
        return self.lanes * self.batch / max(self.step_s(self.batch) * self.steps_per_request, 1e-6)

    def excess_s(self, rate: float, replicas: int) -> float:
        """Predict what a request waits beyond the time that it would take alone, 19 times of 20.

        It is the rest of the step that runs when it comes, the wait while more requests stand there than a batch holds,
        and the time that the other members of its batch cost it. Serve sends a request to the shorter of two replicas'
        queues, so both must be busy for it to wait.

        Args:
            rate: requests a second at the service.
            replicas: how many share them; at least one.

        Returns:
            Seconds. Above `NEVER` the service does not catch up; the more it lacks, the higher.
        """
        member_rate = rate * self.steps_per_request / (replicas * self.lanes)
        full_s = self.step_s(self.batch)
        load = member_rate * full_s / self.batch
        if load >= FULL:
            return NEVER * (1 + load)
        alone_s = self.step_s(1)
        members = min(
            max(member_rate * self.base_s / (1 - min(member_rate * self.per_member_s, 0.99)), 1.0), self.batch
        )
        step_s = self.step_s(members)
        busy, crowded = min(member_rate * alone_s, 1.0), load**self.batch
        if replicas * self.lanes > 1:
            busy, crowded = busy * busy, crowded * crowded
        rest_s = step_s * max(0.0, 1 - TAIL / busy) if busy > 0 else 0.0
        behind_s = full_s * load / (2 * (1 - load)) * math.log(max(crowded / TAIL, 1.0))
        return rest_s + behind_s + self.steps_per_request * (step_s - alone_s)


NEVER = 1e4  #: seconds
