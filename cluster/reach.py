"""The launcher's options on who reaches the API: where it listens, and whom it lets in."""

from __future__ import annotations

import argparse
from ipaddress import IPv4Address
from pathlib import Path

from cluster import key
from cluster.ports import LOOPBACK


def add_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--host",
        type=_address,
        default=LOOPBACK,
        metavar="ADDRESS",
        help="of the API: an IPv4 address of this machine, 0.0.0.0 for all of them; beyond loopback "
        "keys are required (default %(default)s)",
    )
    group.add_argument(
        "--keys-file",
        type=Path,
        metavar="FILE",
        help=f"API keys (default: the config file's, else {key.FILE} in the run folder, if it is there)",
    )


def _address(text: str) -> str:
    try:
        return str(IPv4Address(LOOPBACK if text == "localhost" else text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is no IPv4 address (127.0.0.1, 0.0.0.0 …)") from None
