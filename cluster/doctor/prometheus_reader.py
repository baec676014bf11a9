"""Read counts of all requests, traced or not, from Prometheus.

A counter's growth over a time is its last value minus its value before, series by series. `increase()` would miss the
first value of a new series, and extrapolates. If Prometheus's data begin later than the time, no counts are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import httpx

from cluster.doctor.traces import SPEECH_ROUTES
from cluster.doctor.window import Window

_ROUTES = "|".join(sorted(SPEECH_ROUTES))


class PrometheusUnavailable(Exception):
    """Prometheus has no counts for us; the message says why."""


@dataclass
class Counts:
    """Counts of the requests for speech in a time, and of what the comments say."""

    outcomes: dict[str, float] = field(default_factory=dict)  #: ok, refused, failed, cancelled: requests
    error_types: dict[str, float] = field(default_factory=dict)
    lost_traces: dict[str, float] = field(default_factory=dict)  #: by cause
    untraced: float = 0.0  #: requests, of every route
    zipkin_dropped: float = 0.0  #: spans
    queue_p95_s: dict[str, tuple[float, float]] = field(default_factory=dict)  #: stage: first half, second half
    replicas: dict[str, float] = field(default_factory=dict)  #: healthy now, by deployment
    waiting: float = 0.0  #: requests that wait for admission now

    @property
    def requests(self) -> float:
        return sum(self.outcomes.values())

    def counts(self) -> dict:
        return {"requests": round(self.requests), "outcomes": {name: round(n) for name, n in self.outcomes.items()}}


class PrometheusReader:
    """Reads from the Prometheus at `url`."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=20, trust_env=False, transport=transport)
        self._end = 0.0

    def read(self, window: Window) -> Counts:
        """Read the counts of a time.

        Raises:
            PrometheusUnavailable: It doesn't answer, doesn't know the graph, or doesn't reach back that far.
        """
        self._end = window.end
        length = f"{max(1, round(window.length_s))}s"
        half = f"{max(1, round(window.length_s / 2))}s"
        with self._http:
            if not self._by("max(up{job='ray'})"):
                raise PrometheusUnavailable("it has no series of Ray: is it the graph's own?")
            if not self._by(f"max(up{{job='ray'}} offset {length})"):
                raise PrometheusUnavailable(
                    "it does not reach back to the start of this time" + self._reaches(window.length_s)
                )
            requests = f"ray_cosygraph_requests_total{{route=~'{_ROUTES}'}}"
            return Counts(
                outcomes=self._by(_grew(requests, length, "outcome"), "outcome"),
                error_types=self._by(_grew(requests, length, "error_type"), "error_type"),
                lost_traces=self._by(_grew("ray_cosygraph_traces_lost_total", length, "cause"), "cause"),
                untraced=self._one(_grew("ray_cosygraph_untraced_requests_total", length, "job")),
                zipkin_dropped=self._one(_grew("zipkin_collector_spans_dropped_total", length, "job")),
                queue_p95_s=self._halves(half),
                replicas=self._by("sum by (deployment) (ray_serve_deployment_replica_healthy)", "deployment"),
                waiting=self._one("sum(ray_cosygraph_requests_waiting)"),
            )

    def _reaches(self, length_s: float) -> str:
        """Return how far its data reach back, as an option. The first scrape may be anywhere between two steps."""
        step = max(15, round(length_s / 240))
        first = self._by(f"time() - min(min_over_time(timestamp(up{{job='ray'}})[{round(length_s)}s:{step}s]))")
        reaches = max(first.values(), default=0.0) - step
        return f"; --since {reaches // 60:.0f}m would be counted" if reaches >= 60 else ""

    def _halves(self, half: str) -> dict[str, tuple[float, float]]:
        def asked(offset: str) -> dict[str, float]:
            rate = f"sum by (stage, le) (rate(ray_cosygraph_queue_wait_seconds_bucket[{half}]{offset}))"
            return self._by(f"histogram_quantile(0.95, {rate})", "stage")

        first, second = asked(f" offset {half}"), asked("")
        return {stage: (first[stage], second[stage]) for stage in first.keys() & second.keys()}

    def _one(self, query: str) -> float:
        return sum(self._by(query, "job").values())

    def _by(self, query: str, label: str = "job") -> dict[str, float]:
        try:
            answer = self._http.get("/api/v1/query", params={"query": query, "time": f"{self._end:.3f}"})
            found = answer.json()
            if found["status"] != "success":
                raise PrometheusUnavailable(f"it does not answer {query}: {found.get('error')}")
            values = {one["metric"].get(label, ""): float(one["value"][1]) for one in found["data"]["result"]}
        except httpx.HTTPError as failure:
            raise PrometheusUnavailable(f"{self.url} doesn't answer ({type(failure).__name__})") from failure
        except (ValueError, KeyError, TypeError) as failure:
            raise PrometheusUnavailable(f"the server at {self.url} is no Prometheus") from failure
        return {name: value for name, value in values.items() if math.isfinite(value)}


def _grew(counter: str, length: str, label: str) -> str:
    now = f"max_over_time({counter}[{length}])"
    return f"sum by ({label}) ({now} - ({counter} offset {length} or 0 * {now})) > 0"
