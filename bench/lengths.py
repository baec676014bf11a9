"""Memory and speed of lengths that were never seen, of the embedded engine's two largest models.

    python -m bench.lengths [--lengths 60] [--threads 1]
    python -m bench.lengths --served [--requests 500] [--clients 1] [--minutes 600]

Each model runs in a process of its own with the launcher's settings of allocator and oneDNN, as a replica has it, but
without Ray (which adds about 150 MB to a process) and without a stage's returning of memory between batches. It gets
inputs of random lengths, up to those of 200 characters, each another one, and its memory is read meanwhile. Then ten
more lengths come three times each: the first against the faster of the others.

With `--served` the whole graph runs on a private Ray head and gets whole requests instead (`bench/lengths_served.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import psutil

from bench import lengths_served, results
from bench.measuring import texts
from bench.measuring.outcome import made
from cluster.ray_head import SETTINGS
from deployments.stages.memory import give_back
from engines.contract import Mel, Voice
from engines.embedded import EmbeddedEngine
from speech.utterance import Utterance

MODELS = {"acoustic model": "GENERATE_MEL", "vocoder": "VOCODE_WAV"}  #: and their stages
_READ_AFTER = (1, 10, 20, 40, 60, 80, 120, 240, 500)
_AGAIN = 10


def measure(model: str, lengths: int, threads: int) -> dict:
    """Load a model in this process and give it inputs of random lengths.

    Returns:
        `start_mb`, `after_mb` (by number of lengths), and `first_over_again`, the ratio of CPU time.
    """
    engine, generator = EmbeddedEngine(), random.Random(0)
    os.environ.update(engine.process_settings[MODELS[model]])
    if model == "vocoder":
        make, work = _mel, engine.load_vocoder("cpu", threads).vocode
    else:
        make, work = _job, engine.load_acoustic_model("cpu", threads).generate  # type: ignore[assignment]
    give_back()
    start, after = _megabytes(), {}
    for number in range(1, lengths + 1):
        made(work([make(generator)])[0])
        if number in _READ_AFTER or number == lengths:
            after[number] = _megabytes()
    first = again = 0.0
    for _ in range(_AGAIN):
        item = make(generator)
        times = [_cpu_s(work, item) for _ in range(3)]
        first, again = first + times[0], again + min(times[1:])
    return {"start_mb": start, "after_mb": after, "first_over_again": round(first / again, 3)}


def _job(generator: random.Random) -> tuple[Utterance, Voice]:
    """Return an English text of at most 200 characters, in a stock voice."""
    voice = Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([5.2], np.float32)})
    return Utterance(texts.text(generator), "en-US"), voice


def _mel(generator: random.Random) -> Mel:
    """Return noise in the form of features, of 1 to 13 s: as long as those texts take."""
    noise, frames = np.random.default_rng(generator.randrange(2**32)), generator.randrange(40, 520)
    arrays: dict[str, np.ndarray] = {
        "features": noise.normal(0, 0.3, (512, 2 * frames)).astype(np.float32),
        "f0": np.full(2 * frames, 150, np.float32),
        "style": noise.normal(0, 0.1, 128).astype(np.float32),
        "gain": np.ones(1, np.float32),
        "seed": np.zeros(1, np.int64),
        "speaker": np.zeros(16, np.uint8),
    }
    return Mel(arrays, frames * 0.025)


def _megabytes() -> int:
    return round(psutil.Process().memory_info().rss / 1e6)


def _cpu_s(work: Callable, item: object) -> float:
    started = time.process_time()
    made(work([item])[0])
    return time.process_time() - started


def main() -> None:
    """Measure both models, print a table and write bench/results/lengths.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.lengths", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--lengths", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--served", action="store_true", help="the whole graph, under Ray")
    parser.add_argument("--requests", type=int, default=500, help="with --served (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=1, help="with --served (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=600, help="with --served: send no more after this time")
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.served:
        lengths_served.run(options.requests, options.clients, options.minutes)
        return
    if options.model:
        print(json.dumps(measure(options.model, options.lengths, options.threads)))
        return
    kept = {name: value for name, value in SETTINGS.items() if name.startswith(("MALLOC_", "ONEDNN_"))}
    figures = {}
    for model in MODELS:
        command = [sys.executable, "-m", "bench.lengths", "--model", model]
        command += ["--lengths", str(options.lengths), "--threads", str(options.threads)]
        done = subprocess.run(command, env=os.environ | kept, stdout=subprocess.PIPE, text=True, check=True)
        figures[model] = json.loads(done.stdout.splitlines()[-1])
        print(f"{model:15}", figures[model], flush=True)
    print(results.write("lengths", {"lengths": options.lengths, "threads": options.threads, "models": figures}))


if __name__ == "__main__":
    main()
