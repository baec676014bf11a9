"""The command-line options of the gate before Zipkin."""

from __future__ import annotations

import argparse
from ipaddress import IPv4Address
from pathlib import Path

from cluster.cli_error import CliError
from cluster.zipkin_proxy.configuration import ProxyOptions


def add_options(parser: argparse.ArgumentParser) -> None:
    gate = parser.add_argument_group("the gate before Zipkin (docs/gate.md)")
    gate.add_argument(
        "--with-gate",
        action="store_true",
        help="put nginx before Zipkin: it asks for keys, lets only reads through, and logs who read what",
    )
    gate.add_argument(
        "--viewers", type=Path, metavar="FILE", help="key file of the people who may look (default: the graph's)"
    )
    gate.add_argument(
        "--gate-host",
        type=_address,
        metavar="ADDRESS",
        help=f"an IPv4 address of this machine, 0.0.0.0 for all of them (default {ProxyOptions.host})",
    )
    gate.add_argument("--gate-port", type=int, metavar="PORT", help=f"(default {ProxyOptions.port})")
    gate.add_argument(
        "--gate-url",
        metavar="URL",
        help="the address that people open, where it is another one: a host's name, a proxy",
    )
    gate.add_argument("--gate-tls", type=Path, nargs=2, metavar=("CERTIFICATE", "KEY"), help="PEM files")
    gate.add_argument(
        "--gate-rate", type=_rate, metavar="N", help=f"requests a second of one key (default {ProxyOptions.rate})"
    )
    gate.add_argument(
        "--gate-origin",
        action="append",
        metavar="ORIGIN",
        help="of another page that may read (https://grafana.example); may be repeated",
    )


def parse(args: argparse.Namespace) -> ProxyOptions | None:
    """Return the gate that the command line asks for, or None.

    Raises:
        CliError: Options of a gate are given without --with-gate.
    """
    given = {
        "host": args.gate_host,
        "port": args.gate_port,
        "viewers": args.viewers,
        "url": args.gate_url,
        "rate": args.gate_rate,
        "tls": tuple(args.gate_tls) if args.gate_tls else None,
        "origins": tuple(args.gate_origin) if args.gate_origin else None,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not args.with_gate:
        if given:
            raise CliError("--viewers and the options that begin with --gate- are about the gate: add --with-gate.")
        return None
    return ProxyOptions(**given)


def _rate(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text} is no rate (1 to 10000)")
    return int(text)


def _address(text: str) -> str:
    try:
        return str(IPv4Address("127.0.0.1" if text == "localhost" else text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no IPv4 address (127.0.0.1, 0.0.0.0 …)") from None
