"""The direct convolution: torch's numbers with packed weights and without, in tiles that cover little more."""

import pytest
import torch
from torch.nn import functional as F

from engines.embedded import direct_convolution
from engines.embedded.direct_convolution import TILES, DirectConvolution

CHANNELS = 32


def made(kernel: int, dilation: int, dtype: torch.dtype = torch.float32) -> tuple[DirectConvolution, torch.Tensor]:
    """A convolution, and what it makes of a tile."""
    generator = torch.Generator().manual_seed(kernel)
    weight = torch.randn(CHANNELS, CHANNELS, 1, kernel, generator=generator).to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias = torch.randn(CHANNELS, generator=generator).to(dtype)
    convolution = DirectConvolution(weight, bias, dilation)
    x = torch.randn(TILES[-1] + 2 * convolution.halo, CHANNELS, generator=generator).to(dtype)
    with torch.inference_mode():
        found = convolution.inner(x)
    torch.testing.assert_close(found, F.conv1d(x.T[None], weight[:, :, 0], bias, dilation=dilation)[0].T)
    return convolution, found


@pytest.mark.parametrize("kernel", [3, 11])
@pytest.mark.parametrize("dilation", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_change_no_number(kernel, dilation, dtype, monkeypatch):
    here = made(kernel, dilation, dtype)[1]
    monkeypatch.setattr(direct_convolution, "takes_packed", lambda dtype: False)
    torch.testing.assert_close(here, made(kernel, dilation, dtype)[1])


def test_weights_are_packed_where_onednn_is_and_takes_their_type(monkeypatch):
    assert direct_convolution.takes_packed(torch.float32) == torch.backends.mkldnn.is_available()
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not direct_convolution.takes_packed(torch.float32)
    assert made(7, 3)[1].shape == (TILES[-1], CHANNELS)


@pytest.mark.parametrize("supported", [False, True])
def test_bfloat16_is_packed_only_where_the_cpu_need_not_emulate_it(supported, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert direct_convolution.takes_packed(torch.bfloat16) == (supported and torch.backends.mkldnn.is_available())


@pytest.mark.parametrize("steps", [1, 255, 257, 300, 511, 512, 513, 1100, 1800, 4095, 4097, 9000])
def test_tiles_cover_the_steps_and_little_more(steps):
    tiles = made(3, 1)[0].tiles(steps)
    assert steps <= sum(tiles) <= max(TILES[-1], 2 * steps) and sum(tiles[:-1]) < steps
    assert set(tiles) <= set(TILES) and tiles == sorted(tiles, reverse=True)
