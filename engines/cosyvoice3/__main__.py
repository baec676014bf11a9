"""`python -m engines.cosyvoice3 check MODEL_DIR`: is a model directory whole, and what is missing?

`python -m engines.cosyvoice3 make DIR [--full]`: a random checkpoint in the official layout, tiny or of full size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.cosyvoice3.check import check
from engines.cosyvoice3.directory import ModelDirectory


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engines.cosyvoice3", description="Fun-CosyVoice3 checkpoints")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="say whether a model directory is whole and fits")
    checking.add_argument("model_dir", type=Path)
    making = commands.add_parser("make", help="write a checkpoint of random weights in the official layout, for tests")
    making.add_argument("folder", type=Path, help="new or empty")
    making.add_argument("--full", action="store_true", help="the official sizes (about 3.5 GB) instead of tiny ones")
    making.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.command == "check":
        return 0 if check(ModelDirectory(options.model_dir)) else 1
    from engines.cosyvoice3.random_checkpoint import FULL, TINY, make

    try:
        make(options.folder, FULL if options.full else TINY, options.seed)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
