"""Makes the engine's models with random weights, on the device, in a few seconds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast
from unittest.mock import patch

import torch

from bench.gpu.requests import Lengths, RandomPlanner
from engines.cosyvoice3 import flow, hift, speech_lm
from engines.cosyvoice3.acoustic import CosyVoice3AcousticModel
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.flow import Flow
from engines.cosyvoice3.flow_batches import Limits
from engines.cosyvoice3.hift import Hift
from engines.cosyvoice3.plan import Planner
from engines.cosyvoice3.random_checkpoint import FULL, TINY, describe, drawn
from engines.cosyvoice3.speech_lm import SpeechLm
from engines.cosyvoice3.vocoder import CosyVoice3Vocoder


class Networks:
    """Three networks of one size on one device.

    Args:
        full: the official sizes; else tiny ones.
        dtype: of language model and flow.
    """

    def __init__(self, full: bool, device: str, dtype: torch.dtype, seed: int = 0) -> None:
        self.device, self.dtype = device, dtype
        with tempfile.TemporaryDirectory() as folder:
            directory = describe(Path(folder) / "sizes", FULL if full else TINY)
            self.numbers, _ = directory.numbers, directory.qwen  # read while the files exist, and kept
            self.directory: ModelDirectory = directory
            self.lm: SpeechLm = drawn(speech_lm.stored(directory), device, seed).to(dtype)
            self.flow: Flow = drawn(flow.stored(directory), device, seed).to(dtype)
            self.hift: Hift = drawn(hift.stored(directory), device, seed)

    def planner(self, lengths: Lengths) -> RandomPlanner:
        return RandomPlanner(lengths, self.numbers.llm.sampling, self.lm.body.size.vocabulary, self.lm.speech_tokens)

    def acoustic(self, lengths: Lengths, rows: int, recording_s: float) -> CosyVoice3AcousticModel:
        """Make the acoustic model of a tts-service replica: on a CPU flow rows go one by one.

        It records the shapes that requests of these lengths can take, for `recording_s` at most.
        """
        limits = Limits(rows=1) if self.device == "cpu" else Limits()
        planner = self.planner(lengths)
        return CosyVoice3AcousticModel(
            self.lm,
            self.flow,
            cast(Planner, planner),
            rows=rows,
            positions=lengths.positions,
            limits=limits,
            longest=lengths.frames(lengths.clip + lengths.speech),
            recording_s=recording_s,
        )

    def vocoder(self, lengths: Lengths, recording_s: float, tf32: bool = False) -> CosyVoice3Vocoder:
        """Make the vocoder of a vocoder-service replica; lengths and time are those of `acoustic`."""
        with patch.object(hift, "load", lambda *_: self.hift):
            return CosyVoice3Vocoder(
                self.directory,
                self.device,
                torch.get_num_threads(),
                tf32=tf32,
                longest=lengths.frames(lengths.speech),
                recording_s=recording_s,
            )
