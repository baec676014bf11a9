"""`python -m cluster retention`: delete old days of traces from Elasticsearch or OpenSearch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import UTC, datetime

from cluster import retention
from cluster.storage import PASSWORD
from cluster.storage_elasticsearch import Server


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `retention`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "retention",
        parents=[run_dir],
        help="delete old days of traces, for Zipkin on Elasticsearch or OpenSearch",
        description="Zipkin deletes nothing from Elasticsearch and OpenSearch. This deletes the indices of all days "
        "but the last ones, whole. Run it once a day.",
    )
    command.add_argument("--storage-url", required=True, metavar="URL", help="as for `links`: http://host:9200")
    command.add_argument(
        "--keep-days", type=_days, required=True, metavar="N", help="whole days of UTC that stay, beside today"
    )
    command.add_argument(
        "--index",
        default=os.environ.get("ES_INDEX") or "zipkin",
        metavar="PREFIX",
        help="first word of Zipkin's indices (default: ES_INDEX, or zipkin)",
    )
    command.add_argument("--dry-run", action="store_true", help="list them, and delete nothing")


def run(args: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Delete old indices, print their names, and return the exit status.

    Args:
        args: The command line.
        say: Hears of progress.

    Raises:
        CliError: No Elasticsearch or OpenSearch answers, or it refuses.
    """
    server = Server.of(args.storage_url, os.environ.get(PASSWORD, ""))
    say(f"{server.ask()} at {server.url}")
    found = retention.delete_old(server, args.keep_days, datetime.now(UTC).date(), args.index, args.dry_run)
    for name in found.indices:
        print(f"  {name}")
    done = "would be deleted" if args.dry_run else "deleted"
    say(f"{len(found.indices)} indices {done}, {found.bytes / 1e6:,.1f} MB")
    return 0


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3650:
        raise argparse.ArgumentTypeError(f"{text} is no number of days (1 to 3650)")
    return int(text)
