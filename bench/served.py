"""Compare a whole request through the graph with the same engine in one process: `python -m bench.served`.

The embedded engine with `cluster/serve.cpu.yaml` on a private Ray head; a clip of about 5 s and a sentence of about
5 s, one request at a time. The real-time factor is the time a client waits / seconds of speech it gets.
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


def serve_and_measure(clip: bytes, count: int) -> dict:
    with private_graph({}, num_cpus=2) as graph:
        request = multipart(f"127.0.0.1:{graph.port}", {"text": in_process.SENTENCE, "dialect": "en-US"}, clip)
        asyncio.run(closed_loop("127.0.0.1", graph.port, request, clients=1, count=3))
        samples = asyncio.run(closed_loop("127.0.0.1", graph.port, request, clients=1, count=count))
        traces = Traces(graph.spans).of(samples)
    seconds = (samples[0].size - 44) / 2 / 24_000
    return {
        "requests": count,
        "statuses": sorted({sample.status for sample in samples}),
        "speech_s": round(seconds, 2),
        "request_p50_ms": round(percentile([sample.ms for sample in samples], 50), 1),
        "compute_p50_ms": round(statistics.median(map(computed_ms, traces)), 1),
        "rtf_p50": round(percentile([sample.ms for sample in samples], 50) / 1000 / seconds, 3),
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=15)
    options = parser.parse_args()
    alone = in_process.measure(THREADS, "auto", options.requests)
    clip = in_process.reference_clip(in_process.Pipeline(THREADS, "auto"))
    print(f"in one process: {alone}")
    served = serve_and_measure(clip, options.requests)
    print(f"through the graph: {served}")
    ratio = round(served["request_p50_ms"] / alone["total_ms_p50"], 3)
    print(f"through the graph / in one process: {ratio}")
    results.write("served", {"in_process": alone, "graph": served, "ratio": ratio})


if __name__ == "__main__":
    main()
