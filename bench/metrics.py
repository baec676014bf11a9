"""Measure the cost of a request's metrics in the ingress: `python -m bench.metrics`.

The same finished request (the root, four stages, two phases) is recorded over and over: in a process outside a Ray
cluster, and in a Ray worker, whose metrics are sent to the agent meanwhile. A figure is the microseconds of the
thread's CPU a request, the median of the rounds. A request through the graph takes some 20,000 of them beside its
models' work.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from bench import results
from cluster import loopback, ports, ray_head
from deployments.ingress.context import RequestContext
from deployments.ingress.metrics import Metrics
from speech.dialects import DIALECTS
from tracing import Tracer, vocabulary

ROUNDS, REQUESTS = 7, 2000


def rounds() -> list[float]:
    """Measure µs a request, round by round."""
    metrics, tracer = Metrics(DIALECTS), Tracer(vocabulary.INGRESS, instance="r")
    run = RequestContext(tracer, tracer.server("POST /api/generate", parent=None), 60, time.time_ns())
    run.route, run.dialect, run.mode, run.audio_s = "/api/generate", "mandarin", "fast", 5.0
    run.root.tag(vocabulary.QUEUE_WAIT_MS, 0.01)
    for stage, service in vocabulary.STAGE_SERVICE.items():
        span = Tracer(service, instance="r").server(stage, parent=run.call_context())
        span.tags({vocabulary.QUEUE_WAIT_MS: 1.25, vocabulary.BATCH_WAIT_MS: 12.5, vocabulary.BATCH_SIZE: 3})
        if stage == vocabulary.GENERATE_MEL:
            span.add_child("TEXT_FRONTEND", span.start_ns, span.start_ns)
            span.add_child("ACOUSTIC_MODEL", span.start_ns, span.start_ns)
        run.add_spans(span.end())
    records = run.finish(200)
    took = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        for _ in range(REQUESTS):
            metrics.record(run, records, 200, False)
        took.append((time.thread_time() - started) / REQUESTS * 1e6)
    return took


def in_a_worker() -> list[float]:
    """Measure the same in a Ray worker of a private head."""
    loopback.keep()
    import ray

    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder:
        head = ray_head.start(ports.any_free(), Path(folder) / "ray.log", num_cpus=1)
        try:
            ray.init(address=head.address, log_to_driver=False)
            return ray.get(ray.remote(num_cpus=1)(rounds).remote())
        finally:
            ray.shutdown()
            head.stop(grace_s=1.0)


def main() -> None:
    figures = {}
    for name, took in (("alone", rounds()), ("in a Ray worker", in_a_worker())):
        figures[name] = {
            "median_us": round(statistics.median(took), 1),
            "lowest_us": round(min(took), 1),
            "highest_us": round(max(took), 1),
        }
        print(
            f"{name:16} {figures[name]['median_us']:6.1f} µs a request ({figures[name]['lowest_us']} to "
            f"{figures[name]['highest_us']})"
        )
    results.write("metrics", {"rounds": ROUNDS, "requests": REQUESTS, "us": figures})


if __name__ == "__main__":
    main()
