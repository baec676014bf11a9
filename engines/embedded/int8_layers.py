"""Linear layers and convolutions in 8-bit integers, for CPUs that multiply those four times as fast (VNNI).

Kokoro's weights come in int8 (`quantized.py`), and a short text reads more weights than it has steps of time: a quarter
of the bytes is a quarter of the wait. Weights have a scale for each output, and inputs are rounded as they come
("dynamic quantisation"): each row of a linear layer, and each member of a convolution, with a scale of its own. So a
batch changes nothing for its members. Sums are exact, and results are float32. There is no gradient.

docs/speed.md has what this gains, and what it does to the sound.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_ZERO = 128  #: of the unsigned inputs; they reach from 1 to 255
_LEAST = 1e-12  #: a scale, where all is silent


def has_int8_instructions() -> bool:
    """Tell if this CPU has VNNI; without it, sums of 8-bit products may overflow, and gain less."""
    return torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()


class Int8Weight:
    """A matrix (outputs, inputs) in int8, and its products with rows of inputs, by oneDNN.

    Args:
        weight: float32 (outputs, inputs).
    """

    def __init__(self, weight: Tensor) -> None:
        self._scales = (weight.abs().amax(1) / 127).clamp(min=_LEAST)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack((weight / self._scales[:, None]).round().to(torch.int8), None)

    def times(self, rows: Tensor) -> Tensor:
        """Multiply `rows`, uint8 (n, inputs) around 128, with the matrix: float32 (n, outputs) in the rows' unit."""
        return torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, _ZERO, self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )


class Int8Linear(nn.Module):
    """Does what an `nn.Linear` does, (..., inputs) -> (..., outputs)."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._weight = Int8Weight(linear.weight.detach())
        self._bias = linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scales = _scales(rows, 1)
        return torch.addcmul(self._bias, self._weight.times(_rounded(rows, scales)), scales).view(*x.shape[:-1], -1)


class Int8Conv1d(nn.Module):
    """Does what an `nn.Conv1d` of an odd kernel does that keeps the length, (B, inputs, T) -> (B, outputs, T)."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        outputs, inputs, self._kernel = conv.weight.shape
        plain = conv.stride == (1,) and conv.dilation == (1,) and conv.groups == 1
        if not plain or conv.padding != (self._kernel // 2,) or self._kernel % 2 == 0:
            raise ValueError(f"{conv} does not keep the length, or its taps are apart")
        self._weight = Int8Weight(conv.weight.detach().transpose(1, 2).reshape(outputs, self._kernel * inputs))
        self._bias = None if conv.bias is None else conv.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, steps = x.shape
        scales = _scales(x, (1, 2))
        around = self._kernel // 2
        padded = F.pad(_rounded(x, scales).transpose(1, 2), (0, 0, around, around), value=_ZERO).contiguous()
        # What the kernel sees at a step lies side by side: one step's inputs after the other's.
        seen = padded.as_strided(
            (batch, steps, self._kernel * channels), ((steps + 2 * around) * channels, channels, 1)
        )
        made = self._weight.times(seen.reshape(batch * steps, -1)).view(batch, steps, -1)
        made = made.mul_(scales) if self._bias is None else torch.addcmul(self._bias, made, scales)
        return made.transpose(1, 2)


def put_into(network: nn.Module, least: int = 1 << 16) -> None:
    """Replace the linear layers and convolutions of a network that have `least` weights or more."""
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Linear) and child.weight.numel() >= least:
            setattr(network, name, Int8Linear(child))
        elif type(child) is nn.Conv1d and child.weight.numel() >= least:
            setattr(network, name, Int8Conv1d(child))
        else:
            put_into(child, least)


def _scales(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Find what a step of the inputs' integers is worth, one number for all of `dims`."""
    return (x.abs().amax(dims, keepdim=True) / 127).clamp(min=_LEAST)


def _rounded(x: Tensor, scales: Tensor) -> Tensor:
    """Round inputs to uint8. What is converted is positive, so that cutting off the fraction of x + ½ rounds it."""
    return (x / scales).add_(_ZERO + 0.5).to(torch.uint8)
