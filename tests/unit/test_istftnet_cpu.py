"""The vocoder's blocks as a CPU computes them: the plain module's numbers, for every kernel, length and team."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.embedded.blocks import STYLE, give_slots
from engines.embedded.istftnet import SnakeBlock
from engines.embedded.istftnet_cpu import CpuBlock, StyleLayers, halves
from engines.embedded.thread_team import ThreadTeam

CHANNELS = 16


@pytest.fixture(scope="module")
def teams():
    return {size: ThreadTeam(size) for size in (1, 2, 3)}


class Arranged:
    """A block as a CPU computes it, from a style."""

    def __init__(self, block, team, dtype=torch.float32):
        made = halves(block, dtype)
        self.styles, self.block = [half.style for half in made], CpuBlock(made, team)

    def __call__(self, x, style):
        return self.block(x, StyleLayers(self.styles)(style))


def block_of(kernel: int) -> SnakeBlock:
    torch.manual_seed(kernel)
    block = SnakeBlock(CHANNELS, kernel)
    for alpha in (*block.alpha1, *block.alpha2):
        nn.init.uniform_(alpha, 0.5, 2.0)
    give_slots(block)
    return block.requires_grad_(False)


@pytest.mark.parametrize("kernel", [3, 7, 11])
@pytest.mark.parametrize("steps", [2, 511, 1024, 1025, 6000])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_it_computes_what_the_plain_module_computes(teams, kernel, steps, size):
    block = block_of(kernel)
    generator = torch.Generator().manual_seed(steps)
    # Parts that differ, so that a norm over one part alone would show.
    x = torch.randn(steps, CHANNELS, generator=generator) * torch.linspace(0.5, 3, steps)[:, None]
    style = torch.randn(STYLE, generator=generator)
    expected = block(x.T[None], style[None], None)[0].T
    before = x.clone()
    made = Arranged(block, teams[size])(x, style)
    torch.testing.assert_close(made, expected, atol=2e-4, rtol=1e-4)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kernel", [3, 11])
def test_a_team_computes_the_same_each_time(teams, kernel):
    block = Arranged(block_of(kernel), teams[2])
    x, style = torch.randn(5000, CHANNELS), torch.randn(STYLE)
    first = block(x, style)
    assert all(torch.equal(block(x, style), first) for _ in range(20))


def test_bfloat16_is_near(teams):
    x, style = torch.randn(3000, CHANNELS), torch.randn(STYLE)
    exact, rounded = (Arranged(block_of(7), teams[2], dtype)(x, style) for dtype in (torch.float32, torch.bfloat16))
    assert 0 < (exact - rounded).abs().mean() < 0.05


@pytest.mark.parametrize("fitted", [False, True])
def test_many_style_layers_at_once_compute_what_each_computes(fitted):
    both = torch.nn.ModuleList([block_of(3), block_of(7)])
    style = torch.randn(STYLE + (give_slots(both) if fitted else 0))
    layers = [half.style for block in both for half in halves(block, torch.float32)]
    for (scale, shift), layer in zip(StyleLayers(layers)(style), layers, strict=True):
        torch.testing.assert_close((scale, shift), layer(style))
