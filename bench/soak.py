"""Measure memory at full load, which must stay flat: `python -m bench.soak --minutes 30`.

A graph of its own (simulated engine without service times, so that the CPU is the limit), 16 clients, traces at the
production ratio into a real Zipkin. Every ten seconds each replica's memory is read (`bench/measuring/memory.py`). The
slope is that of a straight line through the readings after the warm-up, in KiB an hour and in bytes a request. A
process is flat if its last quarter's median is within 2 % or 2 MiB of the first quarter's. Exits with 1 if any is not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import threading
import time

import numpy as np
import psutil

from bench import results
from bench.measuring.clips import clip
from bench.measuring.load import closed_loop, multipart
from bench.measuring.memory import anonymous_bytes
from bench.measuring.private_graph import PrivateGraph, private_graph
from bench.measuring.private_zipkin import private_zipkin

SIMULATED = {"prepare_ms": 0, "encode_ms": 0, "generate_ms": 0, "vocode_ms": 0, "seconds": 5}
CLIENTS, AT_A_TIME, READ_EVERY_S, WARM_UP_SHARE = 16, 480, 10.0, 0.2


def processes_of(graph: PrivateGraph) -> dict[str, psutil.Process]:
    """Find the processes by service name, and Serve's proxy; the graph doesn't scale, so each has one replica."""
    deployments = graph.dashboard.applications()[graph.application.name]["deployments"]
    found = {
        service: psutil.Process(replica["pid"])
        for service, status in deployments.items()
        for replica in status["replicas"]
    }
    for process in psutil.process_iter(["cmdline"]):
        if "ProxyActor" in " ".join(process.info["cmdline"] or ()):
            found["proxy"] = process
    return found


def soak(graph: PrivateGraph, minutes: float) -> tuple[list[dict], int]:
    """Run the load; returns readings (seconds, requests so far, bytes by process) and the number of requests."""
    found, readings, done, end = processes_of(graph), [], [0], threading.Event()
    began = time.monotonic()

    def read() -> None:
        while not end.wait(READ_EVERY_S):
            readings.append(
                {
                    "s": round(time.monotonic() - began, 1),
                    "requests": done[0],
                    **{name: anonymous_bytes(process) for name, process in found.items()},
                }
            )

    reader = threading.Thread(target=read)
    reader.start()
    request = multipart(f"127.0.0.1:{graph.port}", {"text": "Hello there", "dialect": "en-US"}, clip(5))
    try:
        while time.monotonic() - began < minutes * 60:
            samples = asyncio.run(closed_loop("127.0.0.1", graph.port, request, clients=CLIENTS, count=AT_A_TIME))
            failed = sorted({sample.status for sample in samples} - {200})
            if failed:
                raise RuntimeError(f"requests failed: {failed}")
            done[0] += len(samples)
    finally:
        end.set()
        reader.join()
    return readings, done[0]


def verdict(readings: list[dict], name: str) -> dict:
    """Evaluate the readings after the warm-up: first and last quarter, slope, and True if they are flat."""
    later = readings[int(len(readings) * WARM_UP_SHARE) :]
    quarter = max(1, len(later) // 4)
    first = statistics.median(row[name] for row in later[:quarter])
    last = statistics.median(row[name] for row in later[-quarter:])
    seconds, requests, used = (np.array([row[key] for row in later], float) for key in ("s", "requests", name))
    return {
        "first_quarter_mib": round(first / 2**20, 1),
        "last_quarter_mib": round(last / 2**20, 1),
        "kib_per_hour": round(float(np.polyfit(seconds, used, 1)[0]) * 3600 / 1024),
        "bytes_per_request": round(float(np.polyfit(requests, used, 1)[0]), 1),
        "flat": abs(last - first) <= max(0.02 * first, 2 * 2**20),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    options = parser.parse_args()
    args = {"engine": "simulated", "engine_options": SIMULATED}
    with private_zipkin() as url, private_graph(args, num_cpus=8, zipkin_url=url, ratio=0.1) as graph:
        readings, requests = soak(graph, options.minutes)
    found = {name: verdict(readings, name) for name in readings[0] if name not in ("s", "requests")}
    for name, figures in found.items():
        print(f"{name:18}", *(f"{key} {value}" for key, value in figures.items()))
    print(f"{requests} requests, {requests / readings[-1]['s']:.1f} a second")
    results.write(
        "soak", {"minutes": options.minutes, "requests": requests, "verdict": found}, raw={"readings": readings}
    )
    growing = [name for name, figures in found.items() if not figures["flat"]]
    print(f"not flat: {', '.join(growing)}" if growing else "memory is flat")
    return int(bool(growing))


if __name__ == "__main__":
    sys.exit(main())
