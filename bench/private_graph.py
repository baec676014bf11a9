"""A graph of its own for a measurement: private Ray head, free ports, gone afterwards, also after SIGTERM."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import ports, ray_head
from cluster.serving import Application, Dashboard, wait_until_ready

CONFIG = Path(__file__).resolve().parent.parent / "cluster" / "serve.cpu.yaml"


@dataclass(frozen=True)
class PrivateGraph:
    port: int
    spans: Path  #: finished traces, JSON lines


@contextmanager
def private_graph(args: Mapping, *, num_cpus: int, beside: Sequence[dict] = ()) -> Iterator[PrivateGraph]:
    """`cluster/serve.cpu.yaml` with `args` laid over its application's own, and further applications `beside` it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        head = ray_head.start(ports.any_free(), Path(folder) / "ray.log", num_cpus=num_cpus)
        try:
            graph = PrivateGraph(ports.any_free(), Path(folder) / "spans.jsonl")
            tracing = {"spans_file": str(graph.spans), "spool_dir": str(Path(folder) / "spool"),
                       "sampling": {"ratio": 1.0}}
            application = Application.read(CONFIG, graph.port, {"tracing": tracing, **args})
            application.config["applications"] += beside
            dashboard = Dashboard(head)
            dashboard.deploy(application)
            for entry in application.config["applications"]:
                dashboard.wait_until_running(entry["name"], print)
            wait_until_ready(f"http://127.0.0.1:{graph.port}")
            yield graph
        finally:
            head.stop()
