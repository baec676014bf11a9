"""The gate's part of the command line."""

from __future__ import annotations

import argparse
from ipaddress import IPv4Address
from pathlib import Path

from cluster.cli_error import CliError
from cluster.gate.configuration import Wanted


def add(parser: argparse.ArgumentParser) -> None:
    gate = parser.add_argument_group("the gate before Zipkin (docs/gate.md)")
    gate.add_argument(
        "--with-gate",
        action="store_true",
        help="nginx before Zipkin: asks for keys, lets reading through alone, writes down who read what",
    )
    gate.add_argument(
        "--viewers", type=Path, metavar="FILE", help="key file of those who may look (default: the graph's)"
    )
    gate.add_argument(
        "--gate-host",
        type=_address,
        metavar="ADDRESS",
        help=f"an IPv4 address of this machine, 0.0.0.0 for all of them (default {Wanted.host})",
    )
    gate.add_argument("--gate-port", type=int, metavar="PORT", help=f"(default {Wanted.port})")
    gate.add_argument(
        "--gate-url", metavar="URL", help="what people open, where that is another address: a host's name, a proxy"
    )
    gate.add_argument("--gate-tls", type=Path, nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM files")
    gate.add_argument(
        "--gate-rate", type=_rate, metavar="N", help=f"requests a second of one key (default {Wanted.rate})"
    )
    gate.add_argument(
        "--gate-origin",
        action="append",
        metavar="ORIGIN",
        help="of another page that may read (https://grafana.example); may be repeated",
    )


def wanted(args: argparse.Namespace) -> Wanted | None:
    """Problem where something is said of a gate that isn't there."""
    said = {
        "host": args.gate_host,
        "port": args.gate_port,
        "viewers": args.viewers,
        "url": args.gate_url,
        "rate": args.gate_rate,
        "tls": tuple(args.gate_tls) if args.gate_tls else None,
        "origins": tuple(args.gate_origin) if args.gate_origin else None,
    }
    said = {name: value for name, value in said.items() if value is not None}
    if not args.with_gate:
        if said:
            raise CliError(
                "--viewers and the options that begin with --gate- say something of the gate: add --with-gate."
            )
        return None
    return Wanted(**said)


def _rate(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is no rate (1 to 10000)")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(IPv4Address("127.0.0.1" if text == "localhost" else text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no IPv4 address (127.0.0.1, 0.0.0.0 …)") from None
