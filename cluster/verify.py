"""`python -m cluster verify`: which marks of synthetic speech a file has, without asking any server."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any, TextIO

from cluster.cli_error import CliError
from engines.contract import WeightsError
from speech import verification
from speech.errors import InvalidInput

_PACKAGE = "perth"  #: that carries the watermark's weights


def run(file: Path, traces_url: str | None, as_json: bool = False, out: TextIO | None = None) -> int:
    """Print the marks of a file.

    Args:
        file: The audio file.
        traces_url: Zipkin's address, without /zipkin, where a graph runs here; its traces can be opened there.
        as_json: Print JSON.
        out: Where to print (default: standard output).

    Returns:
        The exit status: 0 if there is a mark, 3 if there is none.

    Raises:
        CliError: The file can't be read.
    """
    out = out or sys.stdout
    try:
        with file.open("rb") as content:
            found = verification.read(content.read(verification.MAX_BYTES))
    except OSError as failure:
        raise CliError(f"{file} can't be read ({failure.strerror}). Name one audio file.") from failure
    except InvalidInput as error:
        raise CliError(f"{file}: {error.message}") from error
    report = _report(found, _sure_of_a_watermark(found), traces_url)
    print(json.dumps(report, ensure_ascii=False) if as_json else _in_words(report), file=out)
    return 0 if report["marked"] else 3


def _sure_of_a_watermark(found: verification.MarkedFile) -> float | None:
    """Return how sure the detector is, 0 to 1; None where its package is not installed."""
    if importlib.util.find_spec(_PACKAGE) is None:  # before torch is imported, which takes seconds
        return None
    from engines.watermark import Watermark

    try:
        return Watermark().find(found.samples, found.rate)
    except WeightsError as error:
        raise CliError(str(error)) from error


def _report(found: verification.MarkedFile, sure: float | None, traces_url: str | None) -> dict[str, Any]:
    mark, watermark = found.mark, verification.watermark(sure)
    trace_id = mark.trace_id if mark is not None else None
    return {
        "marked": mark is not None or bool(watermark and watermark["found"]),
        "metadata": mark.public() if mark is not None else None,
        "watermark": watermark,
        "trace_id": trace_id,
        "trace_url": f"{traces_url}/zipkin/traces/{trace_id}" if traces_url and trace_id else None,
        "format": found.format,
        "seconds": round(found.seconds, 3),
    }


def _in_words(report: dict[str, Any]) -> str:
    lines = [f"{report['format']}, {report['seconds']:.1f} s"]
    if metadata := report["metadata"]:
        lines.append(f"metadata: AIGC, label {metadata['label']}, made by {metadata['content_producer'] or 'unknown'}")
        if not report["trace_id"]:
            lines.append(f"its producer's id: {metadata['produce_id'] or 'none'}")
    else:
        lines.append("metadata: no mark (it says nothing: a mark is lost where a program drops metadata)")
    if (watermark := report["watermark"]) is None:
        lines.append("watermark: not looked for (uv pip install --no-deps -r requirements-watermark.txt)")
    else:
        lines.append(
            f"watermark: {'found' if watermark['found'] else 'none'} (confidence {watermark['confidence']:.2f})"
        )
    if report["trace_id"]:
        lines.append(f"trace: {report['trace_url'] or report['trace_id']}")
    return "\n".join(lines)


def add_command(commands, run_dir: argparse.ArgumentParser) -> None:
    """Add the subcommand `verify`; `run_dir` has the options of all commands."""
    command = commands.add_parser(
        "verify",
        parents=[run_dir],
        help="say which marks of synthetic speech a file has",
        description="Says which marks of synthetic speech a file has, and the trace of the request that made it "
        "(docs/marking.md).\nIt asks no server. Exit status: 0 with a mark, 3 without one, 1 after an error.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("file", type=Path, metavar="FILE", help="wav, flac, ogg, mp3, m4a, mp4, webm or aac")
    command.add_argument("--json", action="store_true", help="print JSON")
