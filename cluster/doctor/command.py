"""`python -m cluster doctor`: read, say what is wrong, and change batch settings on request."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from cluster import otlp
from cluster.cli_error import CliError
from cluster.doctor import apply, report
from cluster.doctor.evidence import Evidence
from cluster.doctor.examination import examine
from cluster.doctor.prometheus_reader import Counts, PrometheusReader, PrometheusUnavailable
from cluster.doctor.serve_reader import Deployment, ServeReader
from cluster.doctor.window import Window, seconds
from cluster.doctor.zipkin_reader import ZipkinReader
from cluster.state import State
from tracing.export_settings import OtlpDestination

NOTHING_TO_DO, SOMETHING_TO_DO = 0, 3
MOST_S = 7 * 86_400.0


@dataclass(frozen=True)
class Addresses:
    """The servers to read from. `page`: the address at which people open Zipkin."""

    zipkin: str
    prometheus: str | None
    dashboard: str | None
    page: str
    otlp: OtlpDestination | None = None

    @classmethod
    def of(cls, args: argparse.Namespace, state: State | None) -> Addresses:
        """Return the addresses of the command line, else those of the stack in the run folder.

        Raises:
            CliError: No Zipkin is known.
        """
        running = state if state is not None and state.alive else None
        zipkin = args.zipkin_url or (running and running.zipkin and running.zipkin.url)
        page = running.traces_url if running is not None and not args.zipkin_url else None
        if not zipkin:
            raise CliError(
                "The doctor reads traces, and no Zipkin is known: no stack with one runs here. Start one (`make up`), "
                "or name one with --zipkin-url http://127.0.0.1:9411."
            )
        zipkin = zipkin.rstrip("/").removesuffix("/zipkin")
        return cls(
            zipkin,
            args.prometheus_url or (running and running.prometheus and running.prometheus.url) or None,
            args.dashboard_url or (running and running.ray and running.ray.dashboard_url) or None,
            page or zipkin,
            _otlp(args, running),
        )


def _otlp(args: argparse.Namespace, running: State | None) -> OtlpDestination | None:
    """The receiver of OTLP that the command line names, else that of the stack in the run folder."""
    if args.otlp_url:
        given = {"url": args.otlp_url, "headers_file": args.otlp_headers_file}
        return otlp.destination({name: value for name, value in given.items() if value is not None})
    if args.otlp_headers_file:
        raise CliError("--otlp-headers-file is for the receiver that --otlp-url names: give both.")
    return otlp.destination(running.otlp) if running is not None and running.otlp else None


def run(args: argparse.Namespace, state: State | None, say: Callable[[str], None] = print) -> int:
    """Print the findings, or apply a change, and return the exit status.

    Raises:
        CliError: Zipkin can't be read, or the change can't be made.
    """
    addresses = Addresses.of(args, state)
    evidence = gather(addresses, args.since, key=args.api_key)
    findings = examine(evidence)
    if args.apply:
        apply.batch(findings, addresses.dashboard, yes=args.yes, say=say)
        return NOTHING_TO_DO
    say(
        json.dumps(report.as_json(evidence, findings), indent=2, ensure_ascii=False)
        if args.json
        else report.as_text(evidence, findings)
    )
    return SOMETHING_TO_DO if any(finding.severity == "act" for finding in findings) else NOTHING_TO_DO


def gather(addresses: Addresses, since_s: float, now: float | None = None, key: str | None = None) -> Evidence:
    """Read all sources.

    Args:
        addresses: Of the servers.
        since_s: Length of the time, in seconds.
        now: Its end, in seconds since the epoch (default: now).
        key: For the gate before Zipkin, where there is one.
    """
    end = time.time() if now is None else now
    window = Window(end - since_s, end, addresses.page)
    counts, no_counts = _counts(addresses.prometheus, window)
    deployments, no_deployments = _deployments(addresses.dashboard)
    return Evidence(
        window,
        ZipkinReader(addresses.zipkin, key=key).read(window),
        counts,
        no_counts,
        deployments,
        no_deployments,
        addresses.otlp.url if addresses.otlp is not None else None,
        otlp.problem(addresses.otlp) if addresses.otlp is not None else None,
    )


def _counts(url: str | None, window: Window) -> tuple[Counts | None, str | None]:
    if url is None:
        return None, "none is known; start one with `make up ARGS=--with-monitoring`, or name one with --prometheus-url"
    try:
        return PrometheusReader(url).read(window), None
    except PrometheusUnavailable as failure:
        return None, str(failure)


def _deployments(url: str | None) -> tuple[dict[str, Deployment], str | None]:
    if url is None:
        return {}, "no dashboard is known; name one with --dashboard-url"
    try:
        found = ServeReader(url).deployments()
        return found, None if found else "it runs no application of this project"
    except CliError as problem:
        return {}, str(problem).partition(". ")[0]


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `doctor`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "doctor",
        parents=[run_dir],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="say what is wrong, and what to do about it, from the last hour's traces",
        description="Reads the last hour from Zipkin, Prometheus and Serve, of this stack or of other servers. "
        "Says\nwhich stage takes the time and why, which requests fail and why, which dialects fail or slow down more "
        "than\nthe rest, which requests a fallback served, and which traces are incomplete. It changes nothing by "
        "itself.\nSee docs/doctor.md.",
        epilog=f"exit status: {NOTHING_TO_DO} nothing to act on (or, with --apply, done), {SOMETHING_TO_DO} something "
        "to act on, 1 an error\n\nexamples:\n"
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
    command.add_argument("--json", action="store_true", help="print JSON, for programs")
    command.add_argument(
        "--zipkin-url",
        metavar="URL",
        help="(default: that of the stack that runs here); a gate gets the key in COSYGRAPH_KEY",
    )
    command.add_argument(
        "--otlp-url",
        metavar="URL",
        help="a receiver of OTLP to check, http://127.0.0.1:4318 (default: that stack's, if it has one)",
    )
    command.add_argument("--otlp-headers-file", metavar="FILE", help="headers for it, one `Name: value` a line")
    command.add_argument("--prometheus-url", metavar="URL", help="default: that stack's, if it has one")
    command.add_argument(
        "--dashboard-url", metavar="URL", help="of Ray, which knows the settings (default: that stack's)"
    )
    command.add_argument(
        "--apply",
        choices=("batch",),
        help="make the change that a `batching` finding proposes, after asking; nothing restarts",
    )
    command.add_argument("--yes", action="store_true", help="with --apply: don't ask")


def _since(text: str) -> float:
    try:
        length = seconds(text)
    except ValueError as wrong:
        raise argparse.ArgumentTypeError(str(wrong)) from None
    if length > MOST_S:
        raise argparse.ArgumentTypeError(f"{text} is more than 7d, the most that the doctor reads")
    return length
