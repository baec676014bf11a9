"""Runs `python -m engines.cosyvoice3`, which checks, lists or makes model directories.

- `check MODEL_DIR` tells if a model directory is whole, and lists missing files.
- `voices MODEL_DIR` lists the voices in its `spk2info.pt`.
- `make DIR [--full]` writes a random checkpoint in the official layout, tiny or of full size.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.contract import WeightsError
from engines.cosyvoice3.check import check
from engines.cosyvoice3.directory import LLM, SPEAKERS, ModelDirectory


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m engines.cosyvoice3", description="Fun-CosyVoice3 checkpoints")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="say whether a model directory is whole and fits")
    checking.add_argument("model_dir", type=Path)
    checking.add_argument("--llm-weights", default=LLM, metavar="FILE", help="of the language model, such as llm.rl.pt")
    voices = commands.add_parser("voices", help="list the voices that were registered with the official code")
    voices.add_argument("model_dir", type=Path)
    making = commands.add_parser("make", help="write a checkpoint of random weights in the official layout, for tests")
    making.add_argument("folder", type=Path, help="new or empty")
    making.add_argument("--full", action="store_true", help="the official sizes (about 3.5 GB) instead of tiny ones")
    making.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.command == "check":
        return 0 if check(ModelDirectory(options.model_dir, options.llm_weights)) else 1
    if options.command == "voices":
        return _voices(ModelDirectory(options.model_dir))
    from engines.cosyvoice3.random_checkpoint import FULL, TINY, make

    try:
        make(options.folder, FULL if options.full else TINY, options.seed)
    except FileExistsError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _voices(directory: ModelDirectory) -> int:
    from engines.cosyvoice3 import speakers
    from engines.cosyvoice3.voice import transcript

    try:
        found = speakers.read(directory)
    except WeightsError as error:
        print(error, file=sys.stderr)
        return 1
    for name, voice in found.items():
        seconds = len(voice.arrays["speech_tokens"]) / directory.numbers.token_frame_rate
        print(f"{name:24} {seconds:5.1f} s  {transcript(voice) or '(no transcript)'}")
    if not found:
        print(f"{directory.path} has no {SPEAKERS}, or no voice in it.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
