"""A private graph with its monitoring (Zipkin, Prometheus, Alertmanager) and callers with API keys."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.measuring.private_graph import PrivateGraph, private_graph
from bench.measuring.private_monitoring import private_monitoring
from bench.measuring.private_zipkin import private_zipkin
from cluster.monitoring import Thresholds
from cluster.serving import Application
from cluster.state import State, StateFile, boot_id
from cluster.zipkin import Zipkin
from tests.drills.callers import Callers, keyed
from tests.drills.doctor_report import Doctor
from tests.drills.zipkin_queries import ZipkinQueries

LOOKS_ROUND_S = 2.0  #: Serve's controller does it every half second


@dataclass(frozen=True)
class WatchedGraph:
    graph: PrivateGraph
    callers: Callers
    zipkin: ZipkinQueries
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
        """Return the process ids of each service's replicas."""
        deployments = self.graph.dashboard.applications()[self.graph.application.name]["deployments"]
        return {name: [replica["pid"] for replica in status["replicas"]] for name, status in deployments.items()}


@contextmanager
def watched_graph(simulated: Mapping, ratio: float) -> Iterator[WatchedGraph]:
    """Start a graph that the doctor finds in a run folder, as if the launcher had started it.

    Args:
        simulated: Options of the simulated engine.
        ratio: Share of unremarkable traces that is kept.
    """
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
                prometheus=servers["prometheus"],
                alertmanager=servers["alertmanager"],
            )
        )
        yield WatchedGraph(
            graph,
            Callers(graph.port, keys),
            ZipkinQueries(zipkin_url),
            Doctor(zipkin_url, servers["prometheus"].url, Path(run_dir)),
        )
