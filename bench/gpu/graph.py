"""Measure the whole graph with CosyVoice3 on one GPU: `python -m bench.gpu.graph`.

A private Ray head runs `cluster/serve.cosyvoice3.yaml` as it is, with one replica of each stage (audio-service: as many
as its config allows), all on one device, and a checkpoint of random weights in the official sizes. Clients send
requests by HTTP. A request has a clip of 8 to 12 s and a text of 80 to 120 characters, each of another length; random
weights make 7 to 12 s of speech of them. No voice is cached, unless a row is named `known`.

    python -m bench.gpu.graph --out gpu_graph.json
    python -m bench.gpu.graph --mps                          with CUDA's Multi-Process Service
    python -m bench.gpu.graph --tiny --device cpu            the rehearsal

Rows:

- `whole`: so many clients, each of which waits for its file before it sends again. Figures of a stage are the medians
  of its span's duration, of its computing and waiting, and of its batch's size.
- `known`: the same, with voices that the ingress has cached.
- `first`: one stream after the other.
- `listeners`: so many, each of which plays its stream to the end before it asks for the next.

Unlike `python -m bench.gpu` it needs all that the server needs (requirements.txt).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from bench.gpu import front_end
from bench.gpu.report import Report
from bench.measuring import texts
from bench.measuring.load import Sample, closed_loop, multipart, percentile
from bench.measuring.private_graph import PrivateGraph, private_graph
from bench.overhead import STAGES, Traces
from bench.streams import Heard, hear, listen
from cluster.ray_head import ROOT
from engines.cosyvoice3 import random_checkpoint
from engines.cosyvoice3.directory import CAMPPLUS, SPEECH_TOKENIZER
from tracing import vocabulary

CONFIG = ROOT / "cluster" / "serve.cosyvoice3.yaml"
KNOWN = 8  #: voices of the rows `known`
WARM_UP = 6  #: requests before the first row
_STAGE_FIGURES = {
    "compute_ms": "compute_ms",
    "batch": vocabulary.BATCH_SIZE,
    "wait_ms": vocabulary.BATCH_WAIT_MS,
}


class Requests:
    """Random requests, the same for the same seed.

    Args:
        seed: of texts and clips.
        voices: number of clips that come again and again; 0: each request has a new one.
        stream: True: for streams, else for whole files.
        tiny: True: short texts and clips.
    """

    def __init__(self, seed: int, voices: int = 0, stream: bool = False, tiny: bool = False) -> None:
        self._chance = random.Random(seed)
        self._characters, self._seconds = ((10, 20), (3.2, 4.0)) if tiny else ((80, 120), (8.0, 12.0))
        self._clips = [texts.clip(self._chance, *self._seconds) for _ in range(voices)]
        self._more = {"stream_format": "audio", "response_format": "pcm"} if stream else {}

    def request(self, host: str) -> bytes:
        return self._with(
            host, self._chance.choice(self._clips) if self._clips else texts.clip(self._chance, *self._seconds)
        )

    def of_each_voice(self, host: str) -> list[bytes]:
        """Make a request with each of the clips that come again."""
        return [self._with(host, clip) for clip in self._clips]

    def _with(self, host: str, clip: bytes) -> bytes:
        shortest, longest = self._characters
        said = texts.text(self._chance, longest=longest, shortest=shortest).capitalize()
        return multipart(host, {"text": said, "dialect": "en-US", **self._more}, clip)


def write_checkpoint(folder: Path, tiny: bool, seed: int = 0) -> None:
    """Write a checkpoint of random weights whose two ONNX models have the official sizes too."""
    random_checkpoint.make(folder, random_checkpoint.TINY if tiny else random_checkpoint.FULL, seed)
    sizes = front_end.TINY if tiny else front_end.FULL
    front_end.write_tokenizer(folder / SPEECH_TOKENIZER, sizes)
    front_end.write_campplus(folder / CAMPPLUS, sizes)


@contextmanager
def multi_process_service(folder: Path, wanted: bool) -> Iterator[None]:
    """Run CUDA's Multi-Process Service for the processes that are started meanwhile, if it is wanted."""
    if not wanted:
        yield
        return
    own = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "mps"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "mps-log")}
    for path in own.values():
        Path(path).mkdir(parents=True)
    os.environ.update(own)
    try:
        subprocess.run(["nvidia-cuda-mps-control", "-d"], check=True, timeout=20)
        yield
    finally:
        subprocess.run(["nvidia-cuda-mps-control"], input="quit\n", text=True, timeout=20, check=False)
        for name in own:
            del os.environ[name]


class _Device:
    """Keeps what `nvidia-smi` says of the device while a row is measured; nothing where there is no such program."""

    def __enter__(self) -> _Device:
        self.figures: dict[str, float] = {}
        self._process = None
        if shutil.which("nvidia-smi"):
            query = ["--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "250"]
            self._process = subprocess.Popen(["nvidia-smi", *query], stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        self._process.terminate()
        lines = [line.split(",") for line in self._process.communicate(timeout=10)[0].splitlines()]
        pairs = [(float(busy), float(used)) for busy, used in (line for line in lines if len(line) == 2)]
        if pairs:
            self.figures = {
                "busy_percent": statistics.mean(busy for busy, _ in pairs),
                "used_gib": max(used for _, used in pairs) / 1024,
            }


def stages(traces: Sequence[Sequence[dict]]) -> dict[str, dict[str, float]]:
    """Return each stage's medians: ms of its span, and what its tags say.

    >>> span = {"name": "VOCODE_WAV", "duration": 9000, "tags": {"compute_ms": "7.5", "batch.size": "2"}}
    >>> stages([[span]])
    {'VOCODE_WAV': {'ms': 9.0, 'compute_ms': 7.5, 'batch': 2.0}}
    """
    found: dict[str, dict[str, float]] = {}
    for name in STAGES:
        spans = [span for trace in traces for span in trace if span["name"] == name]
        if not spans:
            continue
        found[name] = {"ms": statistics.median(span["duration"] / 1000 for span in spans)}
        for figure, tag in _STAGE_FIGURES.items():
            if values := [float(span["tags"][tag]) for span in spans if tag in span["tags"]]:
                found[name][figure] = statistics.median(values)
    return found


def row_of_files(clients: int, samples: Sequence[Sample], traces: Sequence[Sequence[dict]]) -> dict[str, Any]:
    """Sum up the answers of a closed loop: rates from the first answer on, when all clients are at work."""
    good = [sample for sample in samples if sample.status == 200]
    figures: dict[str, Any] = {"clients": clients, "requests": len(samples)}
    if len(good) < len(samples):
        figures["failed"] = sorted({sample.status for sample in samples if sample.status != 200})
    if len(good) < 2:
        return figures
    seconds = [(sample.size - 44) / 2 / 24_000 for sample in good]
    ends = sorted((sample.answered_ns, said) for sample, said in zip(good, seconds, strict=True))
    took = (ends[-1][0] - ends[0][0]) / 1e9
    return figures | {
        "req_s": (len(good) - 1) / took,
        "speech_s_per_s": sum(said for _, said in ends[1:]) / took,
        "p50_ms": percentile([sample.ms for sample in good], 50),
        "p95_ms": percentile([sample.ms for sample in good], 95),
        "rtf": statistics.median(sample.ms / 1000 / said for sample, said in zip(good, seconds, strict=True)),
        "stages": stages(traces),
    }


def row_of_streams(listeners: int, heard: Sequence[Heard]) -> dict[str, Any]:
    firsts = [1000 * one.first_audio_s for one in heard]
    return {
        "listeners": listeners,
        "streams": len(heard),
        "first_p50_ms": percentile(firsts, 50),
        "first_p95_ms": percentile(firsts, 95),
        "no_gap": sum(one.continuous for one in heard) / len(heard),
        "gaps_p95_ms": percentile([1000 * one.underrun_s for one in heard], 95),
        "speech_s": statistics.median(one.seconds for one in heard),
    }


class _Run:
    def __init__(self, report: Report, options: argparse.Namespace, graph: PrivateGraph) -> None:
        self._report, self._options, self._graph = report, options, graph
        self._traces = Traces(graph.spans)
        self._seed = 0

    def _requests(self, **more: Any) -> Requests:
        self._seed += 1
        return Requests(self._seed, tiny=self._options.tiny, **more)

    def files(self, phase: str, clients: int, voices: int = 0) -> None:
        """Measure a level. The first row's rate tells how many requests take as long as is wanted."""
        last = [row for row in self._report.rows(phase) if "req_s" in row]
        expected = last[-1]["req_s"] * min(2.0, clients / last[-1]["clients"]) if last else 1.5
        count = max(2 * clients, round(expected * self._options.seconds))
        source, port = self._requests(voices=voices), self._graph.port
        if once := source.of_each_voice(f"127.0.0.1:{port}"):
            asyncio.run(closed_loop("127.0.0.1", port, once.__getitem__, clients=4, count=len(once)))
        made = [source.request(f"127.0.0.1:{port}") for _ in range(count)]
        with _Device() as device:
            samples = asyncio.run(
                closed_loop("127.0.0.1", port, made.__getitem__, clients=clients, count=count, timeout_s=120)
            )
        traced = self._traces.of([sample for sample in samples if sample.trace_id])
        self._report.add(phase, **row_of_files(clients, samples, traced), **device.figures)

    def warm_up(self) -> None:
        source, port = self._requests(), self._graph.port
        made = [source.request(f"127.0.0.1:{port}") for _ in range(WARM_UP)]
        began = time.monotonic()
        samples = asyncio.run(closed_loop("127.0.0.1", port, made.__getitem__, clients=2, count=WARM_UP))
        statuses = sorted({sample.status for sample in samples})
        self._report.add("warm_up", took_s=time.monotonic() - began, first_ms=samples[0].ms, statuses=statuses)

    def whole(self) -> None:
        for level in self._options.levels:
            self.files("whole", level)

    def known(self) -> None:
        self.files("known", max(self._options.levels), KNOWN)

    def first(self) -> None:
        source, port = self._requests(stream=True), self._graph.port

        async def one_by_one() -> list[Heard]:
            made = [source.request(f"127.0.0.1:{port}") for _ in range(3 if self._options.tiny else 12)]
            return [await hear(port, request, to_end=False) for request in made]

        self._report.add("first", **row_of_streams(1, asyncio.run(one_by_one())))

    def listeners(self) -> None:
        for level in self._options.listeners:
            with _Device() as device:
                heard = asyncio.run(
                    listen(self._graph.port, level, self._options.listen_s, self._requests(stream=True))
                )
            self._report.add("listeners", **row_of_streams(level, heard), **device.figures)


def _application() -> dict[str, Any]:
    """Return the config's application, as the file has it."""
    application: dict[str, Any] = yaml.safe_load(CONFIG.read_text())["applications"][0]
    return application


def most_replicas(service: str) -> int:
    """Return the most replicas that the config allows a service."""
    [found] = [one for one in _application()["deployments"] if one["name"] == service]
    return int(found["autoscaling_config"]["max_replicas"])


def settings(model_dir: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what is laid over the arguments of the config's application."""
    own = _application()["args"]["engine_options"]
    args: dict[str, Any] = {
        "voice_cache_mb": 64,
        "engine_options": {**own, "model_dir": str(model_dir), "recording_s": options.recording_s},
        "tracing": {"sampling": {"ratio": 1.0}},
    }
    if options.device == "cpu":
        for stage in ("embedding", "tts", "vocoder"):
            args[stage] = {"device": "cpu", "threads": 1}
    if options.tiny:
        args["engine_options"] |= {"lm_rows": 8}
    return args


def main() -> None:
    options = _options()
    kept = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    report = Report(options.out, options.budget, kept)
    with tempfile.TemporaryDirectory(prefix="graph-", dir=options.scratch) as scratch:
        folder = options.model_dir or Path(scratch) / "model"
        began = time.monotonic()
        if options.model_dir is None:
            write_checkpoint(folder, options.tiny)
        written = time.monotonic()
        audio = {"num_replicas": 1 if options.tiny else most_replicas("audio-service")}
        with (
            multi_process_service(Path(scratch), options.mps),
            private_graph(
                settings(folder, options),
                num_cpus=16,
                num_gpus=1,
                config=CONFIG,
                deployments={"audio-service": audio, "tts-service": _batches(options)},
            ) as graph,
        ):
            report.add("start", checkpoint_s=written - began, graph_s=time.monotonic() - written, mps=options.mps)
            try:
                run = _Run(report, options, graph)
                report.run("warm_up", 10, run.warm_up)
                for phase in options.phases:
                    report.run(phase, 10, getattr(run, phase))
            finally:
                if options.logs:
                    _keep_logs(graph, options.logs)
    print(f"{options.out}: {len(report.errors)} of the phases failed or were left out", flush=True)
    raise SystemExit(1 if report.errors else 0)


def _batches(options: argparse.Namespace) -> dict[str, Any]:
    return {"user_config": {"max_batch_size": 8, "batch_wait_ms": 30}} if options.tiny else {}


def _keep_logs(graph: PrivateGraph, folder: Path) -> None:
    """Copy the replicas' logs and the last traces."""
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted((graph.head.logs / "serve").glob("*.log"))
    (folder / "serve.log").write_text(
        "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-40_000:]}" for file in found)
    )
    lines = graph.spans.read_text().splitlines() if graph.spans.exists() else []
    (folder / "spans.jsonl").write_text("\n".join(lines[-400:]) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    phases = ("whole", "known", "first", "listeners")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "gpu_graph.json")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds for all of it; what does not fit is left")
    parser.add_argument("--phases", nargs="+", choices=phases, default=list(phases))
    parser.add_argument("--levels", nargs="+", type=int, default=[1, 4, 8, 16, 32], help="clients at once")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each level, about")
    parser.add_argument("--listeners", nargs="+", type=int, default=[8, 32, 64])
    parser.add_argument("--listen-s", type=float, default=12.0, help="for each number of listeners")
    parser.add_argument("--recording-s", type=float, default=45.0, help="in which a replica may record its shapes")
    parser.add_argument("--mps", action="store_true", help="with CUDA's Multi-Process Service")
    parser.add_argument("--model-dir", type=Path, help="a checkpoint in place of random weights")
    parser.add_argument("--scratch", type=Path, help="where the random checkpoint goes (4.5 GB)")
    parser.add_argument("--logs", type=Path, help="keep the replicas' logs and the last traces in this folder")
    parser.add_argument("--tiny", action="store_true", help="a tiny model and short requests: the rehearsal")
    return parser.parse_args()


if __name__ == "__main__":
    main()
