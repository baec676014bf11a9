"""The options of a stack, and how the command line gives them."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import yaml

from cluster import key
from cluster.cli_error import CliError
from cluster.ports import LOOPBACK
from cluster.ray_head import ROOT
from cluster.storage import KINDS, Storage
from cluster.wecom import Wecom
from cluster.zipkin import page_address
from cluster.zipkin_proxy import options as proxy_options
from cluster.zipkin_proxy.configuration import ProxyOptions

ZIPKIN_UI_URL = "ZIPKIN_UI_URL"  #: variable of the environment: where people open Zipkin
RUN_DIR = ROOT / ".run"  #: of the stack that `make` starts and stops


@dataclass(frozen=True)
class Options:
    """The options of `up` and `demo`. Everything listens on loopback; `host` moves the API, and the API alone."""

    host: str = LOOPBACK
    keys_file: Path | None = None  #: instead of the config's, or of the run folder's
    http_port: int = 8000
    dashboard_port: int = 8265
    zipkin_port: int = 9411
    ray_port: int = 0  #: Ray's control store; 0 = any free port
    config: Path = ROOT / "cluster" / "serve.cpu.yaml"
    engine: str | None = None  #: instead of the config's
    engine_options: Mapping[str, object] = field(default_factory=dict)  #: laid over the config's
    haproxy: bool = False  #: Serve's HAProxy mode
    with_zipkin: bool = True
    web_page: bool = True  #: where the config has one
    watchdog: bool = True  #: the same
    otlp_url: str | None = None  #: a receiver of OTLP that gets the traces too; instead of the config's
    storage: Storage = Storage()  #: of the Zipkin that is started
    zipkin_proxy: ProxyOptions | None = None  #: the gate, nginx before Zipkin
    zipkin_ui_url: str | None = None  #: where people open Zipkin, if not at the address that the graph sends traces to
    sampling: float = 1.0  #: share of unremarkable traces that is kept
    with_monitoring: bool = False
    prometheus_port: int = 9090
    alertmanager_port: int = 9093
    wecom: Wecom = Wecom()  #: where alerts go beside Alertmanager's page
    run_dir: Path = RUN_DIR

    @classmethod
    def of(cls, args: argparse.Namespace) -> Options:
        """Return the options that the command line and the environment give.

        Raises:
            CliError: Options contradict each other, or one has a wrong value.
        """
        wecom = Wecom.of()  # also where nothing needs it: not for the processes that are started
        gate, page = proxy_options.parse(args), os.environ.get(ZIPKIN_UI_URL)
        if gate is not None and page:
            raise CliError(
                f"{ZIPKIN_UI_URL} and --with-gate contradict each other: people open the gate, and --gate-url is its "
                f"address. Unset {ZIPKIN_UI_URL}, or leave --with-gate out."
            )
        return cls(
            host=args.host,
            keys_file=args.keys_file,
            http_port=args.http_port,
            dashboard_port=args.dashboard_port,
            zipkin_port=args.zipkin_port,
            ray_port=args.ray_port,
            config=args.config,
            engine=args.engine,
            engine_options=dict(args.engine_options),
            with_zipkin=not args.no_zipkin,
            haproxy=args.haproxy,
            web_page=args.web_page,
            watchdog=args.watchdog,
            sampling=args.sampling,
            with_monitoring=args.with_monitoring,
            prometheus_port=args.prometheus_port,
            alertmanager_port=args.alertmanager_port,
            wecom=wecom,
            otlp_url=args.otlp_url,
            zipkin_proxy=gate,
            zipkin_ui_url=page_address(page, ZIPKIN_UI_URL) if page else None,
            storage=Storage.of(args.zipkin_storage, args.zipkin_storage_url),
            run_dir=args.run_dir,
        )


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """Add --run-dir, which every command has."""
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=RUN_DIR,
        metavar="DIR",
        help="folder for state, logs and spooled traces; another one makes another, independent stack "
        "(default: .run in the repository)",
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `up` and `demo`."""
    group = parser.add_argument_group("the stack")
    group.add_argument(
        "--host",
        type=_address,
        default=LOOPBACK,
        metavar="ADDRESS",
        help="the API's: an IPv4 address of this machine, or 0.0.0.0 for all of them; beyond loopback "
        "API keys are required (default %(default)s)",
    )
    group.add_argument(
        "--keys-file",
        type=Path,
        metavar="FILE",
        help=f"API keys (default: the config file's, else {key.FILE} in the run folder, if it is there)",
    )
    group.add_argument(
        "--http-port", type=_port, default=Options.http_port, help="port of the API (default %(default)s)"
    )
    group.add_argument(
        "--zipkin-port",
        type=_port,
        default=Options.zipkin_port,
        help="port of the Zipkin started here (default %(default)s)",
    )
    group.add_argument(
        "--dashboard-port",
        type=_port,
        default=Options.dashboard_port,
        help="port of Ray's dashboard (default %(default)s)",
    )
    group.add_argument(
        "--ray-port", type=_port, default=Options.ray_port, help="port of Ray's control store (default: any free one)"
    )
    group.add_argument(
        "--config",
        type=Path,
        default=Options.config,
        metavar="FILE",
        help="Serve config file (default cluster/serve.cpu.yaml; with GPUs cluster/serve.gpu.yaml)",
    )
    group.add_argument("--engine", metavar="NAME", help="the speech engine (default: the config file's)")
    group.add_argument(
        "--engine-option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="engine_options",
        help="an option of the engine, in place of the config file's; may be repeated (--engine cosyvoice3 "
        "--engine-option model_dir=/models/Fun-CosyVoice3-0.5B)",
    )
    group.add_argument(
        "--haproxy",
        action="store_true",
        help="put HAProxy in front of the ingress instead of Serve's own proxy: it is quicker, but its own answers "
        "have no trace (docs/haproxy.md)",
    )
    group.add_argument(
        "--no-webui",
        action="store_false",
        dest="web_page",
        help="start no web page (/ui/); with a --host beyond loopback there is none anyway",
    )
    group.add_argument(
        "--no-watchdog",
        action="store_false",
        dest="watchdog",
        help="start no watchdog; it checks the graph and restarts unhealthy replicas (docs/watchdog.md)",
    )
    group.add_argument(
        "--sampling",
        type=_share,
        default=Options.sampling,
        metavar="SHARE",
        help="share of ordinary traces to keep, 0 to 1 (default %(default)g; traces of errors and slow requests are "
        "always kept)",
    )
    group.add_argument("--no-zipkin", action="store_true", help="write spans to a JSON-lines file instead")
    group.add_argument(
        "--otlp-url",
        metavar="URL",
        help="a receiver of OTLP/HTTP that gets the traces too, http://127.0.0.1:4318 (docs/otlp.md)",
    )
    group.add_argument(
        "--zipkin-storage",
        choices=KINDS,
        default=Storage.kind,
        help="where the Zipkin started here keeps traces: mem (default; gone when it stops), mysql, "
        "elasticsearch (or OpenSearch)",
    )
    group.add_argument(
        "--zipkin-storage-url",
        metavar="URL",
        help="address of the storage's server: mysql://user@host:port/database or http://host:9200 (default for mysql: "
        "a MariaDB that is started here, with its data in the run folder)",
    )
    group.add_argument(
        "--with-monitoring",
        action="store_true",
        help="start Prometheus and Alertmanager too (Debian's packages; docs/runbook.md)",
    )
    group.add_argument(
        "--prometheus-port",
        type=_port,
        default=Options.prometheus_port,
        help="port of the Prometheus started here (default %(default)s)",
    )
    group.add_argument(
        "--alertmanager-port",
        type=_port,
        default=Options.alertmanager_port,
        help="port of the Alertmanager started here (default %(default)s)",
    )
    proxy_options.add_options(parser)


def command(name: str, run_dir: Path) -> str:
    """Return what to type to run the command `name` on the stack in `run_dir`.

    >>> command("down", RUN_DIR), command("down", Path("/srv/run"))
    ('make down', 'python -m cluster down --run-dir /srv/run')
    """
    if run_dir.resolve() == RUN_DIR.resolve():
        return f"make {name}"
    return f"python -m cluster {name} --run-dir {shlex.quote(str(run_dir))}"


def _address(text: str) -> str:
    try:
        return str(IPv4Address(LOOPBACK if text == "localhost" else text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no IPv4 address (127.0.0.1, 0.0.0.0 …)") from None


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port (0 to 65535)")
    return port


def _option(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text} is no option: write NAME=VALUE")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share (0 to 1)")
    return share
