"""All that the doctor has read, and the figures that several kinds of findings need."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

from cluster.doctor.prometheus_reader import Counts
from cluster.doctor.serve_reader import Deployment
from cluster.doctor.traces import Trace
from cluster.doctor.window import Window
from cluster.doctor.zipkin_reader import Read

FEWEST = 3  #: requests below which something is no finding, only a line
ENOUGH = 20  #: traces below which nothing is said of usual times and shares
WHOLE = 0.8  #: of Prometheus's count: what the traces must stand for to be about the same requests


@dataclass
class Evidence:
    """The sources' data about one time.

    Attributes:
        window: The time.
        read: Zipkin's traces.
        counts: Prometheus's counts, or None.
        no_counts: Why there are none.
        deployments: Serve's, by name; empty where Serve was not asked.
        no_deployments: Why there are none.
        otlp_url: The receiver of OTLP that gets the traces too, or None.
        otlp_problem: What is wrong with it; None if it takes traces.
    """

    window: Window
    read: Read
    counts: Counts | None = None
    no_counts: str | None = None
    deployments: dict[str, Deployment] = field(default_factory=dict)
    no_deployments: str | None = None
    otlp_url: str | None = None
    otlp_problem: str | None = None

    @cached_property
    def requests(self) -> list[Trace]:
        """The traces of requests for speech."""
        return [trace for trace in self.read.traces if trace.is_speech]

    @cached_property
    def good(self) -> list[Trace]:
        return [trace for trace in self.requests if trace.ok]

    @cached_property
    def stood_for(self) -> float:
        """The number of requests that the kept traces stand for."""
        return math.fsum(trace.weight for trace in self.requests)

    @cached_property
    def partial(self) -> bool:
        """True if the traces stand for fewer requests than Prometheus counted, by more than sampling explains.

        Zipkin forgot its oldest, more came than are read, or callers refused tracing.
        """
        return (
            self.counts is not None and self.by_chance and self.stood_for + self._chance < WHOLE * self.counts.requests
        )

    @cached_property
    def _chance(self) -> float:
        """Three standard deviations of `stood_for`, which is an estimate because of sampling."""
        return 3 * math.sqrt(math.fsum(trace.weight * (trace.weight - 1) for trace in self.requests))

    @property
    def by_chance(self) -> bool:
        """True if any trace was kept by the sampling ratio: only then do weights tell the number of all requests."""
        return any(trace.by_ratio for trace in self.requests)

    @cached_property
    def all_requests(self) -> tuple[float | None, str]:
        """The number of requests in the time that the traces cover, and how it is known.

        None where only failures were kept. If the traces cover a part of the time, Prometheus's count of all of it is
        no measure for them.
        """
        counted = self.counts.requests if self.counts is not None else None
        whole = self.read.cut_at is None and not self.partial
        least = max(len(self.requests), WHOLE * (self.stood_for - self._chance))  # below it Prometheus lags behind
        if counted is not None and whole and counted >= least:
            return counted, "Prometheus's count"
        if not self.by_chance:
            return None, "not known: no trace was kept by the sampling ratio"
        source = "by the kept traces' weights"
        if counted and self.partial:
            source += f", which stand for {self.stood_for:,.0f} of the {counted:,.0f} requests that Prometheus counted"
        return self.stood_for, source

    @cached_property
    def ratio_weight(self) -> float:
        """The weight of a trace that was kept by the sampling ratio; 1 where all are kept."""
        return max((trace.weight for trace in self.requests if trace.by_ratio), default=1.0)
