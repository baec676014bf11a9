"""`python -m cluster links`: compute a day's dependency graph, for Zipkin on Elasticsearch or OpenSearch."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from datetime import date

from cluster import links
from cluster.cli_error import CliError
from cluster.state import State
from cluster.storage import PASSWORD
from cluster.storage_elasticsearch import Server


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `links`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "links",
        parents=[run_dir],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="compute a day's dependency graph, for Zipkin on Elasticsearch or OpenSearch",
        description="Zipkin computes its dependency page by itself from memory and MySQL, but "
        "not from\nElasticsearch. This runs Zipkin's own linker over all spans of "
        "a day and writes the links\nwhere Zipkin looks for them. Run it again "
        "at any time: it replaces what it wrote.",
    )
    command.add_argument(
        "--day",
        type=_day,
        default="today",
        metavar="YYYY-MM-DD",
        help="a day of UTC, or `today` (default) or `yesterday`",
    )
    command.add_argument(
        "--storage-url",
        metavar="URL",
        help="http://host:9200, with user@ where it asks for one and the password in "
        "ZIPKIN_STORAGE_PASSWORD (default: the storage of the stack that runs here)",
    )
    command.add_argument(
        "--index",
        default=os.environ.get("ES_INDEX") or "zipkin",
        metavar="PREFIX",
        help="first word of Zipkin's indices (default: ES_INDEX, or zipkin)",
    )


def run(args: argparse.Namespace, state: State | None, say: Callable[[str], None]) -> int:
    """Compute the links, print them, and return the exit status.

    Args:
        args: The command line.
        state: The stack in the run folder, if there is one.
        say: Hears of progress.

    Raises:
        CliError: No Elasticsearch is known, or it has no spans of that day, or it refuses.
    """
    url = args.storage_url
    if url is None:
        kind, _, url = (state.zipkin.storage if state and state.zipkin else "").partition(" ")
        if kind != "elasticsearch":
            raise CliError(
                f"The Zipkin that runs here keeps its traces in {kind} and computes its links by itself: there is "
                "nothing to do."
                if kind
                else "No Zipkin of this launcher runs here. Name its Elasticsearch or OpenSearch with --storage-url."
            )
    server = Server.of(url, os.environ.get(PASSWORD, ""))
    say(f"{server.ask()} at {server.url}: reading {args.day}")
    result = links.compute(server, args.day, say, args.index)
    say(f"{result.spans} spans in {result.traces} traces; {len(result.links)} links written to {result.index}")
    for link in result.links:
        print(f"  {link.parent} -> {link.child}   {link.calls} calls, {link.errors} with errors")
    return 0


def _day(text: str) -> date:
    try:
        return links.parse_day(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no day: write 2026-11-22, today or yesterday") from None
