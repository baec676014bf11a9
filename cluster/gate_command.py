"""`python -m cluster gate`: the gate before Zipkin in the foreground, for a container (docs/gate.md)."""

from __future__ import annotations

import argparse
import os
import sys

from cluster.ports import any_free
from cluster.ray_head import ROOT
from cluster.zipkin_proxy import options as proxy_options
from cluster.zipkin_proxy import process


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `gate`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "gate",
        parents=[run_dir],
        help="run the gate before a Zipkin of your own, in the foreground",
        description="Runs nginx with the key check before a Zipkin that runs already, until it is stopped. "
        "`up --with-gate` does the same beside the graph.",
    )
    command.add_argument(
        "--zipkin-url", required=True, metavar="URL", help="the Zipkin behind the gate: http://zipkin:9411"
    )
    proxy_options.add_options(command)


def run(args: argparse.Namespace) -> int:
    """Become the gate: this process is replaced by it.

    Raises:
        CliError: There is no nginx or no key file, or the port is taken.
    """
    args.with_gate = True
    options = proxy_options.parse(args)
    assert options is not None
    command = process.prepare(
        options, args.zipkin_url, None, args.run_dir / "gate", any_free(), lambda text: print(text, file=sys.stderr)
    )
    os.chdir(ROOT)
    sys.stdout.flush()
    os.execv(command[0], command)
