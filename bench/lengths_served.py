"""Memory of each service, and speed, under requests of unseen lengths: `python -m bench.lengths --served`.

The default engine with `cluster/serve.cpu.yaml`, its voice cache included, on a private Ray head. Each request has a
text of another random length (three of four in English, the others in Mandarin and Japanese) and another clip of 3 to
15 s. The deadline is ten minutes, so that other work on the machine fails no request. Every process's memory is read at
the start and then by the number of requests:

- RSS: what it holds, pages included that it shares with others, as torch's libraries. The aims are about this; the sum
  over the services counts such pages several times.
- PSS: the same with each shared page divided among all processes of the machine that share it.

Then ten more texts come three times each: the CPU time that tts-service and vocoder-service take for the first time,
against the faster of the others. CPU time, because other work on the machine would hide a few per cent of wall time.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping

import psutil

from bench import results
from bench.measuring import texts
from bench.measuring.load import closed_loop, multipart
from bench.measuring.private_graph import PrivateGraph, private_graph
from bench.soak import processes_of

AIMS_MB = {"vocoder-service": 1600, "tts-service": 1200, "all services": 4000}
_DIALECTS = ("en-US", "en-US", "en-US", "en-US", "en-US", "en-US", "zh-CN", "ja-JP")
_ARGS = {
    "voice_cache_mb": 64,
    "limits": {"max_in_flight": 64, "max_waiting": 64, "max_wait_s": 10, "deadline_s": 600},
}
_READ_EVERY = 10
_AGAIN = 10
_COMPUTE = ("tts-service", "vocoder-service")
Reading = dict[str, dict[str, int]]  #: service -> rss_mb, pss_mb


def run(requests: int, clients: int, minutes: float) -> None:
    """Measure, print a table, and write bench/results/lengths_served.json after each reading.

    Args:
        requests: how many to send.
        clients: how many are sent at a time.
        minutes: after this time no more are sent, even if there are fewer.
    """
    chance = random.Random(0)
    readings: dict[int, Reading] = {}
    figures = {"requests": 0, "clients": clients, "aims_mb": AIMS_MB, "readings": readings, "new_over_again": None}
    with private_graph(_ARGS, num_cpus=2) as graph:
        processes = processes_of(graph)
        readings[0] = read(processes)
        _show(readings, 0)
        done, end = 0, time.monotonic() + 60 * minutes
        while done < requests and time.monotonic() < end:
            count = min(1 if not done else _READ_EVERY - done % _READ_EVERY, requests - done)
            _send(graph, chance, count, clients)
            done += count
            readings[done] = read(processes)
            figures["requests"] = done
            _show(readings, done)
            results.write("lengths_served", figures)
        figures["new_over_again"] = new_over_again(graph, processes, chance)
    print("a new text against a known one, CPU time:", figures["new_over_again"])
    print(results.write("lengths_served", figures))


def read(processes: Mapping[str, psutil.Process]) -> Reading:
    """Read the memory of all processes, in megabytes of 10^6 bytes; `all services` is without Serve's proxy."""
    found: Reading = {}
    for name, process in sorted(processes.items()):
        memory = process.memory_full_info()
        found[name] = {"rss_mb": round(memory.rss / 1e6), "pss_mb": round(memory.pss / 1e6)}
    services = [row for name, row in found.items() if name != "proxy"]
    found["all services"] = {key: sum(row[key] for row in services) for key in ("rss_mb", "pss_mb")}
    return found


def new_over_again(graph: PrivateGraph, processes: Mapping[str, psutil.Process], chance: random.Random) -> dict:
    """Send ten new texts three times each and compare the CPU time of the first with the faster of the others.

    Returns:
        By service: the ratio of the sums, and the median of the ten ratios.
    """
    first: dict[str, list[float]] = {service: [] for service in _COMPUTE}
    again: dict[str, list[float]] = {service: [] for service in _COMPUTE}
    for _ in range(_AGAIN):
        request = _request(graph, chance)
        times = []
        for _ in range(3):
            before = {service: _cpu_s(processes[service]) for service in _COMPUTE}
            _answered(graph, request, 1, 1)
            times.append({service: _cpu_s(processes[service]) - before[service] for service in _COMPUTE})
        for service in _COMPUTE:
            first[service].append(times[0][service])
            again[service].append(min(one[service] for one in times[1:]))
    return {
        service: {
            "sum": round(sum(first[service]) / sum(again[service]), 3),
            "median": round(
                statistics.median(one / other for one, other in zip(first[service], again[service], strict=True)), 3
            ),
        }
        for service in _COMPUTE
    }


def _send(graph: PrivateGraph, chance: random.Random, count: int, clients: int) -> None:
    made = [_request(graph, chance) for _ in range(count)]
    _answered(graph, made, count, clients)


def _request(graph: PrivateGraph, chance: random.Random) -> bytes:
    dialect = chance.choice(_DIALECTS)
    fields = {"text": texts.text(chance, dialect), "dialect": dialect}
    return multipart(f"127.0.0.1:{graph.port}", fields, texts.clip(chance))


def _answered(graph: PrivateGraph, request: bytes | list[bytes], count: int, clients: int) -> None:
    """Send requests and wait for the answers. Raises RuntimeError if one failed."""
    made = request if isinstance(request, bytes) else request.__getitem__
    samples = asyncio.run(
        closed_loop("127.0.0.1", graph.port, made, clients=clients, count=count, timeout_s=600.0 * count)
    )
    if failed := [sample.status for sample in samples if sample.status != 200]:
        raise RuntimeError(f"{len(failed)} of {count} requests failed: {sorted(set(failed))}")


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _show(readings: Mapping[int, Reading], number: int) -> None:
    if number == 0:
        print(f"{'requests':>8}", *(f"{name:>18}" for name in readings[0]), "   (RSS / PSS, MB)")
    print(f"{number:8}", *(f"{row['rss_mb']:>9} / {row['pss_mb']:>6}" for row in readings[number].values()), flush=True)
