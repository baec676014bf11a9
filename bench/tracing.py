"""Measure the cost of tracing, piece by piece, in this process alone.

    python -m bench.tracing [--json FILE]

A request's trace here is like the graph's: a root, four stages with about nine tags each, one engine phase.
Figures are CPU microseconds of the calling thread, the median of many rounds, with the 95th percentile beside it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import tempfile
import time
from pathlib import Path

from tracing import Exporter, ExportSettings, FinishedSpan, Tracer, encode, extract, vocabulary
from tracing.otlp_encoding import OtlpEncoder
from tracing.redaction import Redaction
from tracing.sampling import FinishedTrace, Sampler, SamplingSettings

HEADERS = [
    ("host", "localhost"),
    ("user-agent", "bench"),
    ("accept", "*/*"),
    ("content-type", "multipart/form-data"),
    ("content-length", "300000"),
    ("b3", "463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"),
]
STAGE_TAGS = {
    vocabulary.STAGE: vocabulary.GENERATE_MEL,
    vocabulary.MODEL_NAME: "kokoro-82m",
    vocabulary.QUEUE_WAIT_MS: 1.234,
    vocabulary.BATCH_ID: "0123456789abcdef",
    vocabulary.BATCH_SIZE: 3,
    vocabulary.BATCH_WAIT_MS: 12.5,
    vocabulary.COMPUTE_MS: 345.678,
    vocabulary.DEVICE: "cpu",
}
ROOT_TAGS = {
    vocabulary.HTTP_METHOD: "POST",
    vocabulary.HTTP_ROUTE: "/api/generate",
    vocabulary.REQUEST_DIALECT: "mandarin",
    vocabulary.REQUEST_LANGUAGE: "zh",
    vocabulary.REQUEST_MODE: "fast",
    vocabulary.TEXT_LENGTH: 42,
    vocabulary.AUDIO_SAMPLE_RATE: 24000,
    vocabulary.AUDIO_DURATION: 5.25,
    vocabulary.HTTP_STATUS_CODE: 200,
}


class Nowhere:
    """A receiver that takes all spans at once."""

    name = "nowhere"

    def send(self, traces) -> None:
        pass

    def close(self) -> None:
        pass


def stage_span(tracer: Tracer, name: str, carrier) -> list[FinishedSpan]:
    span = tracer.server(name, parent=carrier)
    span.tags(STAGE_TAGS)
    span.annotate(vocabulary.DEQUEUED)
    return span.end()


def whole_trace(api: Tracer, stages: dict[str, Tracer]) -> list[FinishedSpan]:
    """Make the six spans of a plain request over all its replicas."""
    root = api.server("POST /api/generate", parent=None)
    spans = []
    for name, tracer in stages.items():
        spans += stage_span(tracer, name, root.call_context(root.start_ns + 60 * 10**9))
    root.add_child("LM_DECODE", root.start_ns, root.start_ns + 5_000_000)
    root.tags(ROOT_TAGS)
    return root.end() + spans


def cost(work, rounds: int) -> dict[str, float]:
    """Measure the CPU µs of a call of `work`."""
    for _ in range(rounds // 10 + 1):
        work()
    took = []
    for _ in range(rounds):
        begin = time.thread_time_ns()
        work()
        took.append((time.thread_time_ns() - begin) / 1000)
    took.sort()
    return {"median_us": round(statistics.median(took), 1), "p95_us": round(took[int(0.95 * len(took))], 1)}


def measure(rounds: int) -> dict[str, dict[str, float]]:
    api = Tracer(vocabulary.INGRESS, instance="replica1")
    stages = {name: Tracer(vocabulary.STAGE_SERVICE[name], instance="replica1") for name in vocabulary.STAGES}
    carrier = api.server("root", parent=None).call_context(2**62)
    records = whole_trace(api, stages)
    trace = encode(records)
    redaction, sampler = Redaction(), Sampler(SamplingSettings(ratio=0.1))
    results = {
        "headers: extract": cost(lambda: extract(HEADERS), rounds),
        "span: create, 9 tags, finish": cost(
            lambda: stage_span(stages[vocabulary.GENERATE_MEL], vocabulary.GENERATE_MEL, carrier), rounds
        ),
        "trace: all six spans": cost(lambda: whole_trace(api, stages), rounds),
        "trace: sampling decision": cost(lambda: sampler.decide(FinishedTrace.from_spans(records)), rounds),
        "trace: encoding": cost(lambda: encode(records), rounds),
        "trace: redaction": cost(lambda: redaction.redact(trace), rounds),
    }
    with tempfile.TemporaryDirectory() as folder:
        exporter = Exporter(ExportSettings(spool_dir=Path(folder)), transport=Nowhere())
        results["trace: submit (redaction, JSON, spool file)"] = cost(lambda: exporter.submit(trace), rounds)
        begin = time.perf_counter_ns()
        for _ in range(rounds):
            exporter.submit(trace)
        wall = (time.perf_counter_ns() - begin) / rounds / 1000
        exporter.close(10)
        results["trace: submit, wall time back to back, sender running"] = {"median_us": round(wall, 1)}
    body = json.dumps(redaction.redact(trace)[0], separators=(",", ":")).encode()
    results["trace: bytes of JSON"] = {"bytes": len(body)}
    encoder = OtlpEncoder()
    hundred = [
        json.dumps(redaction.redact(encode(whole_trace(api, stages)))[0], separators=(",", ":")).encode()
        for _ in range(100)
    ]
    of_batch = cost(lambda: encoder.encode(hundred), max(20, rounds // 100))
    results["trace: OTLP, encoded by the sender, in batches of 100"] = {
        name: round(figure / 100, 1) for name, figure in of_batch.items()
    }
    results["trace: bytes of OTLP, in batches of 100"] = {"bytes": round(len(encoder.encode(hundred)) / 100)}
    results["trace: bytes of OTLP gzipped, in batches of 100"] = {
        "bytes": round(len(gzip.compress(encoder.encode(hundred), 1)) / 100)
    }
    results["trace: bytes gzipped, in batches of 100"] = {
        "bytes": round(
            len(
                gzip.compress(
                    b",".join(
                        json.dumps(
                            redaction.redact(encode(whole_trace(api, stages)))[0], separators=(",", ":")
                        ).encode()
                        for _ in range(100)
                    ),
                    1,
                )
            )
            / 100
        )
    }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3000)
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    results = measure(arguments.rounds)
    for name, figures in results.items():
        print(f"{name:<56}", "  ".join(f"{key} {value:g}" for key, value in figures.items()))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
