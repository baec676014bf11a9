"""The differentiable vocoder: the numbers of the plain network, and its gradients, without keeping everything."""

from __future__ import annotations

import numpy as np
import pytest
import soxr
import torch

from engines.embedded import vocoder
from engines.embedded.blocks import STYLE
from engines.embedded.differentiable import DifferentiableVocoder, Resampler
from engines.embedded.istftnet import VocoderNetwork

COLUMNS = 24  # 60 times as many steps are more than the thousand that are computed at a time


@pytest.fixture(scope="module")
def network() -> VocoderNetwork:
    torch.set_num_threads(1)
    return vocoder.load_network()


@pytest.fixture(scope="module")
def member(network) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features, pitch, and a style with deltas."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(512, COLUMNS, generator=generator)
    style = torch.cat(
        [0.1 * torch.randn(STYLE, generator=generator), 0.05 * torch.randn(network.deltas, generator=generator)]
    )
    return features, torch.linspace(110, 140, COLUMNS), style


def plain(network, features, pitch, style):
    forward = VocoderNetwork.forward.__wrapped__  # without inference mode
    return forward(network, features[None], pitch[None], style[None, :STYLE], None, [3], style[None, STYLE:])[0]


def test_it_computes_what_the_plain_network_computes(network, member):
    with torch.no_grad():
        expected, made = plain(network, *member), DifferentiableVocoder(network, bf16=False)(*member, seed=3)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-3)


def test_its_gradients_are_those_of_automatic_differentiation(network, member):
    features, pitch, style = member
    weights = torch.randn(COLUMNS * vocoder.SAMPLES_PER_COLUMN, generator=torch.Generator().manual_seed(1))

    def gradients(speak):
        inputs = [features.clone().requires_grad_(True), style.clone().requires_grad_(True)]
        return torch.autograd.grad((speak(inputs[0], pitch, inputs[1]) * weights).sum(), inputs)

    expected = gradients(lambda *inputs: plain(network, *inputs))
    made = gradients(lambda *inputs: DifferentiableVocoder(network, bf16=False)(*inputs, seed=3))
    for one, other in zip(made, expected, strict=True):
        assert float(torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)) > 0.9999
        assert float(one.norm() / other.norm()) == pytest.approx(1, abs=1e-2)


def test_bfloat16_points_the_same_way(network, member):
    features, pitch, style = member
    directions = []
    for bf16 in (False, True):
        given = style.clone().requires_grad_(True)
        samples = DifferentiableVocoder(network, bf16)(features, pitch, given, seed=3)
        directions.append(torch.autograd.grad(samples.square().mean(), given)[0])
    assert float(torch.nn.functional.cosine_similarity(*directions, dim=0)) > 0.99


def test_the_resampler_agrees_with_soxr():
    time = np.arange(24_000) / 24_000
    samples = sum(np.sin(2 * np.pi * hz * time) for hz in (110, 1_000, 5_000, 6_800)).astype(np.float32) / 8
    expected = soxr.resample(samples, 24_000, 16_000)
    made = Resampler()(torch.from_numpy(samples)).numpy()
    assert made.shape == (16_000,)
    np.testing.assert_allclose(made[200:-200], expected[200:-200], atol=5e-3)


def test_the_resampler_removes_what_would_fold_back():
    samples = np.sin(2 * np.pi * 10_500 * np.arange(24_000) / 24_000).astype(np.float32)
    assert np.abs(Resampler()(torch.from_numpy(samples)).numpy()[200:-200]).max() < 5e-3
