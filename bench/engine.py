"""Measure the embedded engine's compute time for a request: the four stages' own work, without the graph.

    python -m bench.engine [--threads 2] [--bf16 auto] [--int8 auto] [--runs 15] [--rounds 1] [--out FILE]

A request is a 16-bit WAV clip of about 5 s and an English sentence that takes about 5 s to say; its real-time factor
is compute time / seconds of speech made. Every request has another text of another length, because real requests hardly
ever repeat one. The texts are the same in every run of this command. The engine makes the clip itself, so nothing has
to be downloaded. All stages run in this process, one after the other. Other work on the machine makes them slower: with
`--rounds` the figures are those of the round with the lowest median, each round with texts of its own. CPU seconds for
a second of speech (`cpu_s_per_s`) suffer less from it.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from bench.measuring.outcome import made
from bench.measuring.texts import sentence
from engines.contract import Mel, Reference, Utterance, Voice, create
from engines.embedded.packed_network import fastest
from engines.embedded.vocoder import has_bf16_instructions
from speech import audio, pcm

WARM_UP = "The first request is slower than any other, and is not counted."
CLIP_SENTENCE = "This clip is only here to be measured. It is as long as the clips that people send, five seconds."
CHOICES: dict[str, bool | Literal["auto"]] = {"auto": "auto", "true": True, "false": False}
OPTIONS = ("bf16", "int8")  #: of the engine
STAGES = ("PREPROCESS_AUDIO", "EXTRACT_SPEAKER", "GENERATE_MEL", "VOCODE_WAV")


class Pipeline:
    """The four stages in one process, with the embedded engine's own options."""

    def __init__(self, threads: int, options: Mapping[str, bool | str] | None = None) -> None:
        self.engine = create("embedded", options)
        self._speaker = self.engine.load_speaker_encoder("cpu", threads)
        self._acoustic = self.engine.load_acoustic_model("cpu", threads)
        self._vocoder = self.engine.load_vocoder("cpu", threads)

    def preprocess(self, upload: bytes) -> Reference:
        clip = audio.decode(upload, seconds=self.engine.capabilities.reference_seconds)
        return self.engine.prepare(clip.samples, clip.rate)

    def extract(self, reference: Reference) -> Voice:
        return made(self._speaker.encode([reference])[0])

    def generate(self, utterance: Utterance, voice: Voice) -> Mel:
        return made(self._acoustic.generate([(utterance, voice)])[0])

    def vocode(self, mel: Mel) -> np.ndarray:
        return made(self._vocoder.vocode([mel])[0])


def sentences(count: int, round_: int = 0) -> list[str]:
    """Return the texts to say, each of another length; the same ones every time for a round's number."""
    chance = random.Random(round_)
    return [sentence(chance) for _ in range(count)]


def measure(threads: int, runs: int, round_: int = 0, options: Mapping[str, bool | str] | None = None) -> dict:
    """Measure the stages' time for `runs` texts, and the real-time factors.

    Returns:
        Medians over the texts, the lowest and highest real-time factor, and `total_ms`, each text's time.
    """
    pipeline = Pipeline(threads, options)
    upload = reference_clip(pipeline)
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    lengths, factors, cpu = [], [], []
    for number, text in enumerate([WARM_UP, *sentences(runs, round_)]):
        utterance = Utterance(text, "en-US")
        found: dict[str, float] = {}
        began = time.process_time()
        reference = _timed(found, "PREPROCESS_AUDIO", pipeline.preprocess, upload)
        voice = _timed(found, "EXTRACT_SPEAKER", pipeline.extract, reference)
        mel = _timed(found, "GENERATE_MEL", pipeline.generate, utterance, voice)
        speech = _timed(found, "VOCODE_WAV", pipeline.vocode, mel)
        spent = time.process_time() - began
        if number == 0:
            continue
        for stage, seconds in found.items():
            times[stage].append(seconds)
        lengths.append(len(speech) / pipeline.engine.capabilities.sample_rate)
        factors.append(sum(found.values()) / lengths[-1])
        cpu.append(spent / lengths[-1])
    totals = [sum(stages) * 1000 for stages in zip(*times.values(), strict=True)]
    return {
        "speech_seconds_p50": round(statistics.median(lengths), 2),
        "runs": runs,
        "stage_ms_p50": {stage: round(statistics.median(values) * 1000, 1) for stage, values in times.items()},
        "total_ms_p50": round(statistics.median(totals), 1),
        "total_ms": [round(one, 1) for one in totals],
        "rtf_p50": round(statistics.median(factors), 3),
        "rtf_min": round(min(factors), 3),
        "rtf_max": round(max(factors), 3),
        "cpu_s_per_s_p50": round(statistics.median(cpu), 3),
        "cpu_s_per_s_min": round(min(cpu), 3),
    }


def _timed(found: dict[str, float], stage: str, work: Callable, *arguments):
    start = time.perf_counter()
    result = work(*arguments)
    found[stage] = time.perf_counter() - start
    return result


def reference_clip(pipeline: Pipeline) -> bytes:
    """Make a reference clip like a user's upload: 16-bit WAV, 24 kHz."""
    voice = Voice({"style_offset": np.zeros(256, np.float32), "log_f0": np.array([4.9], np.float32)})
    speech = pipeline.vocode(pipeline.generate(Utterance(CLIP_SENTENCE, "en-US"), voice))
    return pcm.to_wav(speech, pipeline.engine.capabilities.sample_rate)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    for name in OPTIONS:
        parser.add_argument(f"--{name}", choices=tuple(CHOICES), default="auto")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "engine.json")
    options = parser.parse_args()
    chosen = {name: CHOICES[getattr(options, name)] for name in OPTIONS}
    rounds = [measure(options.threads, options.runs, number, chosen) for number in range(options.rounds)]
    figures = min(rounds, key=lambda one: one["rtf_p50"])
    bf16 = has_bf16_instructions() if chosen["bf16"] == "auto" else chosen["bf16"]
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "threads": options.threads,
        "dtype": f"float32, acoustic model's products {fastest(chosen['bf16'], chosen['int8'])}"
        + ", vocoder's convolutions bfloat16" * bool(bf16),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "rtf_p50_of_rounds": [one["rtf_p50"] for one in rounds],
        **figures,
    }
    for stage in STAGES:
        milliseconds = figures["stage_ms_p50"][stage]
        print(f"{stage:18} {milliseconds:8.1f} ms   {milliseconds / figures['total_ms_p50']:4.0%}")
    print(
        f"{'whole request':18} {figures['total_ms_p50']:8.1f} ms   real-time factor p50 {figures['rtf_p50']} "
        f"({figures['rtf_min']} to {figures['rtf_max']}) on {figures['speech_seconds_p50']} s of speech"
    )
    print(f"CPU seconds for a second of speech: p50 {figures['cpu_s_per_s_p50']}, lowest {figures['cpu_s_per_s_min']}")
    print(f"{result['cpu']}, {options.threads} threads, {result['dtype']}, torch {result['torch']}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
