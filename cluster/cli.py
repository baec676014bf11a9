"""The launcher's command line: `python -m cluster COMMAND`.

It stays with argparse. Typer takes one parameter of a function for each option, and has no groups that commands share:
the thirty options of a stack would stand twice, in `up` and in `demo`.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from cluster import (
    demo,
    gate_command,
    key,
    kubernetes_command,
    links_command,
    node_environment,
    options,
    retention_command,
    say,
    signals,
    status,
    verify,
    voices_command,
)
from cluster.cli_error import CliError
from cluster.doctor import command as doctor
from cluster.options import Options
from cluster.progress import Progress
from cluster.stack import DRAIN_WITHIN_S, Stack
from config.version import VERSION

OVERVIEW = """\
Runs Cosygraph on this machine: Zipkin, Ray and the graph of services. Everything listens on 127.0.0.1; --host opens
the API to other machines.

  python -m cluster demo                     start everything, speak once, show the trace, serve until Ctrl-C
  python -m cluster demo --once              the same, then stop
  python -m cluster demo --clip me.wav --text '你好，世界。' --dialect zh-CN
  python -m cluster up --http-port 8080      start everything and leave it running
  python -m cluster up --zipkin-storage mysql    with traces that outlive a restart (docs/storage.md)
  python -m cluster say '你好，世界。' --clip me.wav --dialect zh-CN -o out.wav    send a request, here or to --url
  python -m cluster verify out.wav           say which marks of synthetic speech a file has (docs/marking.md)
  python -m cluster voices                   list the stored voices and how their fits stand; --fit NAME asks for one
  python -m cluster up --with-gate           with keys before Zipkin too (docs/gate.md)
  python -m cluster key alice                make an API key; `up --host 0.0.0.0` needs one (docs/access.md)
  python -m cluster status                   list what runs
  python -m cluster doctor --since 15m       say what is wrong, and what to do about it (docs/doctor.md)
  python -m cluster down                     let requests finish, then stop what `up` started
  python -m cluster env                      print what each node of a Ray cluster needs (docs/scale.md)
  python -m cluster links --day yesterday    compute a day's dependency graph, for Zipkin on Elasticsearch
  python -m cluster retention --keep-days 7 --storage-url http://search:9200    delete older traces there
  python -m cluster kubernetes               make the made parts of the manifests (docs/kubernetes.md)
"""
ENVIRONMENT = """\
environment:
  COSYGRAPH_KEY    the API key that `demo`, `say` and `voices` send, where the graph asks for one
  ZIPKIN_URL       use this running Zipkin and start none
  ZIPKIN_UI_URL    where people open Zipkin, if not at its address: links to traces lead there (docs/tracing.md)
  ZIPKIN_JAR       run this jar instead of the one that is fetched (and cached in XDG_CACHE_HOME)
  COSYGRAPH_WECOM_ROBOT      key or address of a WeCom group robot that gets alerts (--with-monitoring)
  COSYGRAPH_WECOM_CORP_ID, _AGENT_ID, _SECRET, _TO    a WeCom application that sends alerts, and to whom
  ZIPKIN_STORAGE_PASSWORD    password of the user in --zipkin-storage-url
  RAY_AUTH_MODE    `token` makes Ray ask for a token, for machines shared with people you don't trust
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="python -m cluster",
        description=OVERVIEW,
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"cosygraph {VERSION}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    run_dir = argparse.ArgumentParser(add_help=False)
    options.add_run_dir(run_dir)
    stack = argparse.ArgumentParser(add_help=False, parents=[run_dir])
    options.add_options(stack)

    demo.add_command(commands, stack, ENVIRONMENT)
    say.add_command(commands, run_dir)
    voices_command.add_command(commands, run_dir)
    verify.add_command(commands, run_dir)
    commands.add_parser(
        "up",
        parents=[stack],
        help="start everything and leave it running",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    down = commands.add_parser("down", parents=[run_dir], help="let requests finish, then stop what `up` started")
    down.add_argument(
        "--drain-s",
        type=float,
        default=DRAIN_WITHIN_S,
        metavar="SECONDS",
        help="longest wait for requests under way (default %(default)g)",
    )
    down.add_argument("--force", action="store_true", help="don't wait for requests under way")
    links_command.add_command(commands, run_dir)
    retention_command.add_command(commands, run_dir)
    key.add_command(commands, run_dir)
    doctor.add_command(commands, run_dir)
    node_environment.add_command(commands, run_dir)
    kubernetes_command.add_command(commands, run_dir)
    gate_command.add_command(commands, run_dir)
    commands.add_parser("status", parents=[run_dir], help="list what runs; exit status 0 if the graph is ready")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments after the program's name (default: the process's own).

    Returns:
        The exit status: 0, 1 after an error, 130 after a second interruption, or the command's own.
    """
    args = parser().parse_args(argv)
    args.api_key = os.environ.pop("COSYGRAPH_KEY", None)  # not for the processes that are started
    interruptions = signals.Interruptions().install()
    stack = Stack(args.run_dir, Progress())
    try:
        return _COMMANDS[args.command](args, stack)
    except CliError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except OSError as error:  # of the machine, and not of the command: a disk, a permission, a limit
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        print(f"\n{what}. {remedy}, and type the same again.", file=sys.stderr)
        return 1
    except signals.Interrupted:
        # The second interruption, while things were being stopped gently: stop at once, and listen to no third.
        interruptions.ignore()
        if stack.started is not None:
            stack.say("stopping at once")
            stack.stop(stack.started, drain=False)
        return 130


_ANOTHER_ACCOUNT = "Use an account that may read and write there, or name another folder with --run-dir"
#: For the errors of a machine with which any command may end.
_REMEDIES = {
    errno.EACCES: _ANOTHER_ACCOUNT,
    errno.EPERM: _ANOTHER_ACCOUNT,
    errno.EROFS: _ANOTHER_ACCOUNT,
    errno.EEXIST: "Name another folder with --run-dir",
    errno.ENOTDIR: "Name another folder with --run-dir",
    errno.ENOSPC: "Free some space on that disk",
    errno.EDQUOT: "Free some space: your quota is used up",
    errno.EIO: "Look at the disk: it fails",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "Close programs: the machine has no more open files to give",
    errno.ENOMEM: "Free some memory",
    errno.EAGAIN: "Raise the limit of processes (`ulimit -u`)",
}


def _demo(args: argparse.Namespace, stack: Stack) -> int:
    request = demo.Request.of(args)
    request.check()
    running = stack.file.load()
    if running is not None and running.alive and running.ready:
        stop = options.command("down", stack.run_dir)
        stack.say(f"using the graph that has been running since {running.began}; `{stop}` stops it")
        demo.run(running, request, stack.say, args.outputs)
        return 0
    state = stack.up(Options.of(args))
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
    if running is not None and running.alive:
        order = say.Order.of(args, running.http_url, running.traces_url)
    else:
        order = say.Order.of(args, args.url or "http://127.0.0.1:8000")
    if args.follow:
        from cluster import follow  # it brings FFmpeg and a WebSocket's client along, which no other command needs

        follow.run(order)
    else:
        say.run(order)
    return 0


def _voices(args: argparse.Namespace, stack: Stack) -> int:
    running = stack.file.load() if args.url is None else None
    here = running.http_url if running is not None and running.alive else "http://127.0.0.1:8000"
    return voices_command.run(args, args.url or here)


def _verify(args: argparse.Namespace, stack: Stack) -> int:
    running = stack.file.load()
    traces_url = running.traces_url if running is not None and running.alive else None
    return verify.run(args.file, traces_url, args.json)


def _up(args: argparse.Namespace, stack: Stack) -> int:
    state = stack.up(Options.of(args))
    send, stop = (options.command(name, stack.run_dir) for name in ("demo", "down"))
    print(f"\n{demo.links(state)}\n\n`{send}` sends a request, `{stop}` stops it all.")
    return 0


def _down(args: argparse.Namespace, stack: Stack) -> int:
    state = stack.file.load()
    if state is None:
        print("nothing runs here")
        return 0
    stack.down(args.drain_s, args.force)
    return 0


def _status(args: argparse.Namespace, stack: Stack) -> int:
    text, ready = status.report(stack.file.load(), stack.run_dir)
    print(text)
    return 0 if ready else 1


_COMMANDS: dict[str, Callable[[argparse.Namespace, Stack], int]] = {
    "demo": _demo,
    "say": _say,
    "voices": _voices,
    "verify": _verify,
    "up": _up,
    "down": _down,
    "status": _status,
    "links": lambda args, stack: links_command.run(args, stack.file.load(), stack.say),
    "retention": lambda args, stack: retention_command.run(args, stack.say),
    "key": lambda args, stack: key.run(args),
    "doctor": lambda args, stack: doctor.run(args, stack.file.load()),
    "env": lambda args, stack: node_environment.run(args),
    "kubernetes": lambda args, stack: kubernetes_command.run(args),
    "gate": lambda args, stack: gate_command.run(args),
}
