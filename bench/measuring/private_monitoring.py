"""Runs Prometheus and Alertmanager for a measurement, on free ports beside a private graph, gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster import ports
from cluster.monitoring import Monitoring, Server, Thresholds
from cluster.ray_head import RayHead


@contextmanager
def private_monitoring(
    head: RayHead, zipkin_url: str | None, thresholds: Thresholds = Thresholds()
) -> Iterator[dict[str, Server]]:
    """Yield both servers by name, started as the launcher does, with the project's rules; alerts go nowhere.

    Raises:
        cluster.cli_error.Problem: a program is missing.
    """
    servers: dict[str, Server] = {}
    with tempfile.TemporaryDirectory(prefix="bench-monitoring-") as folder:
        try:
            monitoring = Monitoring(Path(folder), print, servers.__setitem__, thresholds=thresholds)
            monitoring.start(head, zipkin_url, ports.any_free(), ports.any_free())
            yield servers
        finally:
            for server in servers.values():
                server.stop()
