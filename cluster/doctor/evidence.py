"""What was found out, gathered once, and what every kind of finding asks of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from cluster.doctor.prometheus_reader import Counts
from cluster.doctor.serve_reader import Deployment
from cluster.doctor.traces import Trace
from cluster.doctor.window import Window
from cluster.doctor.zipkin_reader import Read

ENOUGH = 20  #: traces below which nothing is said of usual times and shares
WHOLE = 0.8  #: of Prometheus's count: what the traces must stand for to be about the same requests


@dataclass
class Evidence:
    window: Window
    read: Read
    counts: Counts | None = None  #: Prometheus's
    no_counts: str | None = None  #: why there are none
    deployments: dict[str, Deployment] = field(default_factory=dict)  #: Serve's; empty where it was not asked
    no_deployments: str | None = None

    @cached_property
    def requests(self) -> list[Trace]:
        """The ingress's traces that ask for speech."""
        return [trace for trace in self.read.traces if trace.is_speech]

    @cached_property
    def good(self) -> list[Trace]:
        return [trace for trace in self.requests if trace.ok]

    @cached_property
    def stood_for(self) -> float:
        """How many requests the kept traces stand for."""
        return math.fsum(trace.weight for trace in self.requests)

    @cached_property
    def partial(self) -> bool:
        """Whether the traces are of a part of the requests only that Prometheus counted, beyond what the chance of
        sampling explains: Zipkin forgot its oldest, more came than are read, or callers refused to be traced."""
        return (
            self.counts is not None and self.by_chance and self.stood_for + self._chance < WHOLE * self.counts.requests
        )

    @cached_property
    def _chance(self) -> float:
        """By how much `stood_for` may miss the truth because of sampling: three standard deviations."""
        return 3 * math.sqrt(math.fsum(trace.weight * (trace.weight - 1) for trace in self.requests))

    @property
    def by_chance(self) -> bool:
        """Whether any trace was kept as a sample of the unremarkable ones: only then do weights tell of all."""
        return any(trace.by_ratio for trace in self.requests)

    @cached_property
    def all_requests(self) -> tuple[float | None, str]:
        """(how many requests there were where the traces are from, in words where that is known from). None where only
        failures are kept. Failures of a part of the time must not be held against the requests of all of it.
        """
        counted = self.counts.requests if self.counts is not None else None
        whole = self.read.cut_at is None and not self.partial
        least = max(len(self.requests), WHOLE * (self.stood_for - self._chance))  # below it Prometheus lags behind
        if counted is not None and whole and counted >= least:
            return counted, "Prometheus's count"
        if not self.by_chance:
            return None, "not known: only traces that were kept on purpose are there"
        said = "by the kept traces' weights"
        if counted and self.partial:
            said += f", which stand for {self.stood_for:,.0f} of the {counted:,.0f} requests that Prometheus counted"
        return self.stood_for, said

    @cached_property
    def ratio_weight(self) -> float:
        """For how many requests one that was kept by chance stands; 1 where all are kept."""
        return max((trace.weight for trace in self.requests if trace.by_ratio), default=1.0)
