"""`python -m cluster doctor`: reads, says what is wrong, and changes batch settings where it is told to."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster.cli_error import CliError
from cluster.doctor import apply, report
from cluster.doctor.evidence import Evidence
from cluster.doctor.examination import examine
from cluster.doctor.prometheus_reader import Counts, PrometheusReader, Silent
from cluster.doctor.serve_reader import Deployment, ServeReader
from cluster.doctor.window import Window, seconds
from cluster.doctor.zipkin_reader import ZipkinReader
from cluster.state import State

NOTHING_TO_DO, SOMETHING_TO_DO = 0, 3
MOST_S = 7 * 86_400.0


@dataclass(frozen=True)
class Places:
    """Where to read. `page`: where people open Zipkin."""

    zipkin: str
    prometheus: str | None
    dashboard: str | None
    page: str

    @classmethod
    def of(cls, args: argparse.Namespace, state: State | None) -> Places:
        """What is named, and for the rest what the stack in the run folder has. Problem where no Zipkin is known."""
        running = state if state is not None and state.alive else None
        zipkin = args.zipkin_url or (running and running.zipkin and running.zipkin.url)
        if not zipkin:
            raise CliError(
                "The doctor reads traces, and knows of no Zipkin: nothing of ours runs here with one. Start "
                "it (`make up`), or name one with --zipkin-url http://127.0.0.1:9411."
            )
        zipkin = zipkin.rstrip("/").removesuffix("/zipkin")
        page = zipkin if args.zipkin_url else running.traces_url or zipkin
        return cls(
            zipkin,
            args.prometheus_url or (running and running.prometheus and running.prometheus.url) or None,
            args.dashboard_url or (running and running.ray and running.ray.dashboard_url) or None,
            page,
        )


def run(args: argparse.Namespace, state: State | None, say: Callable[[str], None] = print) -> int:
    """The exit status. Problem where Zipkin can't be read, or a change can't be made."""
    places = Places.of(args, state)
    evidence = gather(places, args.since, key=args.api_key)
    findings = examine(evidence)
    if args.apply:
        apply.batch(findings, places.dashboard, yes=args.yes, say=say)
        return NOTHING_TO_DO
    say(
        json.dumps(report.as_json(evidence, findings), indent=2, ensure_ascii=False)
        if args.json
        else report.as_text(evidence, findings)
    )
    return SOMETHING_TO_DO if any(finding.severity == "act" for finding in findings) else NOTHING_TO_DO


def gather(places: Places, since_s: float, now: float | None = None, key: str | None = None) -> Evidence:
    """`key`: for the gate before Zipkin, where there is one."""
    end = time.time() if now is None else now
    window = Window(end - since_s, end, places.page)
    counts, no_counts = _counts(places.prometheus, window)
    deployments, no_deployments = _deployments(places.dashboard)
    return Evidence(
        window, ZipkinReader(places.zipkin, key=key).read(window), counts, no_counts, deployments, no_deployments
    )


def _counts(url: str | None, window: Window) -> tuple[Counts | None, str | None]:
    if url is None:
        return None, "none is known: `make up ARGS=--with-monitoring`, or --prometheus-url"
    try:
        return PrometheusReader(url).read(window), None
    except Silent as silent:
        return None, str(silent)


def _deployments(url: str | None) -> tuple[dict[str, Deployment], str | None]:
    if url is None:
        return {}, "no dashboard is known: --dashboard-url"
    try:
        found = ServeReader(url).deployments()
        return found, None if found else "it runs no application of ours"
    except CliError as problem:
        return {}, str(problem).partition(". ")[0]


def add_command(commands, where: argparse.ArgumentParser) -> None:
    """The subcommand `doctor`, beside the launcher's others; `where` has the options of them all."""
    command = commands.add_parser(
        "doctor",
        parents=[where],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="what is wrong, and what to do about it, from the last hour's traces and figures",
        description="Reads the last hour from Zipkin, from Prometheus and from Serve, of the stack that runs here or "
        "those that are\nnamed, and says in words which stage takes the time and why, whose requests fail "
        "of what, which dialects\ndepart, what stood in, and which traces are broken. It changes nothing "
        "by itself. docs/doctor.md",
        epilog=f"exit status: {NOTHING_TO_DO} nothing to act on (or, with --apply, done), {SOMETHING_TO_DO} something "
        "to act on, 1 it could not look or not apply\n\nexamples:\n"
        "  python -m cluster doctor --since 15m\n"
        "  python -m cluster doctor --json | jq '.findings[] | select(.severity == \"act\").summary'\n"
        "  python -m cluster doctor --apply batch      shows the change, asks, and makes it live\n",
    )
    command.add_argument(
        "--since",
        type=_since,
        default=3600.0,
        metavar="TIME",
        help="how far back: 90s, 15m, 1h (default), 2d; at most 7d",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument(
        "--zipkin-url",
        metavar="URL",
        help="default: the Zipkin of the stack that runs here; a gate gets the key in COSYGRAPH_KEY",
    )
    command.add_argument("--prometheus-url", metavar="URL", help="default: that stack's, if it has one")
    command.add_argument("--dashboard-url", metavar="URL", help="Ray's, to ask for settings (default: that stack's)")
    command.add_argument(
        "--apply",
        choices=("batch",),
        help="make the change that a `batching` finding proposes, after asking; nothing restarts",
    )
    command.add_argument("--yes", action="store_true", help="with --apply: don't ask")


def _since(text: str) -> float:
    try:
        found = seconds(text)
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None
    if found > MOST_S:
        raise argparse.ArgumentTypeError(f"{text} is more than 7d; Zipkin's search is not made for it")
    return found
