"""Shared by the tests of the CosyVoice3 engine: checkpoints to run, and where what the official code computed lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.cosyvoice3.directory import ModelDirectory
from engines.cosyvoice3.random_checkpoint import make

SHARED = Path(__file__).resolve().parents[3] / "shared"
GOLDEN = SHARED / "golden" / "cosyvoice3-tiny"
CLIP = SHARED / "clips" / "zh_female_prompt.wav"
TRANSCRIPT, TEXT = "希望你以后能够做的比我还好呦。", "八百标兵奔北坡，北坡炮兵并排跑。"


def as_official(otherwise: float) -> float:
    """How near an array must be to the official one: 1e-5 where the CPU adds up as the one that made the arrays.

    Those were made on an Intel CPU with AVX-512. Others take other kernels for matrix products and Fourier transforms
    (an AMD CPU does so even where it has AVX-512), which add up in another order; there it is `otherwise`.
    """
    cpu = Path("/proc/cpuinfo")
    intel = cpu.is_file() and "GenuineIntel" in cpu.read_text(encoding="utf-8", errors="replace")
    return 1e-5 if intel and torch.backends.cpu.get_cpu_capability().startswith("AVX512") else otherwise


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
