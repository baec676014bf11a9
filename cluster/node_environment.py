"""`python -m cluster env`: the environment that each node of a Ray cluster needs before `ray start`.

The launcher sets the same for its own head (`ray_head.SETTINGS`). What only suits a single private machine is left out.
"""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from cluster.application import Application
from cluster.ray_head import ROOT, SETTINGS

CONFIG = ROOT / "cluster" / "serve.cluster.yaml"
#: A hook that binds Ray to loopback, and ports that two heads on one machine would dispute.
PRIVATE = frozenset({"RAY_START_HOOK", "AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT"})

#: What only a cluster needs.
CLUSTER = {
    # A head that keeps its state in a Redis may come back, and replicas serve meanwhile. By Ray's own setting the other
    # nodes end themselves after 60 s without it.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "300",
    # The head gives a silent node up after three unanswered checks, 18 s, instead of five, 65 s: Serve finds replicas
    # ill after 13 s, and puts new ones on a silent node as long as Ray counts it as alive.
    "RAY_health_check_period_ms": "2000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `env`; `run_dir` has the options of all commands."""
    env = commands.add_parser(
        "env",
        parents=[run_dir],
        help="the environment for `ray start` on each node of a cluster (docs/scale.md)",
        description='Prints export lines for a shell:  eval "$(python -m cluster env)"',
    )
    env.add_argument(
        "--config", type=Path, default=CONFIG, metavar="FILE", help="the Serve config (default %(default)s)"
    )


def variables(config: Path) -> dict[str, str]:
    """Return the variables.

    Args:
        config: the Serve config that will be deployed; Serve's proxies keep traces by its settings.

    Raises:
        CliError: the config can't be read, or is none.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    return without_path(Application.read(config, 8000, {})) | {"PYTHONPATH": path}


def without_path(application: Application) -> dict[str, str]:
    """Return the variables for a config that was read, all but PYTHONPATH: where the repository lies differs."""
    settings = {name: value for name, value in SETTINGS.items() if name not in PRIVATE}
    return settings | CLUSTER | application.proxy_environment()


def run(args: argparse.Namespace) -> int:
    """Print the export lines."""
    for name, value in variables(args.config).items():
        print(f"export {name}={shlex.quote(value)}")
    return 0
