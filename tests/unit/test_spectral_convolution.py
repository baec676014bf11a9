"""The convolution through short Fourier transforms: the numbers of a direct one, for every kernel and length."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from engines.embedded.spectral_convolution import SpectralConvolution


@pytest.mark.parametrize("kernel", [1, 3, 7, 11, 31])
@pytest.mark.parametrize("dilation", [1, 3, 5])
@pytest.mark.parametrize("steps", [1, 22, 127, 1000, 9000])  # the last in several portions
def test_it_computes_what_a_direct_convolution_computes(kernel, dilation, steps):
    generator = torch.Generator().manual_seed(kernel + steps)
    weight = torch.randn(6, 4, kernel, generator=generator)
    x = torch.randn(steps, 4, generator=generator)
    bias = torch.randn(6, generator=generator)
    expected = F.conv1d(x.T[None], weight, bias, padding=dilation * (kernel // 2), dilation=dilation)[0].T
    torch.testing.assert_close(SpectralConvolution(weight, bias, dilation)(x), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "dilation", "steps"), [(1, 1, 5), (3, 3, 50), (7, 1, 127), (11, 5, 1000), (31, 1, 99)]
)
def test_its_way_back_is_the_gradient_of_a_direct_convolution(kernel, dilation, steps):
    generator = torch.Generator().manual_seed(kernel)
    weight = torch.randn(6, 4, kernel, generator=generator)
    x = torch.randn(steps, 4, generator=generator, requires_grad=True)
    gradient = torch.randn(steps, 6, generator=generator)
    made = F.conv1d(x.T[None], weight, padding=dilation * (kernel // 2), dilation=dilation)[0].T
    (expected,) = torch.autograd.grad(made, x, gradient)
    turned = SpectralConvolution(weight, torch.ones(6), dilation).turned()
    torch.testing.assert_close(turned(gradient), expected, atol=1e-4, rtol=1e-4)


def test_its_input_stays_as_it_is():
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    SpectralConvolution(torch.ones(4, 4, 7), None, 3)(x)
    torch.testing.assert_close(x, before, atol=0, rtol=0)
