"""Measure the CosyVoice3 engine's speed, part by part, with 1 and 8 requests in flight, and the official code's.

    python -m bench.cosyvoice3                                     LM_DECODE and VOCODE_WAV, 10 s of audio, float32
    python -m bench.cosyvoice3 --parts GENERATE_MEL --tokens 50 --prompt 75 --dtype bfloat16
    python -m bench.cosyvoice3 --device cuda --dtype bfloat16 --parts WHOLE FIRST_CHUNK --in-flight 1 4 16
    python -m bench.cosyvoice3 --official ~/CosyVoice              beside the official code (what it needs: see
                                                                   bench/cosyvoice3_official.py)

All in one process: these are the engine's own schedulers and networks, without Ray and without the graph. The
checkpoint is one of random weights in the official sizes, made for the occasion (3.5 GB of disk, and as much memory),
unless --model-dir names one. Rows of earlier runs stay in bench/results/cosyvoice3.json unless they are measured anew.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench import results
from bench.cosyvoice3_work import PARTS, SAMPLE_RATE, TEXT_TOKENS, TOKENS_PER_SECOND, Networks, Size
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.random_checkpoint import FULL, make

NAME = "cosyvoice3"
_KEY = ("code", "part", "in_flight", "device", "dtype", "threads", "tokens", "prompt_tokens", "sizes")


def sizes(directory: ModelDirectory) -> str:
    """Describe the checkpoint's dimensions in words."""
    qwen, numbers = directory.qwen, directory.numbers
    dit = numbers.flow.decoder.estimator
    return (
        f"language model {qwen['num_hidden_layers']} layers x {qwen['hidden_size']}, flow {dit.depth} layers x "
        f"{dit.dim}, vocoder {numbers.hift.base_channels} channels"
    )


def measured(directory: ModelDirectory, options: argparse.Namespace) -> list[dict]:
    """Measure a row for each part and number in flight; rows are printed as they come."""
    networks = Networks(directory, options.device, getattr(torch, options.dtype))
    size = Size(options.tokens, options.prompt)
    device = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    shared = {
        "device": device,
        "dtype": options.dtype,
        "threads": options.threads,
        "tokens": size.tokens,
        "audio_s": size.tokens / TOKENS_PER_SECOND,
        "prompt_tokens": size.prompt,
        "text_tokens": TEXT_TOKENS,
        "sizes": sizes(directory),
        "weights": options.model_dir.name if options.model_dir else "random",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    rows = []

    def add(code: str, part: str, in_flight: int, figures: dict) -> None:
        figures = {name: float(f"{value:.4g}") for name, value in figures.items()}
        row = {"code": code, "part": part, "in_flight": in_flight, **figures, **shared}
        rows.append(row | {"dtype": "float32"} if part == "VOCODE_WAV" else row)
        print(
            f"{code:9}{part:14}{in_flight:3}  " + "  ".join(f"{name} {value:g}" for name, value in figures.items()),
            flush=True,
        )

    for part in options.parts:
        for in_flight in options.in_flight:
            with torch.inference_mode():
                add("ours", part, in_flight, PARTS[part](networks, size, in_flight))
    if options.official:
        from bench import cosyvoice3_official

        official = cosyvoice3_official.Official(options.official, directory)
        for part in (part for part in cosyvoice3_official.PARTS if part in options.parts):
            add("official", part, 1, cosyvoice3_official.PARTS[part](official, networks, size))
    return rows


def kept(rows: list[dict]) -> list[dict]:
    """Return these rows, and those of earlier runs that were not measured again."""
    path = results.FOLDER / f"{NAME}.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    new = {tuple(row[key] for key in _KEY) for row in rows}
    return [row for row in before if tuple(row[key] for key in _KEY) not in new] + rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cosyvoice3", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        default=["LM_DECODE", "VOCODE_WAV"],
        metavar="PART",
        help=f"of {', '.join(PARTS)}",
    )
    parser.add_argument("--in-flight", nargs="+", type=int, default=[1, 8], metavar="N")
    parser.add_argument("--tokens", type=int, default=250, help="speech tokens a request says; 25 are a second")
    parser.add_argument("--prompt", type=int, default=250, help="speech tokens of its reference clip")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model-dir", type=Path, help="a checkpoint; without it, random weights in the official sizes")
    parser.add_argument("--official", type=Path, metavar="CLONE", help="of the official repository; float32, CPU")
    options = parser.parse_args()
    if options.official and (options.device, options.dtype) != ("cpu", "float32"):
        parser.error("--official compares on the CPU in float32")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        directory = ModelDirectory(options.model_dir) if options.model_dir else make(Path(folder) / "full", FULL)
        print(
            f"{sizes(directory)}; {options.device}, {options.dtype}, {options.threads} threads; {options.tokens} "
            f"tokens a request after a clip of {options.prompt}",
            flush=True,
        )
        rows = measured(directory, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.1f} GiB; {results.write(NAME, {'sample_rate': SAMPLE_RATE, 'rows': kept(rows)})}")


if __name__ == "__main__":
    main()
