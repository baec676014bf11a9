"""The flow's network: a diffusion transformer (W. Peebles and S. Xie, 2023) over mel frames, as in F5-TTS (2024).

Two things are as the checkpoint was trained, and look like slips: rotary positions are applied before the heads are
split, so that only the first head rotates; and the conditions are given anew to every frame by concatenation.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cosyvoice3.numbers import Dit as DitSize

_TIME_FREQUENCIES = 256
_POSITION_KERNEL, _POSITION_GROUPS = 31, 16


class TimeEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(_TIME_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """Times (n,) in 0 … 1 -> (n, dim)."""
        half = _TIME_FREQUENCIES // 2
        step = math.log(10_000) / (half - 1)
        frequencies = torch.exp(torch.arange(half, device=time.device).float() * -step)
        angles = 1000 * time.float()[:, None] * frequencies
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.time_mlp(waves.to(self.time_mlp[0].weight.dtype))


class PositionConvolutions(nn.Module):
    """Two grouped convolutions that look back only: a frame's place, told by its past."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("conv1", "conv2"):
            convolution = nn.Conv1d(dim, dim, _POSITION_KERNEL, groups=_POSITION_GROUPS)
            self.add_module(name, nn.Sequential(convolution, nn.Mish()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for convolution in (self.conv1, self.conv2):
            x = convolution(F.pad(x, (_POSITION_KERNEL - 1, 0)))
        return x.transpose(1, 2)


class InputEmbedding(nn.Module):
    def __init__(self, size: DitSize) -> None:
        super().__init__()
        self.proj = nn.Linear(2 * size.mel_dim + size.mu_dim + size.spk_dim, size.dim)
        self.conv_pos_embed = PositionConvolutions(size.dim)

    def forward(self, x: Tensor, cond: Tensor, mu: Tensor, speaker: Tensor) -> Tensor:
        speaker = speaker[:, None].expand(-1, x.shape[1], -1)
        x = self.proj(torch.cat((x, cond, mu, speaker), dim=-1))
        return self.conv_pos_embed(x) + x


class Modulation(nn.Module):
    """From the time embedding to `parts` vectors that scale, shift or gate."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, time: Tensor) -> tuple[Tensor, ...]:
        return self.linear(F.silu(time))[:, None].chunk(self.parts, dim=-1)


class Attention(nn.Module):
    def __init__(self, size: DitSize) -> None:
        super().__init__()
        inner = size.heads * size.dim_head
        self.heads, self.dim_head = size.heads, size.dim_head
        self.to_q, self.to_k, self.to_v = (nn.Linear(size.dim, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, size.dim)])

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        q, k, v = (
            self._heads(tensor)
            for tensor in (
                _rotated(self.to_q(x), rope, self.dim_head),
                _rotated(self.to_k(x), rope, self.dim_head),
                self.to_v(x),
            )
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out[0](out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, size: DitSize) -> None:
        super().__init__()
        inner = int(size.dim * size.ff_mult)
        # The empty places hold what only training needs; the numbers are part of the weights' names.
        self.ff = nn.ModuleList(
            [nn.ModuleList([nn.Linear(size.dim, inner)]), nn.Identity(), nn.Linear(inner, size.dim)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ff[2](F.gelu(self.ff[0][0](x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, size: DitSize) -> None:
        super().__init__()
        self.dim = size.dim
        self.attn_norm = Modulation(size.dim, 6)
        self.attn = Attention(size)
        self.ff = FeedForward(size)

    def forward(self, x: Tensor, time: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = self.attn_norm(time)
        x = x + gate * self.attn(_normed(x) * (1 + scale) + shift, rope, mask)
        return x + ff_gate * self.ff(_normed(x) * (1 + ff_scale) + ff_shift)


class Rotary(nn.Module):
    """Holds the rotation frequencies that come with the checkpoint."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.zeros(dim // 2))

    def forward(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (length, dim) of positions 0 …, each frequency for two neighbouring numbers."""
        angles = torch.arange(length, device=self.inv_freq.device).float()[:, None] * self.inv_freq.float()
        angles = angles.repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()


class Dit(nn.Module):
    """The estimator of a flow's velocity."""

    def __init__(self, size: DitSize) -> None:
        super().__init__()
        self.size = size
        self.time_embed = TimeEmbedding(size.dim)
        self.input_embed = InputEmbedding(size)
        self.rotary_embed = Rotary(size.dim_head)
        self.transformer_blocks = nn.ModuleList(Block(size) for _ in range(size.depth))
        self.norm_out = Modulation(size.dim, 2)
        self.proj_out = nn.Linear(size.dim, size.mel_dim)

    def forward(
        self, x: Tensor, mu: Tensor, time: Tensor, speaker: Tensor, cond: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """The velocity at `time`.

        Args:
            x, mu, cond: (n, frames, 80): the mel on its way, the tokens' mean, the prompt's mel.
            time: (1,) or (n,), 0 … 1.
            speaker: (n, 80).
            mask: boolean, broadcast to (n, 1, frames, frames): which frames see which; None: all see all.

        Returns:
            (n, frames, 80)
        """
        time = self.time_embed(time)
        x = self.input_embed(x, cond, mu, speaker)
        cos, sin = self.rotary_embed(x.shape[1])
        rope = cos.to(x.dtype), sin.to(x.dtype)
        for block in self.transformer_blocks:
            x = block(x, time, rope, mask)
        scale, shift = self.norm_out(time)
        return self.proj_out(_normed(x) * (1 + scale) + shift)


def seen(lengths: Tensor, chunks: Tensor) -> Tensor | None:
    """The attention mask of rows of `lengths` (n,) frames, padded at the right to the longest.

    A frame sees its row up to the end of the chunk it lies in: `chunks` (n,) is how long they are in each row; one as
    long as the row lets all see all. None where that is no restriction at all.
    """
    longest = int(lengths.max())
    place = torch.arange(longest, device=lengths.device)
    own = (place < lengths[:, None])[:, None, None]
    if bool((chunks < lengths).any()):
        end = (place // chunks[:, None] + 1) * chunks[:, None]  # (n, frames): of each frame's chunk
        return own & (place < end[..., None])[:, None]
    return None if bool((lengths == longest).all()) else own


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def _rotated(x: Tensor, rope: tuple[Tensor, Tensor], dim: int) -> Tensor:
    """Rotate the first `dim` of the numbers of all heads together, in neighbouring pairs."""
    head, rest = x[..., :dim], x[..., dim:]
    pairs = head.unflatten(-1, (-1, 2))
    turned = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    return torch.cat((head * rope[0] + turned * rope[1], rest), dim=-1)
