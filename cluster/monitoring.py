"""Start Prometheus and Alertmanager beside a running graph, on loopback: Debian's packages, or any on the PATH.

Targets, rules and receivers stand in `cluster/prometheus` and `cluster/alertmanager`; this module fills in addresses.
Data and the filled-in files are in the run folder; files with a secret can be read by their owner alone.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import yaml

from cluster import private_file, processes
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, any_free, require_free
from cluster.ray_head import ROOT, RayHead
from cluster.wecom import Robot, Wecom

READY_WITHIN_S = 60.0
CONFIGS = ROOT / "cluster"
#: Written by Ray's head into its temporary folder, and kept up to date as nodes come and go.
TARGETS = "prom_metrics_service_discovery.json"
_MISSING = (
    "--with-monitoring starts {what}, which is not on the PATH. On Debian and Ubuntu: apt-get install "
    "--no-install-recommends prometheus prometheus-alertmanager (and stop the services that they start)."
)


@dataclass(frozen=True)
class Server:
    """A monitoring server that this launcher started."""

    process: processes.Started
    port: int

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def stop(self) -> None:
        processes.stop(self.process)


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the rules, and how often they are evaluated. The defaults are those of the files."""

    window_s: int = 300
    hold_s: int | None = None  #: how long a rule must hold; each has its own
    slow_s: float = 10.0  #: must be an edge of cosygraph_request_seconds
    every_s: int = 30  #: between two scrapes, and between two evaluations of the rules


def find(*names: str, env: Mapping[str, str] = os.environ) -> Path:
    """Return the first of these programs that is on the PATH.

    Raises:
        CliError: None is; the message says how to install it.
    """
    for name in names:
        if found := shutil.which(name, path=env.get("PATH", "")):
            return Path(found)
    raise CliError(_MISSING.format(what=names[0]))


def check() -> None:
    """Check that the programs are there.

    Raises:
        CliError: One is missing.
    """
    find("prometheus")
    find("prometheus-alertmanager", "alertmanager")


def rules(thresholds: Thresholds = Thresholds()) -> str:
    """Return `cluster/prometheus/rules.yml`: as it is, or with other thresholds, for tests and drills."""
    text = (CONFIGS / "prometheus" / "rules.yml").read_text()
    if replace(thresholds, every_s=Thresholds.every_s) == Thresholds():
        return text
    config = yaml.safe_load(text)
    for group in config["groups"]:
        group["rules"] = [_with_thresholds(rule, thresholds) for rule in group["rules"]]
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)


def _with_thresholds(rule: dict, thresholds: Thresholds) -> dict:
    """Return a rule with another window, another time to hold, and another threshold of RequestsSlow."""

    def windowed(text: str) -> str:
        text = re.sub(r"(\[|offset )5m\b", rf"\g<1>{thresholds.window_s}s", text)
        return text.replace("within five minutes", f"within {thresholds.window_s} s")

    annotations = {name: windowed(text) for name, text in rule["annotations"].items()}
    rule = rule | {"expr": windowed(rule["expr"]), "annotations": annotations}
    if rule["alert"] == "RequestsSlow":
        slow = thresholds.slow_s
        rule["expr"] = re.sub(r"> 10$", f"> {slow:g}", rule["expr"], flags=re.MULTILINE)
        annotations["summary"] = annotations["summary"].replace("more than 10 s", f"more than {slow:g} s")
        annotations["traces"] = re.sub(r"minDuration=\d+", f"minDuration={round(slow * 1e6)}", annotations["traces"])
    if thresholds.hold_s is not None:
        if "for" in rule:
            rule["for"] = f"{thresholds.hold_s}s"
        looked_back_ms = (thresholds.window_s + thresholds.hold_s) * 1000
        annotations["traces"] = re.sub(r"\bmillis=\d+", f"millis={looked_back_ms}", annotations["traces"])
    return rule


def prometheus_config(
    targets: Path,
    zipkin_url: str | None,
    alertmanager_port: int,
    every_s: int = Thresholds.every_s,
    zipkin_page: str | None = None,
) -> dict:
    """Return `cluster/prometheus/prometheus.yml` with the places of one stack.

    Args:
        targets: Ray's file of targets.
        zipkin_url: Of the Zipkin to scrape; None for none.
        alertmanager_port: On loopback.
        every_s: Seconds between two scrapes, and between two evaluations of the rules.
        zipkin_page: The address at which people open Zipkin, without /zipkin (default: `zipkin_url`).
    """
    config = yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"}
    if page := zipkin_page or zipkin_url:
        config["global"]["external_labels"] = {"zipkin": page}
    config["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"{LOOPBACK}:{alertmanager_port}"]
    ray, zipkin = config["scrape_configs"]
    ray["file_sd_configs"][0]["files"] = [str(targets)]
    if zipkin_url is None:
        config["scrape_configs"] = [ray]
    else:
        scheme, _, address = zipkin_url.partition("://")
        zipkin |= {"scheme": scheme, "static_configs": [{"targets": [address.rstrip("/")]}]}
    return config


def alertmanager_config(wecom: Wecom, adapter_url: str | None) -> dict:
    """Return Alertmanager's config: alerts go to WeCom's application, its group robot, both, or neither."""
    config = yaml.safe_load((CONFIGS / "alertmanager" / "alertmanager.yml").read_text())
    config["templates"] = [str(CONFIGS / "alertmanager" / "wecom.tmpl")]
    receiver = config["receivers"][0]
    application, robot = receiver.pop("wechat_configs"), receiver.pop("webhook_configs")
    if wecom.application is not None:
        receiver["wechat_configs"] = [application[0] | wecom.application.to_alertmanager()]
    if adapter_url is not None:
        receiver["webhook_configs"] = [robot[0] | {"url": f"{adapter_url}/alerts"}]
    return config


class Monitoring:
    """Starts the servers of one stack.

    Args:
        run_dir: Where data, files and logs go.
        say: Hears of progress.
        remember: Called with name and server as soon as a server is started, before it is ready.
        wecom: Where alerts go beside Alertmanager's page.
        thresholds: Of the rules.
    """

    def __init__(
        self,
        run_dir: Path,
        say: Callable[[str], None],
        remember: Callable[[str, Server], None],
        wecom: Wecom = Wecom(),
        thresholds: Thresholds = Thresholds(),
    ) -> None:
        self._folder = run_dir / "monitoring"
        self._logs = run_dir / "logs"
        self._say = say
        self._remember = remember
        self._wecom = wecom
        self._thresholds = thresholds

    def start(
        self,
        head: RayHead,
        zipkin_url: str | None,
        prometheus_port: int,
        alertmanager_port: int,
        zipkin_page: str | None = None,
    ) -> None:
        """Start all servers, and return when they answer.

        Args:
            head: Ray's, which knows the targets to scrape.
            zipkin_url: Of the Zipkin to scrape; None for none.
            prometheus_port: On loopback.
            alertmanager_port: On loopback.
            zipkin_page: The address at which people open Zipkin, without /zipkin (default: `zipkin_url`).

        Raises:
            CliError: A program is missing, a port is taken, or a server does not come up.
        """
        prometheus, alertmanager = find("prometheus"), find("prometheus-alertmanager", "alertmanager")
        require_free(prometheus_port, "Prometheus", "--prometheus-port")
        require_free(alertmanager_port, "Alertmanager", "--alertmanager-port")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        robot = self._wecom.robot
        adapter_url = self._start_adapter(robot).url if robot is not None else None
        self._say(f"starting Alertmanager on http://{LOOPBACK}:{alertmanager_port} ({self._wecom.description})")
        config = self._write("alertmanager.yml", alertmanager_config(self._wecom, adapter_url))
        # Without an address for its cluster it would listen for other Alertmanagers, on every interface.
        self._run(
            "alertmanager",
            [
                alertmanager,
                f"--config.file={config}",
                "--cluster.listen-address=",
                f"--storage.path={self._folder / 'alertmanager'}",
                "--log.level=warn",
                f"--web.listen-address={LOOPBACK}:{alertmanager_port}",
            ],
            alertmanager_port,
        )
        self._say(f"starting Prometheus on http://{LOOPBACK}:{prometheus_port}")
        (self._folder / "rules.yml").write_text(rules(self._thresholds))
        config = self._write(
            "prometheus.yml",
            prometheus_config(
                Path(head.folder) / TARGETS, zipkin_url, alertmanager_port, self._thresholds.every_s, zipkin_page
            ),
        )
        self._run(
            "prometheus",
            [
                prometheus,
                f"--config.file={config}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                "--storage.tsdb.retention.time=15d",
                "--log.level=warn",
                f"--web.listen-address={LOOPBACK}:{prometheus_port}",
            ],
            prometheus_port,
        )

    def _start_adapter(self, robot: Robot) -> Server:
        port = any_free()
        command = [sys.executable, "-m", "cluster.wecom_adapter", str(port)]
        return self._run("wecom", command, port, health="/health", env=robot.environment())

    def _run(
        self, name: str, command: list, port: int, *, health: str = "/-/ready", env: Mapping[str, str] | None = None
    ) -> Server:
        log = self._logs / f"{name}.log"
        began = time.monotonic()
        server = Server(processes.start(name, [str(part) for part in command], log, env=env, cwd=ROOT), port)
        self._remember(name, server)
        while not healthy(server.url, health):
            if not server.process.alive or time.monotonic() - began > READY_WITHIN_S:
                server.stop()
                raise CliError(f"{name} did not come up. The end of {log}:\n{processes.last_lines(log)}")
            time.sleep(0.1)
        return server

    def _write(self, name: str, config: dict) -> Path:
        path = self._folder / name
        private_file.write(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
        return path


def healthy(url: str, path: str = "/-/ready") -> bool:
    """Tell whether a server answers 200 at `path`."""
    try:
        return httpx.get(url + path, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
