"""`python -m cluster <command>`: the launcher's command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path

import yaml

from cluster import demo, key, links, reach, say, signals, status
from cluster.cli_error import CliError
from cluster.doctor import command as doctor
from cluster.gate import options as gate_options
from cluster.progress import Progress
from cluster.ray_head import ROOT
from cluster.stack import DRAIN_WITHIN_S, Options, Stack
from cluster.storage import KINDS, PASSWORD, Storage
from cluster.storage_elasticsearch import Server
from cluster.wecom import Wecom

OVERVIEW = """\
Runs Cosygraph on this machine: Zipkin, Ray and the graph of services, all on 127.0.0.1 unless --host says otherwise.

  python -m cluster demo                     start everything, speak once, show the trace, serve until Ctrl-C
  python -m cluster demo --once              the same, then stop
  python -m cluster demo --clip me.wav --text '你好，世界。' --dialect zh-CN
  python -m cluster up --http-port 8080      start everything and leave it running
  python -m cluster up --zipkin-storage mysql    with traces that outlive a restart (docs/storage.md)
  python -m cluster say '你好，世界。' --clip me.wav --dialect zh-CN -o out.wav    ask what runs, or --url
  python -m cluster up --with-gate           with keys before Zipkin too (docs/gate.md)
  python -m cluster key alice                make an API key; `up --host 0.0.0.0` needs one (docs/access.md)
  python -m cluster status
  python -m cluster doctor --since 15m       what is wrong, and what to do about it (docs/doctor.md)
  python -m cluster down                     let requests finish, then stop what `up` started
  python -m cluster links --day yesterday    the dependency graph of a day, for Zipkin on Elasticsearch
"""
ENVIRONMENT = """\
environment:
  COSYGRAPH_KEY    the API key that `demo` and `say` send, where the graph asks for one
  ZIPKIN_URL       use this running Zipkin and start none
  ZIPKIN_JAR       run this jar instead of the one that is fetched (and cached in XDG_CACHE_HOME)
  COSYGRAPH_WECOM_ROBOT      key or address of a WeCom group robot that hears of alerts (--with-monitoring)
  COSYGRAPH_WECOM_CORP_ID, _AGENT_ID, _SECRET, _TO    a WeCom application that sends them, and to whom
  ZIPKIN_STORAGE_PASSWORD    of the user in --zipkin-storage-url
  RAY_AUTH_MODE    `token` makes Ray ask for a token, for machines shared with people you don't trust
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m cluster",
        description=OVERVIEW,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument(
        "--run-dir",
        type=Path,
        default=Options.run_dir,
        metavar="DIR",
        help="state, logs and spooled traces; another one makes another, independent stack "
        "(default: .run in the repository)",
    )

    stack = argparse.ArgumentParser(add_help=False, parents=[where])
    group = stack.add_argument_group("the stack")
    reach.add_options(group)
    group.add_argument("--http-port", type=_port, default=Options.http_port, help="of the API (default %(default)s)")
    group.add_argument(
        "--zipkin-port",
        type=_port,
        default=Options.zipkin_port,
        help="of the Zipkin started here (default %(default)s)",
    )
    group.add_argument(
        "--dashboard-port", type=_port, default=Options.dashboard_port, help="of Ray's dashboard (default %(default)s)"
    )
    group.add_argument(
        "--ray-port", type=_port, default=Options.ray_port, help="of Ray's control store (default: any free one)"
    )
    group.add_argument(
        "--config",
        type=Path,
        default=Options.config,
        metavar="FILE",
        help="Serve config file (default cluster/serve.cpu.yaml; with GPUs cluster/serve.gpu.yaml)",
    )
    group.add_argument("--engine", metavar="NAME", help="speech engine, instead of the config file's")
    group.add_argument(
        "--engine-option",
        type=_option,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="engine_options",
        help="of the engine, over the config file's; may be repeated (--engine cosyvoice3 "
        "--engine-option model_dir=/models/Fun-CosyVoice3-0.5B)",
    )
    group.add_argument(
        "--haproxy",
        action="store_true",
        help="HAProxy in front of the ingress instead of Serve's own proxy: quicker, but what it "
        "answers by itself has no trace (docs/haproxy.md)",
    )
    group.add_argument(
        "--no-webui",
        action="store_false",
        dest="web_page",
        help="leave the web page (/ui/) out; it is for loopback, and is left out with any other --host",
    )
    group.add_argument(
        "--no-watchdog",
        action="store_false",
        dest="watchdog",
        help="leave out what checks the graph and restarts what is ill (docs/watchdog.md)",
    )
    group.add_argument(
        "--sampling",
        type=_share,
        default=Options.sampling,
        metavar="SHARE",
        help="share of unremarkable traces that is kept, 0 to 1 (default %(default)g; errors and slow "
        "requests are always kept)",
    )
    group.add_argument("--no-zipkin", action="store_true", help="write spans to a JSON-lines file instead")
    group.add_argument(
        "--zipkin-storage",
        choices=KINDS,
        default="mem",
        help="where the Zipkin started here keeps traces: mem (default; gone when it stops), mysql, "
        "elasticsearch (or OpenSearch)",
    )
    group.add_argument(
        "--zipkin-storage-url",
        metavar="URL",
        help="of its server: mysql://user@host:port/database (without one a MariaDB is started "
        "here, its data in the run folder), http://host:9200",
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
        help="of the Prometheus started here (default %(default)s)",
    )
    group.add_argument(
        "--alertmanager-port",
        type=_port,
        default=Options.alertmanager_port,
        help="of the Alertmanager started here (default %(default)s)",
    )

    gate_options.add(stack)

    speak = commands.add_parser(
        "demo",
        parents=[stack],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="start everything, send one real request, show its trace, serve until Ctrl-C",
        description="Starts everything (or uses what `up` has started), sends one real request, writes the speech "
        "to outputs/,\nreads the trace back from Zipkin and shows it. Serves until Ctrl-C.",
        epilog="example:\n  python -m cluster demo --clip me.wav --text 'Good morning.' --dialect en-US "
        "--mode instruct --style-instruction 'speak slowly'\n\n" + ENVIRONMENT,
    )
    request = speak.add_argument_group("the request")
    default = demo.Request()
    request.add_argument(
        "--clip",
        type=Path,
        default=default.clip,
        metavar="FILE",
        help="reference recording, 3 to 15 s, 16 kHz or more: wav, flac, ogg, mp3, m4a, mp4, webm, aac "
        "(default: a voice the project made itself)",
    )
    request.add_argument("--text", default=default.text, help="what to say, at most 200 characters")
    request.add_argument(
        "--dialect",
        default=default.dialect,
        help="of --text, required beside it: en-US, zh-CN …; GET /api/dialects lists them",
    )
    request.add_argument("--mode", default=default.mode, choices=("fast", "instruct"))
    request.add_argument("--style-instruction", metavar="TEXT", help="how to say it (mode instruct)")
    request.add_argument("--prompt-text", metavar="TEXT", help="what the recording says")
    request.add_argument("--speed", type=float, help="0.5 to 2")
    request.add_argument("--seed", type=int)
    speak.add_argument("--once", action="store_true", help="stop after the request")
    speak.add_argument(
        "--outputs",
        type=Path,
        default=ROOT / "outputs",
        metavar="DIR",
        help="where the speech is written (default: outputs)",
    )

    say.add_command(commands, where)
    commands.add_parser(
        "up",
        parents=[stack],
        help="start everything and leave it running",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    down = commands.add_parser("down", parents=[where], help="let requests finish, then stop what `up` started")
    down.add_argument(
        "--drain-s",
        type=float,
        default=DRAIN_WITHIN_S,
        metavar="SECONDS",
        help="longest wait for requests under way (default %(default)g)",
    )
    down.add_argument("--force", action="store_true", help="don't wait for requests under way")
    graph = commands.add_parser(
        "links",
        parents=[where],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="compute a day's dependency graph, for Zipkin on Elasticsearch or OpenSearch",
        description="Zipkin computes its dependency page by itself from memory and MySQL, but "
        "not from\nElasticsearch. This runs Zipkin's own linker over all spans of "
        "a day and writes the links\nwhere Zipkin looks for them. Run it again "
        "at any time: it replaces what it wrote.",
    )
    graph.add_argument(
        "--day",
        type=_day,
        default="today",
        metavar="YYYY-MM-DD",
        help="a day of UTC, or `today` (default) or `yesterday`",
    )
    graph.add_argument(
        "--storage-url",
        metavar="URL",
        help="http://host:9200, with user@ where it asks for one and the password in "
        "ZIPKIN_STORAGE_PASSWORD (default: the storage of the stack that runs here)",
    )
    graph.add_argument(
        "--index",
        default=os.environ.get("ES_INDEX") or "zipkin",
        metavar="PREFIX",
        help="first word of Zipkin's indices (default: ES_INDEX, or zipkin)",
    )
    key.add_parser(commands, where)
    doctor.add_command(commands, where)
    commands.add_parser("status", parents=[where], help="what runs; exit status 0 where the graph is ready")
    return top


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


def _day(text: str) -> date:
    try:
        return links.parse_day(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no day: write 2026-11-22, today or yesterday") from None


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share (0 to 1)")
    return share


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    args.api_key = os.environ.pop("COSYGRAPH_KEY", None)  # not for the processes that are started
    interruptions = signals.Interruptions().install()
    stack = Stack(args.run_dir, Progress())
    try:
        return _COMMANDS[args.command](args, stack)
    except CliError as problem:
        print(f"\n{problem}", file=sys.stderr)
        return 1
    except signals.Interrupted:
        # Once more while things were being stopped gently: now at once, and without listening any more.
        interruptions.ignore()
        if stack.started is not None:
            stack.say("stopping at once")
            stack.stop(stack.started, drain=False)
        return 130


def _options(args: argparse.Namespace) -> Options:
    wecom = Wecom.of()  # also where nothing needs it: not for the processes that are started
    return Options(
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
        gate=gate_options.wanted(args),
        storage=Storage.of(args.zipkin_storage, args.zipkin_storage_url),
        run_dir=args.run_dir,
    )


def _demo(args: argparse.Namespace, stack: Stack) -> int:
    request = demo.Request(
        clip=args.clip,
        text=args.text,
        dialect=args.dialect,
        mode=args.mode,
        style_instruction=args.style_instruction,
        prompt_text=args.prompt_text,
        speed=args.speed,
        seed=args.seed,
        key=args.api_key,
    )
    request.check()
    running = stack.file.load()
    if running is not None and running.alive and running.ready:
        stack.say(f"using the graph that has been running since {running.began}; `make down` stops it")
        demo.run(running, request, stack.say, args.outputs)
        return 0
    state = stack.up(_options(args))
    try:
        demo.run(state, request, stack.say, args.outputs)
        if not args.once:
            stack.say("serving until Ctrl-C")
            with suppress(signals.Interrupted):
                stack.watch(state)
    finally:
        with stack.file.locked():
            stack.stop(state)
    return 0


def _say(args: argparse.Namespace, stack: Stack) -> int:
    running = stack.file.load() if args.url is None else None
    url = args.url or (running.http_url if running is not None and running.alive else "http://127.0.0.1:8000")
    say.run(say.Order.of(args, url))
    return 0


def _up(args: argparse.Namespace, stack: Stack) -> int:
    state = stack.up(_options(args))
    print(f"\n{demo.links(state)}\n\n`make demo` sends a request, `make down` stops it all.")
    return 0


def _down(args: argparse.Namespace, stack: Stack) -> int:
    state = stack.file.load()
    if state is None:
        print("nothing runs here")
        return 0
    stack.down(args.drain_s, args.force)
    return 0


def _status(args: argparse.Namespace, stack: Stack) -> int:
    text, serves = status.report(stack.file.load())
    print(text)
    return 0 if serves else 1


def _links(args: argparse.Namespace, stack: Stack) -> int:
    url = args.storage_url
    if url is None:
        running = stack.file.load()
        kind, _, url = (running.zipkin.storage if running and running.zipkin else "").partition(" ")
        if kind != "elasticsearch":
            raise CliError(
                f"The Zipkin that runs here keeps its traces in {kind}, and computes its links by itself: "
                "nothing is to be done."
                if kind
                else "No Zipkin of ours runs here: name its Elasticsearch or OpenSearch with --storage-url."
            )
    server = Server.of(url, os.environ.get(PASSWORD, ""))
    stack.say(f"{server.ask()} at {server.url}: reading {args.day}")
    result = links.compute(server, args.day, stack.say, args.index)
    stack.say(f"{result.spans} spans in {result.traces} traces; {len(result.links)} links written to {result.index}")
    for link in result.links:
        print(f"  {link.parent} -> {link.child}   {link.calls} calls, {link.errors} with errors")
    return 0


_COMMANDS = {
    "demo": _demo,
    "say": _say,
    "up": _up,
    "down": _down,
    "status": _status,
    "links": _links,
    "key": lambda args, stack: key.run(args),
    "doctor": lambda args, stack: doctor.run(args, stack.file.load()),
}
