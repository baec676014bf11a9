"""Memory and speed of lengths that were never seen, of the embedded engine's two largest models.

    python -m bench.lengths [--texts 60] [--threads 1]

Each model runs in a process of its own with the launcher's allocator settings, as a replica has it, without Ray (which
adds about 150 MB to a process). It says texts of random lengths up to 200 characters, each another one, and its memory
is read meanwhile. Then ten more lengths are said three times each: the first time against the faster of the other two.
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

from bench import results
from cluster.ray_head import SETTINGS
from deployments.stages.memory import give_back
from engines.contract import Mel, Voice, create
from speech.errors import SpeechError
from speech.utterance import Utterance

WORDS = (
    "although the evening was cold they walked slowly along the harbour and talked about old friends who had sailed "
    "away from this quiet town long before any road or railway came to it"
).split()
MODELS = ("acoustic model", "vocoder")
_READ_AFTER = (1, 10, 20, 40, 60, 80, 120, 240, 500)
_AGAIN = 10


def text(generator: random.Random) -> str:
    """Return a text of 3 to 34 random words, at most 200 characters."""
    return " ".join(generator.choice(WORDS) for _ in range(generator.randrange(3, 35)))[:199] + "."


def measure(model: str, texts: int, threads: int) -> dict:
    """Load a model in this process and say texts with it.

    Returns:
        `start_mb`, `after_mb` (by number of texts), and `first_over_again`, the ratio of CPU time.
    """
    engine, generator = create("embedded"), random.Random(0)
    acoustic = engine.load_acoustic_model("cpu", threads)
    voice = Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([5.2], np.float32)})

    def mel_of(said: str) -> Mel:
        (mel,) = acoustic.generate([(Utterance(said, "en-US"), voice)])
        if isinstance(mel, SpeechError):
            raise mel
        return mel

    work: Callable[[str], object] = mel_of
    if model == "vocoder":
        # The mels are made before the vocoder is loaded, and the acoustic model is let go.
        mels = {said: mel_of(said) for said in (text(generator) for _ in range(texts + _AGAIN))}
        del acoustic, mel_of, work
        give_back()
        vocoder = engine.load_vocoder("cpu", threads)
        generator = random.Random(0)

        def work(said: str) -> object:
            return vocoder.vocode([mels[said]])

    give_back()
    start, after = _megabytes(), {}
    for number in range(1, texts + 1):
        work(text(generator))
        if number in _READ_AFTER or number == texts:
            after[number] = _megabytes()
    first = again = 0.0
    for _ in range(_AGAIN):
        said = text(generator)
        times = [_cpu_s(work, said) for _ in range(3)]
        first, again = first + times[0], again + min(times[1:])
    return {"start_mb": start, "after_mb": after, "first_over_again": round(first / again, 3)}


def _megabytes() -> int:
    return round(psutil.Process().memory_info().rss / 1e6)


def _cpu_s(work: Callable[[str], object], said: str) -> float:
    started = time.process_time()
    work(said)
    return time.process_time() - started


def main() -> None:
    """Measure both models, print a table and write bench/results/lengths.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.lengths", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--texts", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", choices=MODELS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model:
        print(json.dumps(measure(options.model, options.texts, options.threads)))
        return
    malloc = {name: value for name, value in SETTINGS.items() if name.startswith("MALLOC_")}
    figures = {}
    for model in MODELS:
        command = [sys.executable, "-m", "bench.lengths", "--model", model]
        command += ["--texts", str(options.texts), "--threads", str(options.threads)]
        done = subprocess.run(command, env=os.environ | malloc, stdout=subprocess.PIPE, text=True, check=True)
        figures[model] = json.loads(done.stdout.splitlines()[-1])
        print(f"{model:15}", figures[model], flush=True)
    print(results.write("lengths", {"texts": options.texts, "threads": options.threads, "models": figures}))


if __name__ == "__main__":
    main()
