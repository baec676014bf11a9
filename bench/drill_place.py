"""Where a drill happens: the running graph, what watches it, and what can be done to both from outside."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.alerts import Alerts, Unlike
from bench.private_graph import PrivateGraph
from bench.traffic import Traffic
from cluster.serving import Application
from tracing import vocabulary


@dataclass(frozen=True)
class Place:
    graph: PrivateGraph
    zipkin_url: str
    alerts: Alerts
    traffic: Traffic
    fault: Path  #: the simulated engine's `fault_file`

    def config(self, service: str) -> dict:
        """The deployment's part of the Serve config; changes count from the next `deploy` on."""
        return next(
            one for one in self.graph.application.config["applications"][0]["deployments"] if one["name"] == service
        )

    def deploy(self) -> None:
        self.graph.dashboard.deploy(Application(self.graph.application.config))

    def status(self, service: str) -> dict:
        """As Serve reports it. Unlike where it doesn't."""
        try:
            return self.graph.dashboard.applications()[self.graph.application.name]["deployments"][service]
        except KeyError:
            raise Unlike(f"Serve knows nothing of {service}") from None

    def process(self, service: str, within_s: float = 90.0) -> int:
        """Of its one replica, as soon as it runs."""
        end = time.monotonic() + within_s
        while True:
            running = [one["pid"] for one in self.status(service)["replicas"] if one["state"] == "RUNNING"]
            if running and psutil.pid_exists(running[0]):
                return running[0]
            if time.monotonic() > end:
                raise Unlike(f"no replica of {service} runs within {within_s:.0f} s")
            time.sleep(0.5)

    def told(self, span: str, within_s: float = 30.0) -> list[dict]:
        """The watchdog's spans of that name in the last ten minutes. Unlike where there is none."""
        end = time.monotonic() + within_s
        while True:
            found = httpx.get(
                f"{self.zipkin_url}/api/v2/traces",
                trust_env=False,
                timeout=30,
                params={"serviceName": vocabulary.WATCHDOG, "spanName": span.lower(), "lookback": 600_000, "limit": 50},
            ).json()
            if found:
                return [one for trace in found for one in trace if one["name"] == span.lower()]
            if time.monotonic() > end:
                raise Unlike(f"Zipkin has no {span} of the watchdog's")
            time.sleep(0.5)

    def log_lines(self, service: str, text: str) -> int:
        """How many lines with `text` the service's logs have."""
        files = (self.graph.head.logs / "serve").glob(f"*{service}*.log")
        return sum(text in line for file in files for line in file.read_text(errors="replace").splitlines())


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Unlike(otherwise)


def listener(port: int) -> psutil.Process:
    """Who listens on that port."""
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
            return psutil.Process(one.pid)
    raise Unlike(f"nobody listens on {port}")
