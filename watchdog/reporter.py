"""Reports what the watchdog did: a kept trace and a metric for each of its actions."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

from deployments import place, trace_error_messages
from deployments.settings import Tracing
from tracing import Exporter, encode, vocabulary
from tracing.export_settings import Allow
from watchdog.canary import CanaryResult

log = logging.getLogger(__name__)

#: Bounds of the histogram in seconds. 30 is where a canary has failed by default.
CANARY_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0)


class Metrics:
    """The watchdog's metrics.

    Args:
        kinds: Has Histogram, Counter and Gauge. `ray.serve.metrics` by default.
    """

    def __init__(self, kinds: ModuleType | Any = None) -> None:
        if kinds is None:
            from ray.serve import metrics as kinds
        self.actions = kinds.Counter(
            "cosygraph_watchdog_actions", "What the watchdog saw and did", ("action", "cause", "service")
        )
        self.canaries = kinds.Counter("cosygraph_watchdog_canaries", "Canaries by outcome", ("outcome",))
        self.canary_s = kinds.Histogram("cosygraph_watchdog_canary_seconds", "A canary's answer", CANARY_S, ())
        self.nodes_lost = kinds.Counter("cosygraph_watchdog_nodes_lost", "Lost nodes", ("lost_node", "cause"))
        self.on_fallback = kinds.Gauge("cosygraph_watchdog_on_fallback", "1 while the fallback engine is in use", ())


class Reporter:
    """Writes to Zipkin and Prometheus.

    Args:
        tracing: Where the traces go.
        instance: The replica's id.
        metrics: What is counted.
    """

    def __init__(self, tracing: Tracing, instance: str, metrics: Metrics) -> None:
        self._tracer = place.tracer(vocabulary.WATCHDOG, instance)
        self._metrics = metrics
        self.exporter = Exporter(tracing.export_settings(Allow(error_messages=trace_error_messages.IN_TRACES)))

    def canary(self, result: CanaryResult) -> None:
        """Count a canary."""
        self._metrics.canaries.inc(1, {"outcome": str(result.outcome)})
        if result.ok:
            self._metrics.canary_s.observe((result.ended_ns - result.began_ns) / 1e9, {})

    def engine(self, fallback: bool) -> None:
        """Set the gauge that tells which engine is in use."""
        self._metrics.on_fallback.set(float(fallback), {})

    def node_lost(self, address: str, cause: str) -> None:
        """Count a lost node."""
        self._metrics.nodes_lost.inc(1, {"lost_node": address, "cause": cause})

    def action(
        self,
        name: str,
        cause: str,
        service: str,
        began_ns: int,
        ended_ns: int,
        tags: dict[str, Any],
        *,
        failed: bool = False,
    ) -> str:
        """Report an action as a trace of one span, kept whatever the sampling.

        Args:
            name: One of `vocabulary.ACTIONS`.
            cause: A lower-case word.
            service: The service that it was done to.
            began_ns: Since the epoch.
            ended_ns: Since the epoch.
            tags: Further tags.
            failed: The span carries `error`.

        Returns:
            The trace's id.
        """
        span = self._tracer.server(name, parent=None, start_ns=began_ns)
        span.tags(
            {
                vocabulary.WATCHDOG_CAUSE: cause,
                vocabulary.WATCHDOG_SERVICE: service,
                vocabulary.SAMPLING_REASON: "watchdog",
                vocabulary.SAMPLING_ADJUSTED_COUNT: "1",
                **tags,
            }
        )
        if failed:
            span.fail(cause)
        self.exporter.submit(encode(span.end(ended_ns)))
        self._metrics.actions.inc(1, {"action": name.lower(), "cause": cause, "service": service})
        log.warning("watchdog: %s, %s, %s (trace %s)", name, service, cause, span.trace_id)
        return span.trace_id

    def close(self) -> None:
        """Send what waits, and let go of the spool."""
        self.exporter.close(timeout_s=5.0)
