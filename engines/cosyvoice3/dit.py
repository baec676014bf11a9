"""The flow's network is a diffusion transformer (W. Peebles and S. Xie, 2023) over mel frames, as in F5-TTS (2024).

Two traits look like errors, but the checkpoint was trained with them. Rotary positions are applied before the heads are
split, so that only the first head rotates. The conditions are added to every frame by concatenation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines.cosyvoice3 import kernels
from engines.cosyvoice3.numbers import Dit as DitSize

varlen_attn: Any
try:  # torch 2.10 and later
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

_TIME_FREQUENCIES = 256
_POSITION_KERNEL, _POSITION_GROUPS = 31, 16


class TimeEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(_TIME_FREQUENCIES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """Embed times (n,) in 0 … 1 as (n, dim)."""
        half = _TIME_FREQUENCIES // 2
        step = math.log(10_000) / (half - 1)
        frequencies = torch.exp(torch.arange(half, device=time.device).float() * -step)
        angles = 1000 * time.float()[:, None] * frequencies
        waves = torch.cat((angles.sin(), angles.cos()), dim=-1)
        return self.time_mlp(waves.to(cast(nn.Linear, self.time_mlp[0]).weight.dtype))


class PositionConvolutions(nn.Module):
    """Two grouped convolutions that look back only and give each frame its position."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        for name in ("conv1", "conv2"):
            convolution = nn.Conv1d(dim, dim, _POSITION_KERNEL, groups=_POSITION_GROUPS)
            self.add_module(name, nn.Sequential(convolution, nn.Mish()))

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        for convolution in (self.get_submodule("conv1"), self.get_submodule("conv2")):
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
        # The convolutions leave time innermost: every block would copy that for its norms, and add with strides.
        return (self.conv_pos_embed(x) + x).contiguous()


class Modulation(nn.Module):
    """A layer that makes `parts` vectors out of the time embedding: scales, shifts and gates."""

    def __init__(self, dim: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(dim, parts * dim)

    def forward(self, time: Tensor) -> Tensor:
        """Turn time embeddings (n, dim) into vectors (parts, n, 1, dim)."""
        return self.linear(F.silu(time)).unflatten(-1, (self.parts, -1)).transpose(0, 1)[:, :, None]


class Visible(NamedTuple):
    """The frames that each frame attends to. At most one attribute is set; with neither, all frames attend to all.

    Attributes:
        bias: (n, 1, frames or 1, frames), added to the scores: 0 or minus infinity.
        ends: (2 * n + 1,) int32, the rows' boundaries with all frames of the batch in one sequence: the row's own
            frames, then its padding, for each row in turn. Flash attention for packed sequences takes it, and needs no
            mask.
    """

    bias: Tensor | None = None
    ends: Tensor | None = None


class Attention(nn.Module):
    def __init__(self, size: DitSize) -> None:
        super().__init__()
        inner = size.heads * size.dim_head
        self.heads, self.dim_head = size.heads, size.dim_head
        self.to_q, self.to_k, self.to_v = (nn.Linear(size.dim, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, size.dim)])
        self.register_buffer("qkv_weight", None, persistent=False)
        self.register_buffer("qkv_bias", None, persistent=False)

    def fuse(self) -> None:
        """Make queries, keys and values with one product. The three layers become views of its joint weight."""
        layers = self.to_q, self.to_k, self.to_v
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers])
        for layer, part, offset in zip(layers, weight.chunk(3), bias.chunk(3), strict=True):
            layer.weight = nn.Parameter(part, requires_grad=False)
            layer.bias = nn.Parameter(offset, requires_grad=False)
        self.qkv_weight, self.qkv_bias = weight, bias

    def forward(self, x: Tensor, rope: Tensor, visible: Visible) -> Tensor:
        if self.qkv_weight is None:
            q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
            _rotate(q, rope)
            _rotate(k, rope)
        else:
            parts = F.linear(x, self.qkv_weight, self.qkv_bias).unflatten(-1, (3, -1))
            if kernels.usable(x.device, 2 * rope.shape[-2]):
                kernels.rotate(parts, rope)
            else:
                _rotate(parts[..., :2, :], rope[:, None])
            q, k, v = parts.unbind(-2)
        if visible.ends is not None:
            q, k, v = (tensor.reshape(-1, self.heads, self.dim_head) for tensor in (q, k, v))
            frames = x.shape[1]
            out = varlen_attn(q, k, v, visible.ends, visible.ends, frames, frames).reshape(x.shape[0], frames, -1)
        else:
            q, k, v = (tensor.unflatten(-1, (self.heads, self.dim_head)).transpose(1, 2) for tensor in (q, k, v))
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible.bias).transpose(1, 2).flatten(2)
        return self.to_out[0](out)


class FeedForward(nn.Module):
    def __init__(self, size: DitSize) -> None:
        super().__init__()
        inner = int(size.dim * size.ff_mult)
        # The empty places hold layers that only training needs; the numbers are part of the weights' names.
        self.ff = nn.ModuleList(
            [nn.ModuleList([nn.Linear(size.dim, inner)]), nn.Identity(), nn.Linear(inner, size.dim)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.ff[2](F.gelu(cast(nn.ModuleList, self.ff[0])[0](x), approximate="tanh"))


class Block(nn.Module):
    #: vectors of its modulation: shift, 1 + scale and gate of the attention, then those of the feed-forward part
    MODULATIONS = 6

    def __init__(self, size: DitSize) -> None:
        super().__init__()
        self.attn_norm = Modulation(size.dim, self.MODULATIONS)
        self.attn = Attention(size)
        self.ff = FeedForward(size)

    def forward(self, x: Tensor, modulations: Tensor, rope: Tensor, visible: Visible) -> Tensor:
        shift, scale, gate, ff_shift, ff_scale, ff_gate = modulations
        x = _gated(x, gate, self.attn(_modulated(x, scale, shift), rope, visible))
        return _gated(x, ff_gate, self.ff(_modulated(x, ff_scale, ff_shift)))


class Rotary(nn.Module):
    """The checkpoint's rotation frequencies, kept in float32 whatever the network computes in.

    Rounded to bfloat16 they would be off by 0.66 rad at frame 1500.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.zeros(dim // 2))

    def _apply(self, fn, recurse=True):
        exact = self.inv_freq
        super()._apply(fn, recurse)
        if self.inv_freq.dtype.itemsize < exact.dtype.itemsize:
            self.inv_freq = exact.to(self.inv_freq.device)
        return self

    def forward(self, length: int) -> Tensor:
        """Compute cosines and sines (length, dim / 2, 2) float32 of positions 0 …, for each pair of neighbours."""
        angles = torch.arange(length, device=self.inv_freq.device).float()[:, None] * self.inv_freq.float()
        return torch.stack((angles.cos(), angles.sin()), dim=-1)


class Dit(nn.Module):
    """The network that estimates a flow's velocity."""

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
        self, x: Tensor, mu: Tensor, time: Tensor, speaker: Tensor, cond: Tensor, visible: Visible = Visible()
    ) -> Tensor:
        """Estimate the velocity at `time`.

        Args:
            x, mu, cond: (n, frames, 80): the current mel, the tokens' mean, the prompt's mel.
            time: (1,) or (n,), 0 … 1.
            speaker: (n, 80).
            visible: the frames that each frame attends to.

        Returns:
            (n, frames, 80)
        """
        return self.velocity(x, mu, self.modulations(time), speaker, cond, self.rotary_embed(x.shape[1]), visible)

    def fuse(self) -> None:
        """Make queries, keys and values of each block with one product, unless the type is rounded step by step."""
        for block in self.transformer_blocks:
            cast(Block, block).attn.fuse()

    def modulations(self, time: Tensor) -> Tensor:
        """Compute the vectors that depend on the time alone: those of every block, then of the end.

        Args:
            time: (n,), 0 … 1.

        Returns:
            (6 * depth + 2, n, 1, dim). A scale s, by which the network multiplies as 1 + s, is given as 1 + s.
        """
        time = self.time_embed(time)
        parts = [block.attn_norm(time) for block in cast(Iterable[Block], self.transformer_blocks)]
        scales = torch.tensor([0, 1, 0, 0, 1, 0], dtype=time.dtype, device=time.device)[:, None, None, None]
        last = torch.tensor([1, 0], dtype=time.dtype, device=time.device)[:, None, None, None]
        return torch.cat([part + scales for part in parts] + [self.norm_out(time) + last])

    def velocity(
        self,
        x: Tensor,
        mu: Tensor,
        modulations: Tensor,
        speaker: Tensor,
        cond: Tensor,
        rope: Tensor,
        visible: Visible,
    ) -> Tensor:
        """Estimate the velocity as `forward` does, with precomputed results of `modulations` and of `Rotary`."""
        x = self.input_embed(x, cond, mu, speaker)
        each = Block.MODULATIONS
        if not _exact(x) and modulations.shape[1] == 1 and kernels.usable(x.device, self.size.dim_head):
            return self._velocity_in_kernels(x, modulations, rope, visible)
        for index, block in enumerate(self.transformer_blocks):
            x = block(x, modulations[each * index : each * (index + 1)], rope, visible)
        scale, shift = modulations[-2:]
        return self.proj_out(_modulated(x, scale, shift))

    def _velocity_in_kernels(self, x: Tensor, modulations: Tensor, rope: Tensor, visible: Visible) -> Tensor:
        """Compute the blocks of `velocity`, each sum in one kernel with the norm after it, maybe the next block's."""
        shift, scale = modulations[:2]
        normed = _modulated(x, scale, shift)
        for index, block in enumerate(cast(Iterable[Block], self.transformer_blocks)):
            own = modulations[block.MODULATIONS * index :]
            _, _, gate, ff_shift, ff_scale, ff_gate = own[: block.MODULATIONS]
            x, normed = kernels.gated_norm(x, gate, block.attn(normed, rope, visible), ff_scale, ff_shift)
            # After the last block come the two vectors of the end, the scale first.
            last = index == self.size.depth - 1
            one, other = own[block.MODULATIONS : block.MODULATIONS + 2]
            shift, scale = (other, one) if last else (one, other)
            x, normed = kernels.gated_norm(x, ff_gate, block.ff(normed), scale, shift)
        return self.proj_out(normed)


def visible(lengths: Tensor, chunks: Tensor | None, frames: int, dtype: torch.dtype, packed: bool = False) -> Visible:
    """Limit the attention of rows padded at the right to `frames`: each frame sees its own row, and no padding.

    Args:
        lengths: (n,) int64, the rows' own frames.
        chunks: (n,) int64, the length of a row's chunks: a frame sees its row up to the end of its own chunk. None
            lets every frame see its whole row.
        frames: the padded length.
        dtype: type of the attention.
        packed: use flash attention for packed sequences, which has no chunks.
    """
    if packed and chunks is None:
        starts = torch.arange(len(lengths), device=lengths.device) * frames
        ends = torch.stack((starts, starts + lengths), dim=1).flatten()
        return Visible(ends=F.pad(ends, (0, 1), value=len(lengths) * frames).to(torch.int32))
    place = torch.arange(frames, device=lengths.device)
    hidden = (place >= lengths[:, None])[:, None, None]
    if chunks is not None:
        end = (place // chunks[:, None] + 1) * chunks[:, None]  # (n, frames): the end of each frame's chunk
        hidden = hidden | (place >= end[..., None])[:, None]
    return Visible(torch.zeros(hidden.shape, device=lengths.device, dtype=dtype).masked_fill(hidden, -math.inf))


@lru_cache
def packs(device: torch.device, dtype: torch.dtype, dim_head: int) -> bool:
    """Try flash attention for packed sequences on this device; returns False if it is missing or wrong there."""
    if varlen_attn is None or device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or dim_head % 8:
        return False
    lengths = torch.tensor([64, 40], device=device)
    q, k, v = (torch.randn(128, 2, dim_head, device=device, dtype=dtype) for _ in range(3))
    try:
        ends = visible(lengths, None, 64, dtype, packed=True).ends
        found = varlen_attn(q, k, v, ends, ends, 64, 64).reshape(2, 64, 2, dim_head)
    except Exception:  # each release of torch refuses in its own way
        return False
    q, k, v = (tensor.reshape(2, 64, 2, dim_head).transpose(1, 2) for tensor in (q, k, v))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=visible(lengths, None, 64, dtype).bias).transpose(1, 2)
    return all(
        bool((found[row, :length] - expected[row, :length]).abs().max() < 0.05) for row, length in enumerate((64, 40))
    )


# float32 is rounded step by step as in the official code. Narrower types are not: they take fewer and larger kernels,
# which also round less.


def _exact(x: Tensor) -> bool:
    return x.dtype == torch.float32


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Normalise x, multiply by `scale` and add `shift`, both (n or 1, 1, dim)."""
    if _exact(x) or scale.shape[0] > 1:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * scale + shift
    return F.layer_norm(x, x.shape[-1:], scale.flatten(), shift.flatten(), eps=1e-6)


def _gated(x: Tensor, gate: Tensor, more: Tensor) -> Tensor:
    """Compute x + gate * more."""
    return x + gate * more if _exact(x) else torch.addcmul(x, gate, more)


def _rotate(x: Tensor, rope: Tensor) -> None:
    """Rotate the first numbers of all heads together, in neighbouring pairs, in place; rounds only at the end.

    Args:
        x: (n, frames, …, numbers).
        rope: (frames, …, pairs, 2), as `Rotary` gives it.
    """
    head = x[..., : 2 * rope.shape[-2]]
    pairs = head.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    if _exact(x):
        cos, sin = rope.unbind(-1)
        one, other = pairs.unbind(-1)
        turned = torch.stack((one * cos + -other * sin, other * cos + one * sin), dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope))
    head.copy_(turned.flatten(-2))
