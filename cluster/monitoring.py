"""Prometheus and Alertmanager beside a running graph, on loopback: Debian's packages, or any on the PATH.

What is scraped, which rules speak and who hears of it are files in `cluster/prometheus` and `cluster/alertmanager`;
here their places are filled in. Data and the filled-in files lie in the run folder; those that hold a secret can be
read by their owner alone.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml

from cluster import processes
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK, any_free, require_free
from cluster.ray_head import ROOT, RayHead
from cluster.wecom import Wecom

READY_WITHIN_S = 60.0
CONFIGS = ROOT / "cluster"
ZIPKIN = "http://127.0.0.1:9411"  #: as the files in cluster/prometheus name it
#: Written by Ray's head into its temporary folder, and kept up to date as nodes come and go.
TARGETS = "prom_metrics_service_discovery.json"
_MISSING = (
    "--with-monitoring starts {what}, which is not on the PATH. On Debian and Ubuntu: apt-get install "
    "--no-install-recommends prometheus prometheus-alertmanager (and stop the services that they start)."
)


@dataclass(frozen=True)
class Server:
    """A server of monitoring's that was started here."""

    process: processes.Started
    port: int

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def stop(self) -> None:
        processes.stop(self.process)


@dataclass(frozen=True)
class Thresholds:
    """Of the rules, and how often they are looked at; the defaults are the files'. Tests shorten them."""

    window_s: int = 300
    hold_s: int | None = None  #: how long a rule must hold; each has its own
    slow_s: float = 10.0  #: must be an edge of cosygraph_request_seconds
    every_s: int = 30  #: between two scrapes, and between two looks at the rules


def find(*names: str, env: Mapping[str, str] = os.environ) -> Path:
    """The first of these programs. Problem, with how to get it, where none is there."""
    for name in names:
        if found := shutil.which(name, path=env.get("PATH", "")):
            return Path(found)
    raise CliError(_MISSING.format(what=names[0]))


def check() -> None:
    """Problem where a program is missing."""
    find("prometheus")
    find("prometheus-alertmanager", "alertmanager")


def rules(zipkin_url: str = ZIPKIN, thresholds: Thresholds = Thresholds()) -> str:
    """`cluster/prometheus/rules.yml` with Zipkin's address and other thresholds."""
    text = (CONFIGS / "prometheus" / "rules.yml").read_text().replace(ZIPKIN, zipkin_url)
    window, slow, default = thresholds.window_s, thresholds.slow_s, Thresholds()
    if slow != default.slow_s:
        text = text.replace("[5m]))) > 10\n", f"[5m]))) > {slow:g}\n")
        text = text.replace("more than 10 s", f"more than {slow:g} s")
        text = text.replace("minDuration=10000000", f"minDuration={round(slow * 1e6)}")
    if window != default.window_s:
        text = text.replace("[5m]", f"[{window}s]").replace("offset 5m", f"offset {window}s")
        text = text.replace("within five minutes", f"within {window} s")
    if thresholds.hold_s is not None:
        text = re.sub(r"( for: )\w+", rf"\g<1>{thresholds.hold_s}s", text)
        text = re.sub(r"millis=\d+", f"millis={(window + thresholds.hold_s) * 1000}", text)
    return text


def prometheus_config(
    targets: Path, zipkin_url: str | None, alertmanager_port: int, every_s: int = Thresholds.every_s
) -> dict:
    config = yaml.safe_load((CONFIGS / "prometheus" / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": f"{every_s}s", "evaluation_interval": f"{every_s}s"}
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
    """Who hears of an alert: WeCom's application, its group robot by our adapter, both, or the page alone."""
    config = yaml.safe_load((CONFIGS / "alertmanager" / "alertmanager.yml").read_text())
    config["templates"] = [str(CONFIGS / "alertmanager" / "wecom.tmpl")]
    receiver = config["receivers"][0]
    application, robot = receiver.pop("wechat_configs"), receiver.pop("webhook_configs")
    if wecom.application is not None:
        receiver["wechat_configs"] = [application[0] | wecom.application.as_alertmanager_has_it()]
    if adapter_url is not None:
        receiver["webhook_configs"] = [robot[0] | {"url": f"{adapter_url}/alerts"}]
    return config


class Monitoring:
    """Starts the servers of one stack. `remember(name, server)` hears of each as soon as it is started."""

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

    def start(self, head: RayHead, zipkin_url: str | None, prometheus_port: int, alertmanager_port: int) -> None:
        """Returns when all answer. Problem where a program or a port is missing, or one doesn't come up."""
        prometheus, alertmanager = find("prometheus"), find("prometheus-alertmanager", "alertmanager")
        require_free(prometheus_port, "Prometheus", "--prometheus-port")
        require_free(alertmanager_port, "Alertmanager", "--alertmanager-port")
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        adapter = self._start_adapter() if self._wecom.robot is not None else None
        self._say(f"starting Alertmanager on http://{LOOPBACK}:{alertmanager_port} ({self._wecom.named})")
        config = self._write("alertmanager.yml", alertmanager_config(self._wecom, adapter and adapter.url))
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
        (self._folder / "rules.yml").write_text(rules(zipkin_url or ZIPKIN, self._thresholds))
        config = self._write(
            "prometheus.yml",
            prometheus_config(Path(head.folder) / TARGETS, zipkin_url, alertmanager_port, self._thresholds.every_s),
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

    def _start_adapter(self) -> Server:
        port = any_free()
        command = [sys.executable, "-m", "cluster.wecom_adapter", str(port)]
        return self._run("wecom", command, port, health="/health", env=self._wecom.robot.environment())

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
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
        return path


def healthy(url: str, path: str = "/-/ready") -> bool:
    try:
        return httpx.get(url + path, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
