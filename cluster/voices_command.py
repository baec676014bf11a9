"""`python -m cluster voices`: list the stored voices and how their fits stand, or ask for a fit."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from cluster.cli_error import CliError
from cluster.say import KEY_VARIABLE, api_key, message
from webui.client import Api, ApiError

_STATES = {
    "queued": "fit queued",
    "running": "fit running, step {step} of {steps}",
    "done": "fitted",
    "kept_steered": "kept steered: {why}",
    "failed": "fit failed: {why}",
}


def fit_in_words(voice: Mapping[str, Any]) -> str:
    """Return how a voice's fit stands; empty where none was asked for, or the service is an older one."""
    fit = voice.get("fit")
    if not fit:
        return ""
    if fit["state"] == "running" and not fit["steps"]:
        return "fit running"
    return _STATES.get(fit["state"], fit["state"]).format(**fit)


def run(args: argparse.Namespace, url: str, out: TextIO | None = None) -> int:
    """List the voices of the API at `url`, or ask for the fit of one.

    Raises:
        CliError: The API refuses, or can't be reached.
    """
    out = out or sys.stdout
    try:
        with Api(url, api_key(args.key_file, args.api_key)) as api:
            voices = [api.fit_voice(args.fit)] if args.fit else api.voices()
    except ApiError as error:
        raise CliError(message(error, None)) from error
    if not voices:
        print("no voice is stored", file=out)
    width = max((len(voice["name"]) for voice in voices), default=0)
    for voice in voices:
        print(f"{voice['name']:<{width}}  {voice['dialect']:<10}  {fit_in_words(voice)}".rstrip(), file=out)
    return 0


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `voices`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "voices",
        parents=[run_dir],
        help="list the stored voices and how their fits stand, or ask for a fit",
        description="Lists the voices that are stored in the graph that runs here, or at --url, and how their fits "
        "stand (docs/voices.md).",
    )
    command.add_argument("--fit", metavar="NAME", help="fit this voice to its speaker, now or again")
    command.add_argument("--url", help="of the API (default: the graph that runs here, or http://127.0.0.1:8000)")
    command.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"holds the API key (default: the variable {KEY_VARIABLE})"
    )
