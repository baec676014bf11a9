"""Shared by the tests of the CosyVoice3 engine: checkpoints to run, and where what the official code computed lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.contract import Voice
from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.random_checkpoint import make

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden" / "cosyvoice3-tiny"
CLIP = SHARED / "clips" / "zh_female_prompt.wav"
TRANSCRIPT, TEXT = "希望你以后能够做的比我还好呦。", "八百标兵奔北坡，北坡炮兵并排跑。"


def golden_directory() -> ModelDirectory:
    if not GOLDEN.is_dir():
        pytest.skip("no ../shared/golden/cosyvoice3-tiny: what the official code computed lies beside the repository")
    return ModelDirectory(GOLDEN)


def golden(name: str = "golden.npz") -> dict[str, np.ndarray]:
    with np.load(golden_directory() / name) as arrays:
        return dict(arrays)


def distance(one, other) -> float:
    """The largest difference; arrays of different shape are infinitely far apart."""
    one, other = np.asarray(one), np.asarray(other)
    return float(np.abs(one - other).max(initial=0)) if one.shape == other.shape else float("inf")


@pytest.fixture(scope="session", name="tiny")
def tiny_checkpoint(tmp_path_factory) -> ModelDirectory:
    """A checkpoint of random weights, made by the script."""
    torch.set_num_threads(1)
    return make(tmp_path_factory.mktemp("checkpoint") / "tiny")


def random_voice(clip: int, seed: int) -> Voice:
    """Return a voice of random arrays, from a clip of so many speech tokens."""
    dice = np.random.default_rng(seed)
    return Voice(
        {
            "speech_tokens": dice.integers(0, 6561, clip).astype(np.int32),
            "prompt_mel": dice.standard_normal((2 * clip, 80)).astype(np.float32),
            "embedding": dice.standard_normal(192).astype(np.float32),
        }
    )
