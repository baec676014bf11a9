"""Layers that the acoustic model and the vocoder share.

Sequences are (batch, channels, time). A padded batch carries a mask (batch, 1, time) of ones and zeros; every layer
that looks across time (norms, recurrent nets, wide convolutions) sees through it only the real part, so that a batch
gives each member the result it would get alone. If nothing is padded, the mask is None and costs nothing.

Structure after StyleTTS 2 (Li et al. 2023, arXiv:2306.07691) as Kokoro-82M configures it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STYLE = 128  #: half of a Kokoro style vector: the first half is acoustic, the second prosodic


def padding_mask(lengths: Tensor, size: int) -> Tensor | None:
    """Make a float mask (B, 1, size) from lengths (B,); None if every member has the full size."""
    if bool((lengths == size).all()):
        return None
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None].float()


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Join the channels of sequences; the memory lies as that of the first one does."""
    if parts[0].stride(1) == 1:
        return torch.cat([part.transpose(1, 2) for part in parts], 2).transpose(1, 2)
    return torch.cat(list(parts), 1)


class AdaptiveNorm(nn.Module):
    """Instance norm over time, with scale and shift from the style (AdaIN, arXiv:1703.06868).

    A voice that was fitted to a speaker also has deltas, which are added to the outputs of `fc`. They follow the style
    in the same row, each layer's at its own slot (`give_slots`).
    """

    slot: slice | None = None  #: this layer's deltas in a row of style and deltas; None where a voice can have none

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(STYLE, 2 * channels)

    def forward(self, x: Tensor, style: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise x (B, C, T) by a style (B, 128), or by a style and all deltas (B, 128 + D)."""
        scale, shift = (1 + self.coloured(style)[:, :, None]).chunk(2, dim=1)
        shift = shift - 1
        if mask is None:
            return torch.addcmul(shift, F.instance_norm(x, eps=1e-5), scale)
        count = mask.sum(-1, keepdim=True)
        centred = x - (x * mask).sum(-1, keepdim=True) / count
        # The two-pass variance: E[x²] - E[x]² loses everything in bfloat16.
        variance = (centred.square() * mask).sum(-1, keepdim=True) / count
        return torch.addcmul(shift, centred, scale * torch.rsqrt(variance + 1e-5))

    def coloured(self, style: Tensor) -> Tensor:
        """Return the scale less one, and then the shift, of a style as `forward` takes it: (B, 2C)."""
        coloured = self.fc(style[:, :STYLE])
        if self.slot is not None and style.shape[1] > STYLE:
            coloured = coloured + style[:, self.slot]
        return coloured


def adaptive_norms(network: nn.Module) -> list[AdaptiveNorm]:
    """Return the adaptive norms of a network in the order of their slots."""
    return [module for module in network.modules() if isinstance(module, AdaptiveNorm)]


def give_slots(network: nn.Module) -> int:
    """Give each adaptive norm of a network its slot, and return the number of deltas D."""
    end = STYLE
    for norm in adaptive_norms(network):
        norm.slot = slice(end, end + norm.fc.out_features)
        end = norm.slot.stop
    return end - STYLE


def with_deltas(style: Tensor, deltas: Tensor | None) -> Tensor:
    """Join styles (B, 128) and deltas (B, D) as the adaptive norms read them."""
    return style if deltas is None else torch.cat([style, deltas], dim=1)


class ResidualBlock(nn.Module):
    """Two adaptive-norm convolutions beside a shortcut; with `upsample` the output has twice the length."""

    def __init__(self, inputs: int, outputs: int, upsample: bool = False) -> None:
        super().__init__()
        self.norm1 = AdaptiveNorm(inputs)
        self.norm2 = AdaptiveNorm(outputs)
        self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=1)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=1)
        self.conv1x1 = nn.Conv1d(inputs, outputs, 1, bias=False) if inputs != outputs else None
        self.pool = nn.ConvTranspose1d(inputs, inputs, 3, 2, 1, output_padding=1, groups=inputs) if upsample else None

    def forward(self, x: Tensor, style: Tensor, mask: Tensor | None, mask_after: Tensor | None = None) -> Tensor:
        """Compute (B, outputs, T or 2T) from x (B, inputs, T). `mask_after` is the mask of the doubled length."""
        h = masked(F.leaky_relu(self.norm1(x, style, mask), 0.2), mask)
        if self.pool is None:
            mask_after = mask
        else:
            h = masked(self.pool(h), mask_after)
            x = x.repeat_interleave(2, dim=-1)
        h = self.conv1(h)
        h = self.conv2(masked(F.leaky_relu(self.norm2(h, style, mask_after), 0.2), mask_after))
        if self.conv1x1 is not None:
            x = self.conv1x1(x)
        return masked((h + x) * math.sqrt(0.5), mask_after)


class BidirectionalLSTM(nn.LSTM):
    """An LSTM, (B, T, inputs) -> (B, T, 512), whose backward direction starts at each member's own end."""

    def __init__(self, inputs: int) -> None:
        super().__init__(inputs, 256, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:  # type: ignore[override]  # not called as an LSTM
        """Read x in both directions. `lengths` is (B,) for a padded batch, or None."""
        if lengths is None:
            return super().forward(x)[0]
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        output = super().forward(packed)[0]
        return nn.utils.rnn.pad_packed_sequence(output, batch_first=True, total_length=x.shape[1])[0]
