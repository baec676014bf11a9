"""Measure the cost of keys and limits for a lone request: `python -m bench.access`.

One graph (simulated engine, the times of the tests' application `fast`) serves four callers. They take turns request by
request in random order, since a machine's speed varies within seconds by more than the effect. One caller has no key,
one a plain key, one a key with a rate, one a key with a rate and a limit on concurrent requests. No limit is ever
reached. A figure is the change of the median against the caller without a key, with the 95 % interval of a bootstrap
over the turns.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

import numpy as np

from access.key_editor import KeyEditor
from bench import results
from bench.measuring.clips import clip
from bench.measuring.load import closed_loop, multipart
from bench.measuring.private_graph import private_graph
from bench.tracing_served import interval, of_medians

SIMULATED = {"prepare_ms": 30, "encode_ms": 40, "generate_ms": 60, "vocode_ms": 50, "seconds": 10}
RATE = {"requests_per_minute": 1_000_000.0, "burst": 1_000_000}
LIMITS = {"no key": None, "key": {}, "rate": RATE, "rate and concurrent": RATE | {"concurrent": 1000}}
WARM_UP = 30


def measure(port: int, keys: dict[str, str], turns: int) -> list[dict[str, float]]:
    """Measure the milliseconds of a request of each caller, for each turn."""
    fields = {"text": "Hello there", "dialect": "en-US"}
    requests = {
        caller: multipart(
            f"127.0.0.1:{port}", fields, clip(), headers={"X-API-Key": keys[caller]} if caller in keys else None
        )
        for caller in LIMITS
    }

    def once(caller: str) -> float:
        (sample,) = asyncio.run(closed_loop("127.0.0.1", port, requests[caller], clients=1, count=1))
        if sample.status != 200:
            raise RuntimeError(f"{caller}: answered {sample.status}")
        return sample.ms

    for _ in range(WARM_UP):
        for caller in LIMITS:
            once(caller)
    chance = random.Random(7)
    return [{caller: once(caller) for caller in chance.sample(list(LIMITS), len(LIMITS))} for _ in range(turns)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-keys-") as folder:
        file = Path(folder) / "keys.yaml"
        keys = {
            caller: KeyEditor(file).add(f"k{number}", **({"limits": limits} if limits else {}))
            for number, (caller, limits) in enumerate(LIMITS.items())
            if limits is not None
        }
        args = {"engine": "simulated", "engine_options": SIMULATED, "access": {"keys_file": str(file)}}
        with private_graph(args, num_cpus=16) as graph:
            time.sleep(2)  # until the ingress has found the limiter
            turns = measure(graph.port, keys, options.turns)
    medians = {caller: round(float(np.median([turn[caller] for turn in turns])), 2) for caller in LIMITS}
    changes = {
        caller: interval([(turn[caller], turn["no key"]) for turn in turns], of_medians)
        for caller in LIMITS
        if caller != "no key"
    }
    for caller, p50 in medians.items():
        more = changes.get(caller)
        said = f"{more['change']:+.2%}  ({more['low']:+.2%} to {more['high']:+.2%})" if more else ""
        print(f"{caller:20} p50 {p50:6.1f} ms   {said}")
    results.write("access", {"simulated": SIMULATED, "turns": options.turns, "p50_ms": medians, "change": changes})


if __name__ == "__main__":
    main()
