"""The environment of a drill: a running graph, its monitoring, and what can be done to both from outside."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from bench.measuring.private_graph import PrivateGraph
from cluster.serving import Application
from tests.drills.alerts import Alerts, CheckFailed
from tests.drills.traffic import Traffic
from tracing import vocabulary


@dataclass(frozen=True)
class Environment:
    graph: PrivateGraph
    zipkin_url: str
    alerts: Alerts
    traffic: Traffic
    fault: Path  #: the simulated engine's `fault_file`

    def config(self, service: str) -> dict:
        """Return the deployment's part of the Serve config; changes take effect with the next `deploy`."""
        return next(
            one for one in self.graph.application.config["applications"][0]["deployments"] if one["name"] == service
        )

    def deploy(self) -> None:
        self.graph.dashboard.deploy(Application(self.graph.application.config))

    def status(self, service: str) -> dict:
        """Return the deployment's status as Serve reports it. Raises CheckFailed if Serve does not know the service."""
        try:
            return self.graph.dashboard.applications()[self.graph.application.name]["deployments"][service]
        except KeyError:
            raise CheckFailed(f"Serve knows nothing of {service}") from None

    def process(self, service: str, within_s: float = 90.0) -> int:
        """Wait until the service's one replica runs, and return its process id."""
        end = time.monotonic() + within_s
        while True:
            running = [one["pid"] for one in self.status(service)["replicas"] if one["state"] == "RUNNING"]
            if running and psutil.pid_exists(running[0]):
                return running[0]
            if time.monotonic() > end:
                raise CheckFailed(f"no replica of {service} runs within {within_s:.0f} s")
            time.sleep(0.5)

    def watchdog_spans(self, span: str, within_s: float = 30.0) -> list[dict]:
        """Return the watchdog's spans of this name in the last ten minutes. Raises CheckFailed if there are none."""
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
                raise CheckFailed(f"Zipkin has no span {span} of the watchdog")
            time.sleep(0.5)

    def log_lines(self, service: str, text: str) -> int:
        """Count the lines of the service's logs that contain `text`."""
        files = (self.graph.head.logs / "serve").glob(f"*{service}*.log")
        return sum(text in line for file in files for line in file.read_text(errors="replace").splitlines())


def expect(holds: bool, otherwise: str) -> None:
    """Raise CheckFailed with the words of `otherwise` if the condition does not hold."""
    if not holds:
        raise CheckFailed(otherwise)


def listener(port: int) -> psutil.Process:
    """Find the process that listens on this port."""
    for one in psutil.net_connections("tcp"):
        if one.laddr and one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
            return psutil.Process(one.pid)
    raise CheckFailed(f"no process listens on {port}")
