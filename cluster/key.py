"""`python -m cluster key`: makes API keys, and ends them. The ingress takes up a changed file within a second."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from access.key_editor import KeyEditor
from access.keys import ROLES, Key
from cluster.cli_error import CliError

FILE = "keys.yaml"  #: in the run folder; what `up` takes where the config names none


def add_parser(commands, where: argparse.ArgumentParser) -> None:
    key = commands.add_parser(
        "key",
        parents=[where],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="make an API key, list, rotate or revoke them",
        description="Makes a key, prints it once, and adds its hash to the key file. A running graph takes it up "
        "within a second.\nThe file is written anew: comments in it are lost (docs/access.md).",
        epilog="examples:\n  python -m cluster key alice --requests-per-minute 60 --concurrent 4\n"
        "  python -m cluster key web --role synthesize --role voices --file /etc/cosygraph/keys.yaml\n"
        "  python -m cluster key --rotate alice     a second key; the first goes on working\n"
        "  python -m cluster key --retire alice     only the newest one works\n",
    )
    what = key.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", help="of a new key: lower-case letters, digits, - and _")
    what.add_argument("--list", action="store_true", help="the keys there are, without any secret")
    what.add_argument("--rotate", metavar="NAME", help="make a second key for NAME, beside its newest")
    what.add_argument("--retire", metavar="NAME", help="end a rotation: all but NAME's newest key stop working")
    what.add_argument("--revoke", metavar="NAME", help="NAME's keys stop working, and its entry goes")
    key.add_argument("--file", type=Path, metavar="FILE", help=f"the key file (default: {FILE} in the run folder)")
    of = key.add_argument_group("a new key")
    of.add_argument(
        "--role", action="append", choices=sorted(ROLES), dest="roles", help="may be repeated (default synthesize)"
    )
    of.add_argument("--owner", help="whose hash is `user.hash` in traces (default: the key's name)")
    of.add_argument("--dialect", metavar="CODE", help="stands in where a request may leave its dialect out and does")
    of.add_argument("--requests-per-minute", type=float, metavar="N", help="over all ingress replicas")
    of.add_argument("--burst", type=int, metavar="N", help="at once after a pause (default: what ten seconds bring)")
    of.add_argument("--concurrent", type=int, metavar="N", help="requests under way at a time, over all replicas")
    of.add_argument("--expires", type=_day, metavar="YYYY-MM-DD", help="the last day it works, of UTC")
    of.add_argument(
        "--untrusted", action="store_true", help="its word doesn't count in tracing (B3 sampled and debug, X-User-Id)"
    )


def run(args: argparse.Namespace) -> int:
    path = args.file or args.run_dir / FILE
    editor = KeyEditor(path)
    try:
        if args.list:
            print("\n".join(_line(key) for key in editor.entries().keys) or f"{path} has no keys")
        elif args.revoke:
            editor.revoke(args.revoke)
            print(f"{args.revoke} is revoked in {path}")
        elif args.retire:
            print(f"{args.retire}: {editor.retire(args.retire)} older keys stop working")
        elif args.rotate:
            _show(
                args.rotate,
                editor.rotate(args.rotate),
                path,
                f"The key before it works until `python -m cluster key --retire {args.rotate}`.",
            )
        else:
            _show(args.name, editor.add(args.name, **_fields(args)), path, "")
    except ValueError as error:
        raise CliError(str(error)) from error
    return 0


def _fields(args: argparse.Namespace) -> dict:
    """An entry as YAML has it: nothing in it that is the default anyway."""
    limits = {"requests_per_minute": args.requests_per_minute, "burst": args.burst, "concurrent": args.concurrent}
    limits = {name: value for name, value in limits.items() if value is not None}
    fields = {
        "roles": args.roles or ["synthesize"],
        "owner": args.owner,
        "dialect": args.dialect,
        "limits": limits or None,
        "expires": args.expires,
        "trusted": False if args.untrusted else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _show(name: str, key: str, path: Path, more: str) -> None:
    """The key alone on standard output, so that a script can take it."""
    print(f"A key for {name}, shown this once; its hash is in {path}. {more}".rstrip(), file=sys.stderr)
    print(key)


def _line(key: Key) -> str:
    limits = key.limits.model_dump(exclude_none=True) if key.limits else {}
    said = [
        f"{key.name:<20} {','.join(sorted(key.roles))}",
        f"owner {key.owner}" if key.owner else "",
        f"dialect {key.dialect}" if key.dialect else "",
        *(f"{name} {value:g}" for name, value in limits.items()),
        f"expires {key.expires}" if key.expires else "",
        "" if key.trusted else "untrusted",
        f"{len(key.sha256)} keys work" if len(key.sha256) > 1 else "",
    ]
    return "  ".join(filter(None, said))


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no day: write 2027-01-31") from None
