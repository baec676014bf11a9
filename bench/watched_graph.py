"""A private graph with all that watches it (Zipkin, Prometheus, Alertmanager) and callers with keys."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.callers import Callers, keyed
from bench.doctor import Doctor
from bench.kept import Kept
from bench.private_graph import PrivateGraph, private_graph
from bench.private_monitoring import private_monitoring
from bench.private_zipkin import private_zipkin
from cluster.monitoring import Thresholds
from cluster.serving import Application
from cluster.state import State, StateFile, boot_id
from cluster.zipkin import Zipkin

LOOKS_ROUND_S = 2.0  #: Serve's controller does it every half second


@dataclass(frozen=True)
class WatchedGraph:
    graph: PrivateGraph
    callers: Callers
    kept: Kept
    doctor: Doctor

    def set_batches(self, settings: dict) -> None:
        """Change tts-service's `user_config`, live."""
        for deployment in self.graph.application.config["applications"][0]["deployments"]:
            if deployment["name"] == "tts-service":
                deployment["user_config"] = settings
        self.graph.dashboard.deploy(Application(self.graph.application.config))
        time.sleep(LOOKS_ROUND_S)
        self.graph.dashboard.wait_until_running(self.graph.application.name, lambda text: None)

    def processes(self) -> dict[str, list[int]]:
        """Of the replicas of each service."""
        deployments = self.graph.dashboard.applications()[self.graph.application.name]["deployments"]
        return {name: [replica["pid"] for replica in status["replicas"]] for name, status in deployments.items()}


@contextmanager
def watched_graph(simulated: Mapping, ratio: float) -> Iterator[WatchedGraph]:
    """`simulated`: the engine's options; `ratio`: the share of unremarkable traces that is kept. The doctor finds the
    stack in a run folder, as if the launcher had started it."""
    with (
        keyed() as (args, keys),
        private_zipkin() as zipkin_url,
        tempfile.TemporaryDirectory() as run_dir,
        private_graph(
            {"engine": "simulated", "engine_options": simulated, **args}, num_cpus=8, zipkin_url=zipkin_url, ratio=ratio
        ) as graph,
        private_monitoring(graph.head, zipkin_url, Thresholds(every_s=5)) as servers,
    ):
        StateFile(Path(run_dir)).save(
            State(
                datetime.now().isoformat(timespec="seconds"),
                boot_id(),
                graph.port,
                app=graph.application.name,
                module=graph.application.module,
                ready=True,
                zipkin=Zipkin(zipkin_url),
                ray=graph.head,
                **servers,
            )
        )
        yield WatchedGraph(
            graph,
            Callers(graph.port, keys),
            Kept(zipkin_url),
            Doctor(zipkin_url, servers["prometheus"].url, Path(run_dir)),
        )
