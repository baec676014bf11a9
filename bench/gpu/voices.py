"""Measures a new voice: a clip's features on the CPU, then its speech tokens and embedding on the device."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.gpu.front_end import FULL, TINY, write_campplus, write_tokenizer
from bench.gpu.report import Report
from engines.contract import Reference
from engines.cosyvoice3.directory import CAMPPLUS, SPEECH_TOKENIZER, ModelDirectory
from engines.cosyvoice3.onnx_graph import OnnxGraph
from engines.cosyvoice3.random_checkpoint import describe
from engines.cosyvoice3.voice import CosyVoice3SpeakerEncoder, reference
from speech.errors import SpeechError

_RATE = 24_000
_AT_ONCE = (1, 4)


def measure(report: Report, device: str, tiny: bool, repeats: int = 7) -> None:
    """Report how long clips of about 10 s take, alone and four at a time, each of another length.

    Each round has new lengths, as new voices do: nothing that is planned for a length helps the next round.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        directory = _directory(Path(folder) / "model", tiny)
        written = time.perf_counter()
        encoder = CosyVoice3SpeakerEncoder(directory, device, torch.get_num_threads())
        runners = {
            "tokenizer": encoder._tokenizer.model.runner,
            "campplus": encoder._embedder.model.runner,
        }
        report.add(
            "voice",
            written_s=written - start,
            loaded_s=time.perf_counter() - written,
            **{f"{name}_runs_in": "torch" if _in_torch(each) else "onnxruntime" for name, each in runners.items()},
            tokenizer_pads=runners["tokenizer"].pads,
            campplus_stacks=runners["campplus"].stacks,
        )
        for count in _AT_ONCE:
            _row(report, encoder, count, 3.2 if tiny else 10.0, repeats)


def _directory(folder: Path, tiny: bool) -> ModelDirectory:
    directory, sizes = describe(folder), TINY if tiny else FULL
    write_tokenizer(directory / SPEECH_TOKENIZER, sizes)
    write_campplus(directory / CAMPPLUS, sizes)
    return directory


def _in_torch(runner: object) -> bool:
    return isinstance(getattr(runner, "_graph", None), OnnxGraph)


def _row(report: Report, encoder: CosyVoice3SpeakerEncoder, count: int, seconds: float, repeats: int) -> None:
    dice = np.random.default_rng(count)
    features, encoding = [], []
    for _ in range(repeats + 1):
        clips: list[Reference] = []
        start = time.perf_counter()
        for length in dice.uniform(0.9 * seconds, 1.1 * seconds, count):
            clips.append(reference(dice.normal(0, 0.1, round(length * _RATE)).astype(np.float32), _RATE, None))
        made = time.perf_counter()
        for voice in encoder.encode(clips):
            if isinstance(voice, SpeechError):
                raise voice
        features.append(1000 * (made - start) / count)
        encoding.append(1000 * (time.perf_counter() - made))
    report.add(
        "voice",
        clips=count,
        seconds=seconds,
        features_ms_each=float(np.median(features[1:])),
        encode_p50_ms=float(np.median(encoding[1:])),
        encode_max_ms=max(encoding[1:]),
        first_ms=encoding[0],
    )
