"""Measure a listener's wait for the first sound of a streamed text: `python -m bench.first_audio`.

The embedded engine with `cluster/serve.cpu.yaml` on a private Ray head; a clip of about 5 s and four sentences of about
the same length, one request at a time, a stream (`stream_format=audio`, wav) and a whole file in turn, so that a
machine that slows down slows both. The figure is the median time to the first byte behind the WAV header / the median
time of the whole file. Each turn asks for a slightly different speed: a length that was never vocoded before takes
longer, and real requests hardly ever repeat one. Exits with 1 if the target is missed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass

import httpx
import torch

from bench import engine as in_process
from bench import results
from bench.measuring.private_graph import private_graph

SENTENCES = (
    "They walked along the quiet harbour every night.",
    "The old lighthouse sent its beam across the sea.",
    "A fisherman mended his nets beside the red boat.",
    "Nobody wanted to go home before the rain began.",
)
TEXT = " ".join(SENTENCES)
TARGET = 0.45
WAV_HEADER, BYTES_PER_S = 44, 2 * 24_000
WARM_UP = 3


@dataclass(frozen=True)
class Heard:
    first_ms: float  #: time to the first byte of audio
    whole_ms: float
    seconds: float  #: seconds of speech


class Listener:
    """A client that sends the same clip and text over one connection."""

    def __init__(self, port: int, clip: bytes) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)
        self._clip = clip

    def hear(self, speed: float, **fields: str) -> Heard:
        """Send a request and read its audio. Raises httpx.HTTPStatusError if the answer is not 200."""
        body = {"text": TEXT, "dialect": "en-US", "speed": f"{speed:.3f}"} | fields
        sent, size, first = time.perf_counter(), 0, 0.0
        with self._client.stream(
            "POST", "/api/generate", data=body, files={"prompt_audio": ("clip.wav", self._clip)}
        ) as answer:
            answer.raise_for_status()
            for chunk in answer.iter_raw():
                size += len(chunk)
                if size > WAV_HEADER and not first:
                    first = time.perf_counter()
        end = time.perf_counter()
        return Heard((first - sent) * 1000, (end - sent) * 1000, (size - WAV_HEADER) / BYTES_PER_S)


def measure(listener: Listener, turns: int) -> tuple[list[Heard], list[Heard]]:
    """Measure (streamed, whole), one of each a turn; their order changes from turn to turn."""
    streamed: list[Heard] = []
    whole: list[Heard] = []
    for turn in range(-WARM_UP, turns):
        speed = 1 + 0.004 * turn
        for stream in (True, False) if turn % 2 else (False, True):
            heard = listener.hear(speed, **({"stream_format": "audio"} if stream else {}))
            if turn >= 0:
                (streamed if stream else whole).append(heard)
    return streamed, whole


def summary(streamed: list[Heard], whole: list[Heard]) -> dict:
    def median(times) -> float:
        return round(statistics.median(times), 1)

    turns = [one.first_ms / other.whole_ms for one, other in zip(streamed, whole, strict=True)]
    first, all_of_it = median(one.first_ms for one in streamed), median(one.whole_ms for one in whole)
    return {
        "characters": len(TEXT),
        "turns": len(turns),
        "speech_s": round(whole[0].seconds, 2),
        "first_audio_p50_ms": first,
        "whole_p50_ms": all_of_it,
        "stream_p50_ms": median(one.whole_ms for one in streamed),
        "ratio": round(first / all_of_it, 3),
        "ratio_of_turns": {"best": round(min(turns), 3), "worst": round(max(turns), 3)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    options = parser.parse_args()
    clip = in_process.reference_clip(in_process.Pipeline(2))
    with private_graph({}, num_cpus=2) as graph:
        found = summary(*measure(Listener(graph.port, clip), options.turns))
    for name, value in found.items():
        print(f"{name:20} {value}")
    print(f"target: at most {TARGET:.0%} of the whole time" + ("" if found["ratio"] <= TARGET else "   MISSED"))
    results.write("first_audio", {"instructions": torch.backends.cpu.get_cpu_capability(), "target": TARGET, **found})
    return int(found["ratio"] > TARGET)


if __name__ == "__main__":
    sys.exit(main())
