"""Measure the cost of tracing in a running graph: `python -m bench.tracing_served`.

Three copies of one graph (simulated engine, four stages of 20 ms) and one real Zipkin, with `--otlp` also a receiver of
OTLP (a small process that reads and counts). Of the copies, one at a time is

- `off`: no request is recorded;
- `tenth`: every request is recorded, 10 % are exported;
- `all`: every request is recorded and exported.

A machine's speed varies within seconds by more than the effect, so the modes take turns as quickly as possible: request
by request for the latency of a lone request, second by second (16 clients) for throughput and CPU time, in random
order. After each round the modes move on to the next copy, by `user_config` and without a restart, so that no mode
profits from its process. A figure is the change against `off` within a turn: of the median latencies, or the mean over
the turns (of logarithms); with the 95 % interval of a bootstrap over the turns.

The vocoder batches, so that the CPU is the limit and not a simulated device. CPU time is that of all of Ray's
processes, replicas and proxy among them; Zipkin and the client share the machine with them.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import psutil

from bench import results
from bench.measuring.clips import clip
from bench.measuring.load import Sample, closed_loop, multipart
from bench.measuring.otlp_sink import otlp_sink
from bench.measuring.private_graph import PrivateGraph, private_graph
from bench.measuring.private_zipkin import private_zipkin
from cluster import processes
from cluster.serving import Application

SIMULATED = {"prepare_ms": 20, "encode_ms": 20, "generate_ms": 20, "vocode_ms": 20, "seconds": 10}
MODES = {"off": {"tracing": False}, "tenth": {"sampling_ratio": 0.1}, "all": {"sampling_ratio": 1.0}}
KEPT = {"off": (0.0, 0.0), "tenth": (0.02, 0.25), "all": (1.0, 1.0)}  #: share of answers with a trace, least and most
COPIES = ("b", "c")
ALONE, SLICES, SLICE, CLIENTS = 40, 8, 112, 16  #: turns of one request, turns of 112 requests, clients in the latter
WARM_UP = 200


class Bench:
    def __init__(self, graph: PrivateGraph) -> None:
        self.graph = graph
        self.ray = processes.family(graph.head.process)
        self.applications = graph.application.config["applications"]
        self.requests = [
            multipart(
                f"127.0.0.1:{graph.port}",
                {"text": "Hello there", "dialect": "en-US"},
                clip(),
                path=f"{entry['route_prefix'].rstrip('/')}/api/generate",
            )
            for entry in self.applications
        ]
        self.place = dict.fromkeys(MODES, 0)  #: the copy of each mode
        self.kept: dict[str, list[bool]] = {}

    def load(self, mode: str, clients: int, count: int) -> list[Sample]:
        samples = asyncio.run(
            closed_loop("127.0.0.1", self.graph.port, self.requests[self.place[mode]], clients=clients, count=count)
        )
        failed = [sample.status for sample in samples if sample.status != 200]
        if failed:
            raise RuntimeError(f"{len(failed)} of {count} requests failed: {sorted(set(failed))}")
        self.kept[mode] += [sample.kept for sample in samples]
        return samples

    def assign(self, first: int) -> None:
        """Give each copy a mode, without a restart, and send every copy requests that warm it up."""
        self.place = {mode: (first + number) % len(MODES) for number, mode in enumerate(MODES)}
        for mode, place in self.place.items():
            for deployment in self.applications[place]["deployments"]:
                if deployment["name"] == "cosyvoice3-api":
                    deployment["user_config"] = MODES[mode]
                if deployment["name"] == "vocoder-service":
                    deployment["user_config"] = {"max_batch_size": 8, "batch_wait_ms": 0}
        self.graph.dashboard.deploy(Application(self.graph.application.config))
        time.sleep(2)  # the controller checks every half second; the shares of kept traces prove that it has
        for entry in self.applications:
            self.graph.dashboard.wait_until_running(entry["name"], lambda text: None)
        self.kept = {mode: [] for mode in MODES}
        for mode in MODES:
            self.load(mode, CLIENTS, WARM_UP)
        self.kept = {mode: [] for mode in MODES}

    def lone_requests(self) -> dict[str, float]:
        return {mode: self.load(mode, 1, 1)[0].ms for mode in shuffled()}

    def full_load(self) -> dict[str, tuple[float, float]]:
        """Measure requests a second, and milliseconds of CPU a request, by mode."""
        found = {}
        for mode in shuffled():
            used, began = cpu_s(self.ray), time.monotonic()
            self.load(mode, CLIENTS, SLICE)
            found[mode] = SLICE / (time.monotonic() - began), 1000 * (cpu_s(self.ray) - used) / SLICE
        return found

    def check(self) -> None:
        for mode, (least, most) in KEPT.items():
            share = sum(self.kept[mode]) / len(self.kept[mode])
            if not least <= share <= most:
                raise RuntimeError(f"{share:.0%} of the requests were kept in mode {mode}: the switch did not work")


_CHANCE = random.Random(7)


def shuffled() -> list[str]:
    return _CHANCE.sample(list(MODES), len(MODES))


def cpu_s(found: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in found if process.is_running())


def interval(turns: list[tuple[float, float]], change: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
    """Compute `change` of pairs (turns, 2), over the second axis from the end, and its 95 % interval."""
    pairs = np.array(turns)
    draws = np.random.default_rng(0).integers(0, len(pairs), (4000, len(pairs)))
    low, high = np.percentile(change(pairs[draws]), [2.5, 97.5])
    return {
        "change": round(float(change(pairs)), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
        "turns": len(pairs),
    }


def of_medians(pairs: np.ndarray) -> np.ndarray:
    medians = np.median(pairs, axis=-2)
    return medians[..., 0] / medians[..., 1] - 1


def of_means(pairs: np.ndarray) -> np.ndarray:
    logs = np.log(pairs)
    return np.expm1((logs[..., 0] - logs[..., 1]).mean(axis=-1))


def run(bench: Bench, rounds: int) -> tuple[list[dict], list[dict]]:
    alone, together = [], []
    for number in range(rounds):
        bench.assign(number)
        alone += [bench.lone_requests() for _ in range(ALONE)]
        together += [bench.full_load() for _ in range(SLICES)]
        bench.check()
        print(
            f"round {number + 1}",
            *(
                f"{mode}: {np.median([turn[mode] for turn in alone[-ALONE:]]):.1f} ms, "
                f"{np.mean([turn[mode][0] for turn in together[-SLICES:]]):.1f} req/s, "
                f"{np.mean([turn[mode][1] for turn in together[-SLICES:]]):.2f} ms CPU;"
                for mode in MODES
            ),
            flush=True,
        )
    return alone, together


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--otlp", action="store_true", help="export to a receiver of OTLP too, beside Zipkin")
    options = parser.parse_args()
    args: dict = {"engine": "simulated", "engine_options": SIMULATED}
    with ExitStack() as stack:
        url = stack.enter_context(private_zipkin())
        if options.otlp:
            sink = stack.enter_context(otlp_sink())
            args["tracing"] = {"otlp": {"url": sink.url}}
        graph = stack.enter_context(private_graph(args, num_cpus=16, zipkin_url=url, copies=COPIES))
        alone, together = run(Bench(graph), options.rounds)
        if options.otlp and not sink.spans():
            raise RuntimeError("the receiver of OTLP got no spans")
    found = {}
    for mode in ("tenth", "all"):
        found[f"p50, {mode}"] = interval([(turn[mode], turn["off"]) for turn in alone], of_medians)
        for place, figure in enumerate(("throughput", "cpu")):
            found[f"{figure}, {mode}"] = interval(
                [(turn[mode][place], turn["off"][place]) for turn in together], of_means
            )
    for name, values in found.items():
        print(
            f"{name:18} {values['change']:+.2%}  ({values['low']:+.2%} to {values['high']:+.2%}, "
            f"{values['turns']} turns)"
        )
    results.write(
        "tracing_served_otlp" if options.otlp else "tracing_served",
        {
            "simulated": SIMULATED,
            "rounds": options.rounds,
            "change": found,
            "off": {
                "p50_ms": round(float(np.median([turn["off"] for turn in alone])), 1),
                "req_per_s": round(float(np.mean([turn["off"][0] for turn in together])), 1),
                "cpu_ms": round(float(np.mean([turn["off"][1] for turn in together])), 2),
            },
        },
    )


if __name__ == "__main__":
    main()
