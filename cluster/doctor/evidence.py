"""What was found out, gathered once, and what every kind of finding asks of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from cluster.doctor.prometheus_reader import Counts
from cluster.doctor.serve_reader import Deployment
from cluster.doctor.traces import Trace
from cluster.doctor.window import Window
from cluster.doctor.zipkin_reader import Read

ENOUGH = 20  #: traces below which nothing is said of usual times and shares


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
    def all_requests(self) -> tuple[float | None, str]:
        """(how many requests there were, in words where that is known from). None where only failures are kept."""
        if self.counts is not None and self.counts.requests >= len(self.requests):  # else it lags behind
            return self.counts.requests, "Prometheus's count"
        sampled = [trace for trace in self.requests if trace.by_ratio]
        if not sampled:
            return None, "not known: only traces that were kept on purpose are there"
        return sum(trace.weight for trace in self.requests), "by the kept traces' weights"

    @cached_property
    def ratio_weight(self) -> float:
        """For how many requests one that was kept by chance stands; 1 where all are kept."""
        return max((trace.weight for trace in self.requests if trace.by_ratio), default=1.0)
