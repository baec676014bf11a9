"""The packed residual block gives what the plain one gives, in any memory layout."""

import pytest
import torch
from torch import nn

from engines.embedded.blocks import STYLE, ResidualBlock, give_slots
from engines.embedded.packed_residual import DepthwiseUpsampling, PackedResidualBlock
from tests.helpers.packed import PRECISIONS

ROUNDING = {"bfloat16": 0.01, "int8": 0.04}  #: of the result's norm


@pytest.fixture(autouse=True)
def the_same_every_time():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.mark.optional
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("inputs, outputs, upsample", [(48, 48, False), (48, 64, False), (48, 64, True)])
def test_it_gives_what_the_plain_one_gives(inputs, outputs, upsample, fitted, precision):
    block = ResidualBlock(inputs, outputs, upsample)
    deltas = give_slots(block)
    style = torch.randn(2, STYLE + deltas * fitted) * 0.3
    x = torch.randn(2, inputs, 37)
    expected = block(x, style, None)
    packed = PackedResidualBlock(block, precision)
    made = packed(x, style)
    assert made.shape == expected.shape == (2, outputs, 74 if upsample else 37)
    assert 0 < float((made - expected).norm() / expected.norm()) < ROUNDING[precision]
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(packed(turned, style), made)


@pytest.mark.optional
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_does_not_change_its_input(precision):
    block, x = ResidualBlock(32, 32), torch.randn(1, 12, 32).transpose(1, 2)
    before = x.clone()
    PackedResidualBlock(block, precision)(x, torch.randn(1, STYLE))
    assert torch.equal(x, before)


@pytest.mark.optional
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_padded_batch_is_refused(precision):
    block = PackedResidualBlock(ResidualBlock(32, 32), precision)
    with pytest.raises(ValueError, match="not padded"):
        block(torch.randn(2, 32, 8), torch.randn(2, STYLE), torch.ones(2, 1, 8))


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("bias", [True, False])
def test_each_channel_is_upsampled_by_itself(steps, bias):
    plain = nn.ConvTranspose1d(5, 5, 3, 2, 1, output_padding=1, groups=5, bias=bias)
    x = torch.randn(steps, 5)
    torch.testing.assert_close(DepthwiseUpsampling(plain)(x), plain(x.T[None])[0].T)
