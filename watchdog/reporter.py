"""What the watchdog tells: a kept trace and a metric for each of its actions."""

from __future__ import annotations

import logging

from deployments import error_messages
from deployments.settings import Tracing
from tracing import Exporter, ExportSettings, Tracer, encode, vocabulary
from tracing.settings import Allow
from watchdog.canary import CanaryResult

log = logging.getLogger("ray.serve")

#: Seconds. 30 is where a canary has failed by default.
CANARY_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0)


class Metrics:
    """`kinds`: a module with Histogram, Counter and Gauge as `ray.serve.metrics` has them, which is the default."""

    def __init__(self, kinds=None) -> None:
        if kinds is None:
            from ray.serve import metrics as kinds
        self.actions = kinds.Counter(
            "cosygraph_watchdog_actions", "What the watchdog saw and did", ("action", "cause", "service")
        )
        self.canaries = kinds.Counter("cosygraph_watchdog_canaries", "Canaries by outcome", ("outcome",))
        self.canary_s = kinds.Histogram("cosygraph_watchdog_canary_seconds", "A canary's answer", CANARY_S, ())
        self.on_fallback = kinds.Gauge("cosygraph_watchdog_on_fallback", "1 while the fallback engine is in use", ())


class Reporter:
    """One watchdog's way to Zipkin and to Prometheus."""

    def __init__(self, tracing: Tracing, instance: str, metrics: Metrics) -> None:
        self._tracer = Tracer(vocabulary.WATCHDOG, instance=instance)
        self._metrics = metrics
        self.exporter = Exporter(
            ExportSettings(
                zipkin_url=tracing.zipkin_url,
                protocol=tracing.protocol,
                kafka=tracing.kafka,
                kafka_options=tracing.kafka_options,
                file=tracing.spans_file,
                spool_dir=tracing.spool_dir,
                spool_limit_bytes=int(tracing.spool_limit_mb * 1e6),
                retry_most_s=tracing.retry_most_s,
                allow=Allow(error_messages=error_messages.IN_TRACES),
            )
        )

    def canary(self, checked: CanaryResult) -> None:
        self._metrics.canaries.inc(1, {"outcome": str(checked.outcome)})
        if checked.ok:
            self._metrics.canary_s.observe((checked.ended_ns - checked.began_ns) / 1e9, {})

    def line(self, fallback: bool) -> None:
        self._metrics.on_fallback.set(float(fallback), {})

    def action(
        self, name: str, cause: str, service: str, began_ns: int, ended_ns: int, *, failed: bool = False, **tags
    ) -> str:
        """One span, kept whatever the sampling; returns its trace's id. `tags`: by the names of the vocabulary's
        constants."""
        span = self._tracer.server(name, parent=None, start_ns=began_ns)
        span.tags(
            {
                vocabulary.WATCHDOG_CAUSE: cause,
                vocabulary.WATCHDOG_SERVICE: service,
                vocabulary.SAMPLING_REASON: "watchdog",
                vocabulary.SAMPLING_ADJUSTED_COUNT: "1",
                **{getattr(vocabulary, key): value for key, value in tags.items()},
            }
        )
        if failed:
            span.fail(cause)
        self.exporter.submit(encode(span.records(ended_ns)))
        self._metrics.actions.inc(1, {"action": name.lower(), "cause": cause, "service": service})
        log.warning("watchdog: %s, %s, %s (trace %s)", name, service, cause, span.trace_id)
        return span.trace_id

    def close(self) -> None:
        self.exporter.close(timeout_s=5.0)
