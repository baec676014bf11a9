"""Measure the cost of the graph beside the models: `python -m bench.overhead`.

A private Ray head, `cluster/serve.cpu.yaml` with the simulated engine (36 ms of simulated compute, payloads of
CosyVoice3's size), and a client on keep-alive sockets. Overhead is end-to-end time as the client sees it, less the
compute time in the four stages' spans. Beside it runs the floor: bare Ray Serve with as many empty hops
(`bench/bare_chain.py`), over Serve's gRPC, over Ray's actor calls, and over these with arrays in Ray's object store.
Each figure is the median over the rounds; the client shares the machine. `cpu_ms` is the CPU time of Ray's processes
for a request, which decides the throughput of two cores; `cpu_ms_of` has the parts of deployments and Serve's proxy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from pathlib import Path

from bench import results
from bench.measuring.clips import clip
from bench.measuring.cpu import cpu_s
from bench.measuring.load import Sample, closed_loop, multipart, percentile
from bench.measuring.private_graph import PrivateGraph, private_graph

SIMULATED = {"prepare_ms": 2, "encode_ms": 6, "generate_ms": 22, "vocode_ms": 6, "seconds": 10}
BARE_MS = [2, 6, 22, 6]
BARE = (
    ("bare chain", "/bare", [0, 0, 0, 0], False),
    ("bare actors", "/actors", [0, 0, 0, 0], True),
    ("bare arrays", "/arrays", [640_000, 160_000, 160_000, 0], True),
)
SPREAD = ("req_per_s", "e2e_p50_ms", "overhead_p50_ms", "cpu_ms")
LOADS = ((1, 40), (8, 120), (16, 240))
SMALLEST_MS = 0.3  #: of CPU; idle replicas take less
STAGES = ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")


class Traces:
    """The finished traces in the ingress's JSON-lines file, by id."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def of(self, samples: list[Sample], within_s: float = 20.0) -> list[list[dict]]:
        end = time.monotonic() + within_s
        while True:
            lines = self._file.read_text().splitlines() if self._file.exists() else []
            found = {trace[0]["traceId"]: trace for trace in map(json.loads, lines)}
            if all(sample.trace_id in found for sample in samples):
                return [found[sample.trace_id] for sample in samples]
            if time.monotonic() > end:
                raise RuntimeError("the ingress did not write every trace")
            time.sleep(0.2)


def computed_ms(trace: list[dict]) -> float:
    return sum(float(span["tags"]["compute_ms"]) for span in trace if span["name"] in STAGES)


def measure(graph: PrivateGraph, clients: int, count: int, traces: Traces | None, path: str = "/api/generate") -> dict:
    """Measure a row. Without traces, compute is the time that the bare chain sleeps."""
    request = multipart(f"127.0.0.1:{graph.port}", {"text": "Hello there", "dialect": "en-US"}, clip(), path)
    before, began = cpu_s(graph), time.monotonic()
    samples = asyncio.run(closed_loop("127.0.0.1", graph.port, request, clients=clients, count=count))
    took = time.monotonic() - began
    cpu_ms = {part: 1000 * (after - before.get(part, 0.0)) / count for part, after in cpu_s(graph).items()}
    failed = [sample.status for sample in samples if sample.status != 200]
    if failed:
        raise RuntimeError(f"{len(failed)} of {count} requests failed: {sorted(set(failed))}")
    computed = [computed_ms(trace) for trace in traces.of(samples)] if traces else [sum(BARE_MS)] * count
    overhead = [sample.ms - compute for sample, compute in zip(samples, computed, strict=True)]
    return {
        "clients": clients,
        "requests": count,
        "req_per_s": round(count / took, 1),
        "e2e_p50_ms": round(percentile([sample.ms for sample in samples], 50), 1),
        "e2e_p95_ms": round(percentile([sample.ms for sample in samples], 95), 1),
        "compute_p50_ms": round(statistics.median(computed), 1),
        "overhead_p50_ms": round(percentile(overhead, 50), 1),
        "answer_bytes": samples[0].size,
        "cpu_ms": round(sum(cpu_ms.values()), 2),
        "cpu_ms_of": {part: round(cost, 2) for part, cost in sorted(cpu_ms.items()) if cost >= SMALLEST_MS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hold", action="store_true", help="keep the graph up afterwards, for a profiler")
    parser.add_argument("--haproxy", action="store_true", help="with HAProxy in front, for both; docs/haproxy.md")
    options = parser.parse_args()
    bare = [
        {
            "name": name,
            "route_prefix": path,
            "import_path": "bench.bare_chain:build",
            "args": {"milliseconds": BARE_MS, "sizes": sizes, "by_reference": by_reference},
        }
        for name, path, sizes, by_reference in BARE
    ]
    ours = {"engine": "simulated", "engine_options": SIMULATED}
    # Separate runs: fifteen more idle replicas beside the graph would take a fifth of a core from it.
    with private_graph(ours, num_cpus=8, behind_haproxy=options.haproxy) as graph:
        rows = run(graph, options.rounds, {"graph": (Traces(graph.spans), "/api/generate")})
        if options.hold:
            print(f"holding on port {graph.port}; Ctrl-C ends", flush=True)
            time.sleep(3600)
    with private_graph(ours, num_cpus=8, beside=bare, behind_haproxy=options.haproxy) as graph:
        floor = run(graph, options.rounds, {name: (None, path) for name, path, *_ in BARE})
    rounds = rows | floor
    medians = {name: median(every) for name, every in rounds.items()}
    for name, loads in medians.items():
        print(*(f"median  {name:12} {row}" for row in loads), sep="\n", flush=True)
    results.write(
        "overhead_haproxy" if options.haproxy else "overhead",
        {
            "simulated": SIMULATED,
            "rounds": options.rounds,
            "median": medians,
            "lowest and highest": {name: spread(every) for name, every in rounds.items()},
        },
        raw={"rounds": rounds},
    )


def run(graph: PrivateGraph, rounds: int, ways: dict[str, tuple[Traces | None, str]]) -> dict[str, list[list[dict]]]:
    """Measure `ways` (traces, path) in turn, so that all see the same machine.

    Returns:
        By the way's name, for each round, a row of figures for each of LOADS.
    """
    found: dict[str, list[list[dict]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            rows = [measure(graph, clients, count, *way) for clients, count in LOADS]
            if number:  # the first round warms up connections, code paths and Ray's caches
                found[name].append(rows)
                print(*(f"round {number} {name:12} {row}" for row in rows), sep="\n", flush=True)
    return found


def median(rounds: list[list[dict]]) -> list[dict]:
    """Take the median of each figure over the rounds, for each of LOADS."""
    return [_median(list(rows)) for rows in zip(*rounds, strict=True)]


def _median(rows: list[dict]) -> dict:
    return {
        key: _median([row.get(key, {}) for row in rows])
        if isinstance(value, dict)
        else round(statistics.median(row.get(key, 0.0) for row in rows), 1)
        for key, value in rows[0].items()
    }


def spread(rounds: list[list[dict]]) -> list[dict]:
    """Take the lowest and the highest of SPREAD's figures over the rounds, for each of LOADS."""
    return [
        {key: [min(row[key] for row in rows), max(row[key] for row in rows)] for key in SPREAD if key in rows[0]}
        for rows in zip(*rounds, strict=True)
    ]


if __name__ == "__main__":
    main()
