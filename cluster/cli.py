"""`python -m cluster <command>`: the launcher's command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cluster import demo, signals, status
from cluster.problem import Problem
from cluster.progress import Progress
from cluster.ray_head import ROOT
from cluster.stack import DRAIN_WITHIN_S, Options, Stack

OVERVIEW = """\
Runs Cosygraph on this machine: Zipkin, Ray and the graph of services, all on 127.0.0.1.

  python -m cluster demo                     start everything, speak once, show the trace, serve until Ctrl-C
  python -m cluster demo --once              the same, then stop
  python -m cluster demo --clip me.wav --text '你好，世界。' --dialect zh-CN
  python -m cluster up --http-port 8080      start everything and leave it running
  python -m cluster status
  python -m cluster down                     let requests finish, then stop what `up` started
"""
ENVIRONMENT = """\
environment:
  ZIPKIN_URL       use this running Zipkin and start none
  ZIPKIN_JAR       run this jar instead of the one that is fetched (and cached in XDG_CACHE_HOME)
  RAY_AUTH_MODE    `token` makes Ray ask for a token, for machines shared with people you don't trust
"""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m cluster", description=OVERVIEW, epilog=ENVIRONMENT,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--run-dir", type=Path, default=Options.run_dir, metavar="DIR",
                       help="state, logs and spooled traces; another one makes another, independent stack "
                            "(default: .run in the repository)")

    stack = argparse.ArgumentParser(add_help=False, parents=[where])
    group = stack.add_argument_group("the stack")
    group.add_argument("--http-port", type=_port, default=Options.http_port, help="of the API (default %(default)s)")
    group.add_argument("--zipkin-port", type=_port, default=Options.zipkin_port,
                       help="of the Zipkin started here (default %(default)s)")
    group.add_argument("--dashboard-port", type=_port, default=Options.dashboard_port,
                       help="of Ray's dashboard (default %(default)s)")
    group.add_argument("--ray-port", type=_port, default=Options.ray_port,
                       help="of Ray's control store (default: any free one)")
    group.add_argument("--config", type=Path, default=Options.config, metavar="FILE",
                       help="Serve config file (default cluster/serve.cpu.yaml; with GPUs cluster/serve.gpu.yaml)")
    group.add_argument("--engine", metavar="NAME", help="speech engine, instead of the config file's")
    group.add_argument("--no-zipkin", action="store_true", help="write spans to a JSON-lines file instead")

    speak = commands.add_parser(
        "demo", parents=[stack], formatter_class=argparse.RawDescriptionHelpFormatter,
        help="start everything, send one real request, show its trace, serve until Ctrl-C",
        description="Starts everything (or uses what `up` has started), sends one real request, writes the speech "
                    "to outputs/,\nreads the trace back from Zipkin and shows it. Serves until Ctrl-C.",
        epilog="example:\n  python -m cluster demo --clip me.wav --text 'Good morning.' --mode instruct "
               "--style-instruction 'speak slowly'\n\n" + ENVIRONMENT)
    request = speak.add_argument_group("the request")
    default = demo.Request()
    request.add_argument("--clip", type=Path, default=default.clip, metavar="FILE",
                         help="reference recording, 3 to 15 s, 16 kHz or more: wav, flac, ogg, mp3 "
                              "(default: a voice the project made itself)")
    request.add_argument("--text", default=default.text, help="what to say, at most 200 characters")
    request.add_argument("--dialect", default=default.dialect,
                         help="en-US (default), zh-CN …; GET /api/dialects lists them")
    request.add_argument("--mode", default=default.mode, choices=("fast", "instruct"))
    request.add_argument("--style-instruction", metavar="TEXT", help="how to say it (mode instruct)")
    request.add_argument("--prompt-text", metavar="TEXT", help="what the recording says")
    request.add_argument("--speed", type=float, help="0.5 to 2")
    request.add_argument("--seed", type=int)
    speak.add_argument("--once", action="store_true", help="stop after the request")
    speak.add_argument("--outputs", type=Path, default=ROOT / "outputs", metavar="DIR",
                       help="where the speech is written (default: outputs)")

    commands.add_parser("up", parents=[stack], help="start everything and leave it running", epilog=ENVIRONMENT,
                        formatter_class=argparse.RawDescriptionHelpFormatter)
    down = commands.add_parser("down", parents=[where], help="let requests finish, then stop what `up` started")
    down.add_argument("--drain-s", type=float, default=DRAIN_WITHIN_S, metavar="SECONDS",
                      help="longest wait for requests under way (default %(default)g)")
    down.add_argument("--force", action="store_true", help="don't wait for requests under way")
    commands.add_parser("status", parents=[where], help="what runs; exit status 0 where the graph is ready")
    return top


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{port} is no port (0 to 65535)")
    return port


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    interruptions = signals.Interruptions().install()
    stack = Stack(args.run_dir, Progress())
    try:
        return _COMMANDS[args.command](args, stack)
    except Problem as problem:
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
    return Options(http_port=args.http_port, dashboard_port=args.dashboard_port, zipkin_port=args.zipkin_port,
                   ray_port=args.ray_port, config=args.config, engine=args.engine, with_zipkin=not args.no_zipkin,
                   run_dir=args.run_dir)


def _demo(args: argparse.Namespace, stack: Stack) -> int:
    request = demo.Request(clip=args.clip, text=args.text, dialect=args.dialect, mode=args.mode,
                           style_instruction=args.style_instruction, prompt_text=args.prompt_text, speed=args.speed,
                           seed=args.seed)
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


_COMMANDS = {"demo": _demo, "up": _up, "down": _down, "status": _status}
