"""Measure what a running fit costs the requests beside it: `python -m bench.fitting_served`.

The embedded engine with `cluster/serve.cpu.yaml` on a private Ray head, voices stored in a folder. Clients send
requests in a closed loop, each with a clip and a text; windows with and without a fit under way come in turn, and every
window has the same texts. For a window with fits, voices are stored, and a fit is waited for until it makes steps;
afterwards the voices are deleted, which ends their fits. The loss of a pair is 1 - throughput with / throughput
without, and p95 with / p95 without - 1. `steps` are those that the fits made in a window; `to_the_end` tells that one
was still under way at its end. `fitting_rss_mb` is the most memory that fitting-service's process had in a window.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

import httpx
import numpy as np
import psutil
import soundfile

from bench import engine as in_process
from bench import results
from bench.measuring.load import closed_loop, multipart, percentile
from bench.measuring.private_graph import private_graph
from bench.soak import processes_of

SETTLE_S = 5.0
VOICES = 3  #: stored for a window: when the first one's fit ends, the next one's begins


class Voices:
    """The stored voices of the graph, over HTTP."""

    def __init__(self, port: int, clip: bytes) -> None:
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)
        self._clip, self._rate = soundfile.read(io.BytesIO(clip), dtype="float32")
        self._made = 0

    def begin_fits(self) -> list[str]:
        """Store voices that were not stored before, and return their names once the first one's fit makes steps."""
        names = [self._store() for _ in range(VOICES)]
        while not self.steps(names):
            time.sleep(0.5)
        return names

    def _store(self) -> str:
        self._made += 1
        name, file = f"voice{self._made}", io.BytesIO()
        noise = np.random.default_rng(self._made).normal(0, 1e-4, len(self._clip)).astype(np.float32)
        soundfile.write(file, self._clip + noise, self._rate, format="WAV")
        answer = self._http.post(
            "/v1/audio/voices",
            data={"name": name, "dialect": "en-US", "consent": "made by the engine itself"},
            files={"audio_sample": ("clip.wav", file.getvalue())},
        )
        answer.raise_for_status()
        return name

    def steps(self, names: list[str]) -> int:
        """Return the steps that the fits of these voices have made."""
        return sum(fit["step"] for fit in self._fits(names))

    def are_running(self, names: list[str]) -> bool:
        """Tell whether a fit of these voices is still under way."""
        return any(fit["state"] in ("queued", "running") for fit in self._fits(names))

    def _fits(self, names: list[str]) -> list[dict]:
        return [voice["fit"] for voice in self._http.get("/v1/audio/voices").json()["data"] if voice["name"] in names]

    def end(self, names: list[str]) -> None:
        """Delete the voices, which ends their fits."""
        for name in names:
            self._http.delete(f"/v1/audio/voices/{name}").raise_for_status()
        time.sleep(SETTLE_S)  # the step under way ends


class Largest:
    """A context in which the memory of a process is read, twice a second.

    Args:
        process: to read, if there is one.
    """

    def __init__(self, process: psutil.Process | None) -> None:
        self._process = process
        self._end = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self.rss = 0  #: the largest one, in bytes

    def __enter__(self) -> Largest:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._reader.join()

    def _read(self) -> None:
        while self._process is not None:
            self.rss = max(self.rss, self._process.memory_info().rss)
            if self._end.wait(0.5):
                return


def window(port: int, request: Callable[[int], bytes], clients: int, count: int) -> dict:
    """Send requests in a closed loop and return throughput and latencies."""
    began = time.perf_counter()
    samples = asyncio.run(closed_loop("127.0.0.1", port, request, clients=clients, count=count, timeout_s=60.0 * count))
    seconds = time.perf_counter() - began
    ms = [sample.ms for sample in samples]
    return {
        "statuses": sorted({sample.status for sample in samples}),
        "requests_per_s": round(count / seconds, 3),
        "p50_ms": round(percentile(ms, 50)),
        "p95_ms": round(percentile(ms, 95)),
    }


def measure(clients: int, count: int, pairs: int, nice: int) -> dict:
    clip = in_process.reference_clip(in_process.Pipeline(1))
    texts = in_process.sentences(count, 0)
    found = []
    with tempfile.TemporaryDirectory(prefix="voices-") as folder:
        with private_graph({"voices": {"url": folder}, "fitting": {"nice": nice}}, num_cpus=2) as graph:
            requests = [
                multipart(f"127.0.0.1:{graph.port}", {"text": text, "dialect": "en-US"}, clip) for text in texts
            ]
            window(graph.port, requests.__getitem__, clients, count)  # warms up
            voices = Voices(graph.port, clip)
            for number in range(pairs):
                pair: dict[str, dict] = {}
                for fitting in (False, True) if number % 2 else (True, False):
                    names = voices.begin_fits() if fitting else []
                    before = voices.steps(names) if fitting else 0
                    service = processes_of(graph).get("fitting-service")
                    with Largest(service) as largest:
                        one = window(graph.port, requests.__getitem__, clients, count)
                    if fitting:
                        one["fitting_rss_mb"] = round(largest.rss / 1e6)
                        one |= {"steps": voices.steps(names) - before, "to_the_end": voices.are_running(names)}
                        voices.end(names)
                    pair["with" if fitting else "without"] = one
                found.append(pair)
                print(pair, flush=True)
    throughput = [1 - pair["with"]["requests_per_s"] / pair["without"]["requests_per_s"] for pair in found]
    p95 = [pair["with"]["p95_ms"] / pair["without"]["p95_ms"] - 1 for pair in found]
    return {
        "clients": clients,
        "requests_of_a_window": count,
        "nice": nice,
        "pairs": found,
        "throughput_lost": round(statistics.median(throughput), 3),
        "throughput_lost_each": [round(one, 3) for one in throughput],
        "p95_lost": round(statistics.median(p95), 3),
        "p95_lost_each": [round(one, 3) for one in p95],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=24, help="of a window")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--nice", type=int, default=19, help="of the thread that fits")
    options = parser.parse_args()
    figures = measure(options.clients, options.requests, options.pairs, options.nice)
    print({name: value for name, value in figures.items() if name != "pairs"})
    results.write("fitting_served", figures)


if __name__ == "__main__":
    main()
