"""Runs a graph of its own for a measurement: private Ray head, free ports, gone afterwards, also after SIGTERM."""

from __future__ import annotations

import copy
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster import ports, ray_head
from cluster.ray_head import RayHead
from cluster.serving import Application, Dashboard, wait_until_ready

CONFIG = ray_head.ROOT / "cluster" / "serve.cpu.yaml"


@dataclass(frozen=True)
class PrivateGraph:
    port: int
    spans: Path  #: finished traces, JSON lines; empty if they go to Zipkin
    head: RayHead
    dashboard: Dashboard
    application: Application


@contextmanager
def private_graph(
    args: Mapping,
    *,
    num_cpus: int,
    beside: Sequence[dict] = (),
    copies: Sequence[str] = (),
    zipkin_url: str | None = None,
    ratio: float = 1.0,
    behind_haproxy: bool = False,
    watchdog: Mapping | None = None,
    deployments: Mapping[str, Mapping] | None = None,
    config: Path = CONFIG,
    num_gpus: int | None = None,
) -> Iterator[PrivateGraph]:
    """Run `cluster/serve.cpu.yaml`, or another Serve config, with changes, on a private Ray head.

    Voices are not cached, unless `args` says so: a benchmark repeats one clip, and all four stages are to be measured.

    Args:
        args: laid over the application's own arguments.
        num_cpus: CPUs of the Ray head.
        beside: further applications beside the graph.
        copies: names of further copies of the graph, each also its path.
        zipkin_url: receives the traces; None writes them to a file.
        ratio: share of traces that are kept.
        behind_haproxy: True: run the graph behind HAProxy.
        watchdog: settings of a watchdog; None runs none.
        deployments: by service, what is laid over its entry, such as `num_replicas`.
        config: the Serve config.
        num_gpus: GPUs of the Ray head; None lets Ray count them.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        head = ray_head.start(
            ports.any_free(),
            Path(folder) / "ray.log",
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            behind_haproxy=behind_haproxy,
        )
        try:
            port, spans = ports.any_free(), Path(folder) / "spans.jsonl"
            out = {"zipkin_url": zipkin_url} if zipkin_url else {"spans_file": str(spans)}
            tracing = {
                **out,
                "spool_dir": str(Path(folder) / "spool"),
                "sampling": {"ratio": ratio},
                **args.get("tracing", {}),
            }
            application = Application.read(
                config, port, {"voice_cache_mb": 0, **args, "tracing": tracing}, watchdog=watchdog is not None
            )
            if watchdog is not None:
                application.config["applications"][-1]["args"] |= watchdog
            for deployment in application.config["applications"][0]["deployments"]:
                deployment.pop("autoscaling_config", None)  # one replica each, all the time
                deployment.update((deployments or {}).get(deployment["name"], {}))
            first = application.config["applications"][0]
            more = [copy.deepcopy(first) | {"name": name, "route_prefix": f"/{name}"} for name in copies]
            application.config["applications"] += [*more, *beside]
            dashboard = Dashboard(head)
            dashboard.deploy(application)
            for entry in application.config["applications"]:
                dashboard.wait_until_running(entry["name"], print)
            for path in ("", *(f"/{name}" for name in copies)):
                wait_until_ready(f"http://127.0.0.1:{port}{path}")
            yield PrivateGraph(port, spans, head, dashboard, application)
        finally:
            head.stop(grace_s=1.0)
