"""Measure how many replicas are needed for how many requests a second: `python -m bench.replicas`.

A private Ray head runs `cluster/serve.cpu.yaml` with the simulated engine and 1, 2, 4 and 8 replicas of tts-service.
One replica of every other service, the ingress too, follows each four of them. A replica's device is a stated time
(ENGINE): the longer a text, the longer its GENERATE_MEL. Texts and clips have random lengths, and no voice is cached.
For each number of replicas:

- **Closed loop.** CLIENTS clients a replica send without a pause: two full batches, one that computes and one that
  waits. That is the highest throughput.
- **Open loop.** Poisson arrivals at shares of that throughput, until the P99 is above BOUND_S, and then at the rate
  between the last two. The highest rate within the bound is what so many replicas are good for.

Beside each run stands the CPU time of a request, by process, and how many of the machine's cores were busy. With the
most replicas the closed loop is repeated on devices of half the speed: where the devices are the limit, that makes half
the requests, and where the machine is, it makes more than half.

It writes bench/results/replicas.json and draws docs/replicas.svg. Twenty minutes; `--replicas` does a part of them and
keeps the others' figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from bench import results
from bench.measuring import plot, texts
from bench.measuring.cpu import cpu_s
from bench.measuring.load import Sample, arrivals, closed_loop, multipart, open_loop, percentile
from bench.measuring.plot import Line, Panel
from bench.measuring.private_graph import PrivateGraph, private_graph
from cluster.ray_head import ROOT
from engines.simulated import Options, batch_ms

FIGURE = ROOT / "docs" / "replicas.svg"
REPLICAS = (1, 2, 4, 8)
BATCH = 8
ENGINE = {
    "prepare_ms": 5,
    "encode_ms": 10,
    "generate_ms": 100,
    "character_ms": 4,
    "vocode_ms": 20,
    "batch_slope": 0.2,
    "seconds": 5,
}
SLOWER = 2  #: times the device's time, for the check with the most replicas
CLIENTS = 2 * BATCH  #: of each replica, in the closed loop
BOUND_S = 3.0
SHARES = (0.5, 0.7, 0.8, 0.9, 0.95)  #: of the closed loop's throughput, offered in the open loop
CLOSED_S, RAMP_S = 30.0, 5.0
OPEN_S, LEAST_REQUESTS = 30.0, 400  #: of each rate: a P99 needs a few requests beyond it
POOL = 96  #: different requests
SEED = 20261129
SMALLEST_MS = 0.3  #: of CPU time a request; idle processes take less


def followers(replicas: int) -> int:
    """Return the replicas of each other service for so many of tts-service."""
    return math.ceil(replicas / 4)


def pool() -> list[tuple[str, bytes]]:
    """Return the texts and clips of the requests."""
    chance = random.Random(SEED)
    return [(texts.text(chance), texts.clip(chance)) for _ in range(POOL)]


def device_rate(spoken: Sequence[str], engine: dict[str, Any], batch: int = BATCH) -> float:
    """Return the requests a second that one device does in full batches of random texts, by the engine's own times."""
    options, chance = Options(**engine), random.Random(SEED)
    means = [
        batch_ms([options.generating_ms(text) for text in chance.choices(spoken, k=batch)], options.batch_slope)
        for _ in range(2000)
    ]
    return batch / statistics.mean(means) * 1000


def measured(graph: PrivateGraph, load: Callable[[], list[Sample]]) -> tuple[list[Sample], dict[str, Any]]:
    """Run a load and return its samples, and what the machine did for it.

    Raises:
        RuntimeError: A request failed.
    """
    before, client, busy, began = cpu_s(graph), time.process_time(), _busy_s(), time.monotonic()
    samples = load()
    took, busy = time.monotonic() - began, _busy_s() - busy
    if failed := [sample.status for sample in samples if sample.status != 200]:
        raise RuntimeError(f"{len(failed)} of {len(samples)} requests failed: {sorted(set(failed))}")
    each = 1000 / len(samples)
    cost = {part: (after - before.get(part, 0.0)) * each for part, after in cpu_s(graph).items()}
    cost["client"] = (time.process_time() - client) * each
    return samples, {
        "requests": len(samples),
        "p50_s": round(percentile([sample.ms for sample in samples], 50) / 1000, 2),
        "p99_s": round(percentile([sample.ms for sample in samples], 99) / 1000, 2),
        "cpu_ms": round(sum(cost.values()), 1),
        "cpu_ms_of": {part: round(ms, 1) for part, ms in sorted(cost.items()) if ms >= SMALLEST_MS},
        "busy_cores": round(busy / took, 2),
    }


def _busy_s() -> float:
    """Return the CPU seconds that all cores together were busy, with whatever process."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def closed(graph: PrivateGraph, requests: Sequence[bytes], clients: int, expected_per_s: float) -> dict[str, Any]:
    """Send without a pause for about CLOSED_S. The throughput leaves out the ramp, and what is answered after the last
    request was sent."""
    count = round(expected_per_s * CLOSED_S) + clients

    def load() -> list[Sample]:
        made = closed_loop(
            "127.0.0.1", graph.port, lambda number: requests[number % POOL], clients=clients, count=count,
            timeout_s=20 * CLOSED_S,
        )  # fmt: skip
        return asyncio.run(made)

    samples, figures = measured(graph, load)
    begin = min(sample.sent_ns for sample in samples) + RAMP_S * 1e9
    end = max(sample.sent_ns for sample in samples)
    answered = sum(begin < sample.answered_ns <= end for sample in samples)
    return {"clients": clients, "req_per_s": round(answered / ((end - begin) / 1e9), 2), **figures}


def opened(graph: PrivateGraph, requests: Sequence[bytes], per_s: float) -> dict[str, Any]:
    """Send Poisson arrivals at a rate."""
    seconds = max(OPEN_S, LEAST_REQUESTS / per_s)
    chance = random.Random(SEED)
    planned = [(moment, chance.choice(requests)) for moment in arrivals(per_s, seconds, SEED)]
    samples, figures = measured(
        graph, lambda: asyncio.run(open_loop("127.0.0.1", graph.port, planned, timeout_s=seconds + 120))
    )
    return {"offered_per_s": round(len(samples) / seconds, 2), **figures}


def highest_within(
    bound_s: float, most_per_s: float, measure: Callable[[float], dict[str, Any]]
) -> list[dict[str, Any]]:
    """Measure rates upwards until one's P99 is above the bound, then the rate between the last two.

    Returns:
        The rows, by rate.
    """
    rows: list[dict[str, Any]] = []
    for before, share in zip((0.0, *SHARES), SHARES, strict=False):
        rows.append(measure(most_per_s * share))
        if rows[-1]["p99_s"] > bound_s:
            rows.append(measure(most_per_s * (before + share) / 2))
            break
    return sorted(rows, key=lambda row: row["offered_per_s"])


def within(rows: Sequence[dict[str, Any]], bound_s: float = BOUND_S) -> float:
    """Return the highest rate up to which no P99 was above the bound; 0 where the first one is."""
    best = 0.0
    for row in rows:
        if row["p99_s"] > bound_s:
            break
        best = row["offered_per_s"]
    return best


def run(replicas: int, slower: float = 1.0, closed_alone: bool = False) -> dict[str, Any]:
    """Measure one number of replicas on a Ray head of its own."""
    engine = ENGINE | {name: ENGINE[name] * slower for name in ("generate_ms", "character_ms")}
    contents = pool()
    device = device_rate([text for text, _ in contents], engine)
    others: dict[str, Any] = {"num_replicas": followers(replicas)}
    deployments = dict.fromkeys(("cosyvoice3-api", "audio-service"), others)
    deployments["embedding-service"] = others | {"user_config": {"max_batch_size": BATCH, "batch_wait_ms": 50}}
    deployments["vocoder-service"] = deployments["embedding-service"]
    deployments["tts-service"] = {
        "num_replicas": replicas,
        "user_config": {"max_batch_size": BATCH, "batch_wait_ms": 200},
    }
    for entry in deployments.values():
        entry |= {"max_ongoing_requests": 512}
    args = {
        "engine": "simulated",
        "engine_options": engine,
        "limits": {"max_in_flight": 256, "max_waiting": 256, "max_wait_s": 10, "deadline_s": 60},
    }
    with private_graph(args, num_cpus=16, ratio=0.0, deployments=deployments) as graph:
        requests = [
            multipart(f"127.0.0.1:{graph.port}", {"text": text, "dialect": "en-US"}, clip) for text, clip in contents
        ]
        # Connections, code paths and Ray's caches are warm then.
        asyncio.run(closed_loop("127.0.0.1", graph.port, requests.__getitem__, clients=2 * CLIENTS, count=POOL))
        row: dict[str, Any] = {
            "replicas": {name: entry["num_replicas"] for name, entry in deployments.items()},
            "device_per_s": round(device, 2),
            "closed": closed(graph, requests, CLIENTS * replicas, device * replicas),
        }
        print(replicas, "closed", row["closed"], flush=True)
        if closed_alone:
            return row

        def measure(per_s: float) -> dict[str, Any]:
            found = opened(graph, requests, per_s)
            print(replicas, "open", found, flush=True)
            return found

        row["open"] = highest_within(BOUND_S, row["closed"]["req_per_s"], measure)
        row["within_bound_per_s"] = within(row["open"])
        return row


def table(rows: dict[int, dict[str, Any]]) -> str:
    """Return the table of docs/scaling.md. Shares are of what the devices alone could do."""
    lines = [
        "| tts-service | the others, each | closed loop, requests a second | of the devices' | P99 within the bound, "
        "requests a second | of the devices' | CPU of a request, ms | busy cores |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for number, row in sorted(rows.items()):
        found = row["closed"]["req_per_s"], row["within_bound_per_s"]
        shares = [rate / number / row["device_per_s"] for rate in found]
        lines.append(
            f"| {number} | {row['replicas']['vocoder-service']} | {found[0]:.1f} | {shares[0]:.0%} | {found[1]:.1f} | "
            f"{shares[1]:.0%} | {row['closed']['cpu_ms']:.0f} | {row['closed']['busy_cores']:.2f} |"
        )
    return "\n".join(lines)


def figure(rows: dict[int, dict[str, Any]], cores: int) -> str:
    """Return the figure of docs/scaling.md as SVG.

    Args:
        rows: by number of replicas.
        cores: of the machine, which limits it too: by the CPU time of a request at the most replicas.
    """
    numbers = sorted(rows)
    machine = cores * 1000 / rows[numbers[-1]]["closed"]["cpu_ms"]
    device = rows[numbers[0]]["device_per_s"]
    left = Panel(
        "Requests a second, by replicas",
        "replicas of tts-service",
        "requests a second",
        [
            Line("what the devices could do", [(0, 0), (numbers[-1], device * numbers[-1])], plot.GREY, dashed=True),
            Line(f"what {cores} cores could do", [(0, machine), (numbers[-1], machine)], plot.COLOURS[2], dashed=True),
            Line(
                f"{CLIENTS} clients a replica, without a pause",
                [(number, rows[number]["closed"]["req_per_s"]) for number in numbers],
                plot.COLOURS[0],
            ),
            Line(
                f"Poisson arrivals, P99 within {BOUND_S:g} s",
                [(number, rows[number]["within_bound_per_s"]) for number in numbers],
                plot.COLOURS[1],
            ),
        ],
        x_ticks=numbers,
    )
    offered = {number: [(one["offered_per_s"], one["p99_s"]) for one in rows[number]["open"]] for number in numbers}
    most = max(rate for points in offered.values() for rate, _ in points)
    right = Panel(
        "P99, by requests a second (Poisson arrivals)",
        "requests a second",
        "P99, s",
        [
            Line(f"bound: {BOUND_S:g} s", [(0, BOUND_S), (most, BOUND_S)], plot.GREY, dashed=True),
            *(
                Line(f"{number} replica{'s' * (number > 1)}", offered[number], plot.COLOURS[place])
                for place, number in enumerate(numbers)
            ),
        ],
        top=3 * BOUND_S,
    )
    said = ", ".join(f"{number}: {rows[number]['within_bound_per_s']:.1f}" for number in numbers)
    return plot.svg(
        f"Requests a second with a P99 within {BOUND_S:g} s, by replicas of tts-service: {said}", [left, right]
    )


def kept() -> dict[str, Any]:
    """Return the results file's rows and check, or nothing."""
    file = results.FOLDER / "replicas.json"
    return json.loads(file.read_text()) if file.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", nargs="*", type=int, choices=REPLICAS, default=REPLICAS)
    parser.add_argument("--no-check", action="store_true", help="leave out the run on slower devices")
    options = parser.parse_args()
    found = kept()
    rows = {int(number): row for number, row in found.get("rows", {}).items()}
    check = found.get("slower_devices")
    for number in options.replicas:
        rows[number] = run(number)
    if not options.no_check:
        check = run(max(REPLICAS), SLOWER, closed_alone=True)
    rows = dict(sorted(rows.items()))
    results.write(
        "replicas",
        {"engine": ENGINE, "bound_s": BOUND_S, "seed": SEED, "slower": SLOWER, "rows": rows, "slower_devices": check},
    )
    FIGURE.write_text(figure(rows, os.cpu_count() or 1))
    print(table(rows))
    if check is not None:
        print(f"{max(REPLICAS)} replicas, devices {SLOWER} times slower: {check['closed']}")


if __name__ == "__main__":
    main()
