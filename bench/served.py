"""Compare a whole request through the graph with the same engine in one process: `python -m bench.served`.

The embedded engine with `cluster/serve.cpu.yaml` on a private Ray head; a clip of about 5 s and a sentence of about
5 s, one request at a time. Each request has another text of another length; both sides get the same texts in the same
order. The real-time factor is the time a client waits / seconds of speech it gets. The ratio is the median over the
texts of the time through the graph / the time in one process. `--rounds` measures both sides in turn, each round with
texts of its own, and takes the median over the rounds: other work on the machine slows one side or the other.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics

from bench import engine as in_process
from bench import results
from bench.measuring.load import closed_loop, multipart, percentile
from bench.measuring.private_graph import private_graph
from bench.overhead import Traces, computed_ms

THREADS = 2  #: as tts and vocoder have in the config


def serve_and_measure(clip: bytes, count: int, round_: int) -> dict:
    """Send `count` requests of a round's texts to a graph of their own, after two that warm it up."""
    with private_graph({}, num_cpus=2) as graph:
        requests = [
            multipart(f"127.0.0.1:{graph.port}", {"text": text, "dialect": "en-US"}, clip)
            for text in [in_process.WARM_UP] * 2 + in_process.sentences(count, round_)
        ]
        samples = asyncio.run(
            closed_loop(
                "127.0.0.1", graph.port, requests.__getitem__, clients=1, count=len(requests), timeout_s=60.0 * count
            )
        )[2:]
        traces = Traces(graph.spans).of(samples)
    seconds = [(sample.size - 44) / 2 / 24_000 for sample in samples]
    return {
        "requests": count,
        "statuses": sorted({sample.status for sample in samples}),
        "speech_s_p50": round(statistics.median(seconds), 2),
        "request_p50_ms": round(percentile([sample.ms for sample in samples], 50), 1),
        "request_ms": [round(sample.ms, 1) for sample in samples],
        "compute_p50_ms": round(statistics.median(map(computed_ms, traces)), 1),
        "rtf_p50": round(
            statistics.median(sample.ms / 1000 / said for sample, said in zip(samples, seconds, strict=True)), 3
        ),
        "stages_p50_ms": {
            name: round(
                statistics.median(
                    float(span["tags"]["compute_ms"]) for trace in traces for span in trace if span["name"] == name
                ),
                1,
            )
            for name in ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")
        },
    }


def compare(alone: dict, served: dict) -> float:
    """Return the median over the texts of the time through the graph / the time in one process."""
    pairs = zip(served["request_ms"], alone["total_ms"], strict=True)
    return round(statistics.median(one / other for one, other in pairs), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    clip = in_process.reference_clip(in_process.Pipeline(THREADS))
    alone, served, ratios = [], [], []
    for number in range(options.rounds):
        alone.append(in_process.measure(THREADS, options.requests, number))
        print(f"in one process: {alone[-1]}", flush=True)
        served.append(serve_and_measure(clip, options.requests, number))
        print(f"through the graph: {served[-1]}", flush=True)
        ratios.append(compare(alone[-1], served[-1]))
    ratio = round(statistics.median(ratios), 3)
    print(f"through the graph / in one process: {ratio} {ratios}")
    figures = {"rounds": options.rounds, "in_process": alone, "graph": served, "ratios": ratios, "ratio": ratio}
    results.write("served", figures)


if __name__ == "__main__":
    main()
