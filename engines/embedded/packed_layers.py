"""Linear layers and convolutions whose weights are packed once, in bfloat16 or 8-bit integers, for CPUs that have them.

A short text reads more weights than it has steps of time. So weights of half the bytes, or a quarter, are what makes it
fast (`Bfloat16Matrix`, for AMX; `Int8Matrix`, for VNNI). Both take float32 and give float32. There is no gradient.

oneDNN compiles a kernel for each number of rows that it meets, which was a fifth of the time of a new length of text.
So rows are computed in tiles of few sizes, whose kernels are compiled when the network is loaded (`warm_up`).

docs/speed.md has what this gains, and what it does to the sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.tiles import tiles

TILES = 256, 192, 128, 96, 64, 48, 32  #: rows that are multiplied at a time

Precision = Literal["float32", "bfloat16", "int8"]


class PackedMatrix(Protocol):
    """A matrix (outputs, inputs) with a bias, and its products with rows of inputs."""

    dtype: torch.dtype  #: of the inputs
    zero: int  #: what stands for zero among them

    def scaled(self, x: Tensor, dims: int | tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Scale float32 inputs so that to convert them to `dtype` rounds them.

        Returns:
            What is to be converted, and the scales, one for all of `dims`.
        """

    def times(self, rows: Iterable[Tensor], scales: Tensor | None) -> Tensor:
        """Multiply tiles of converted rows (n, inputs) with the matrix and add the bias: float32 (N, outputs).

        `scales` are those of the rows, (N, 1) or (1, 1).
        """


class Bfloat16Matrix:
    """A matrix in bfloat16; sums are float32, and what they come to is rounded.

    Args:
        weight: float32 (outputs, inputs).
        bias: (outputs,), or None.
    """

    dtype = torch.bfloat16
    zero = 0

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.bfloat16(), TILES[0])
        self._bias = None if bias is None else bias.bfloat16()

    def scaled(self, x: Tensor, dims: int | tuple[int, ...]) -> tuple[Tensor, None]:
        return x, None

    def times(self, rows: Iterable[Tensor], scales: Tensor | None) -> Tensor:
        multiply = torch.ops.mkldnn._linear_pointwise
        return _together([multiply(tile, self._packed, self._bias, "none", [], "") for tile in rows]).float()


class Int8Matrix:
    """A matrix in int8 with a scale for each output, and inputs that are rounded as they come ("dynamically").

    Sums are exact. Each row has a scale of its own, so a batch changes nothing for its members.

    Args:
        weight: float32 (outputs, inputs).
        bias: (outputs,), or None.
    """

    dtype = torch.uint8
    zero = 128  #: rounded inputs reach from 1 to 255
    _LEAST = 1e-12  #: a scale, where all is silent

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._scales = (weight.abs().amax(1) / 127).clamp(min=self._LEAST)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack((weight / self._scales[:, None]).round().to(torch.int8), None)
        self._bias = bias

    def scaled(self, x: Tensor, dims: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
        scales = (x.abs().amax(dims, keepdim=True) / 127).clamp(min=self._LEAST)
        # What is converted is positive, so that cutting off the fraction of x + ½ rounds it.
        return (x / scales).add_(self.zero + 0.5), scales

    def times(self, rows: Iterable[Tensor], scales: Tensor | None) -> Tensor:
        # The inputs' scale is one here, and what comes out is float32 with no bias and nothing done to it.
        rest: tuple[object, ...] = self._packed, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        multiply = torch.ops.onednn.qlinear_pointwise
        made = _together([multiply(tile, 1.0, self.zero, *rest) for tile in rows])
        assert scales is not None
        return made.mul_(scales) if self._bias is None else torch.addcmul(self._bias, made, scales)


_MATRICES: dict[str, Callable[[Tensor, Tensor | None], PackedMatrix]] = {
    "bfloat16": Bfloat16Matrix,
    "int8": Int8Matrix,
}


class PackedLinear(nn.Module):
    """Does what an `nn.Linear` does, (..., inputs) -> (..., outputs)."""

    def __init__(self, linear: nn.Linear, precision: Precision) -> None:
        super().__init__()
        self._matrix = _MATRICES[precision](linear.weight.detach(), linear.bias.detach())
        self._inputs = linear.in_features

    def forward(self, x: Tensor) -> Tensor:
        values, scales = self._matrix.scaled(x.reshape(-1, self._inputs), 1)
        sizes, steps = tiles(len(values), TILES), len(values)
        rows = torch.zeros(sum(sizes), self._inputs, dtype=self._matrix.dtype)
        rows[:steps] = values
        made = self._matrix.times(rows.split(sizes), _filled_up(scales, len(rows)))[:steps]
        return made.view(*x.shape[:-1], -1)

    def warm_up(self) -> None:
        """Have the kernel of each tile size compiled."""
        for size in TILES:
            self(torch.zeros(size, self._inputs))


class PackedConv1d(nn.Module):
    """Does what an `nn.Conv1d` of an odd kernel does that keeps the length, (B, inputs, T) -> (B, outputs, T).

    It gives a view of (T, outputs) for each member: what takes it from there need not turn it round.
    """

    def __init__(self, conv: nn.Conv1d, precision: Precision) -> None:
        super().__init__()
        outputs, self._inputs, self._kernel = conv.weight.shape
        plain = conv.stride == (1,) and conv.dilation == (1,) and conv.groups == 1
        if not plain or conv.padding != (self._kernel // 2,) or self._kernel % 2 == 0:
            raise ValueError(f"{conv} does not keep the length, or its taps are apart")
        bias = None if conv.bias is None else conv.bias.detach()
        weight = conv.weight.detach().transpose(1, 2).reshape(outputs, self._kernel * self._inputs)
        self._matrix = _MATRICES[precision](weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        made = [self.rows(member.T) for member in x]
        return (made[0][None] if len(made) == 1 else torch.stack(made)).transpose(1, 2)

    def rows(self, x: Tensor) -> Tensor:
        """Compute one member, (T, inputs) -> (T, outputs)."""
        values, scales = self._matrix.scaled(x, (0, 1))
        sizes, steps, around = tiles(len(values), TILES), len(values), self._kernel // 2
        shape = sum(sizes) + 2 * around, self._inputs
        padded = torch.full(shape, self._matrix.zero, dtype=self._matrix.dtype)
        padded[around : around + steps] = values
        # What the kernel sees at a step lies side by side: one step's inputs after the other's.
        seen = padded.as_strided((sum(sizes), self._kernel * self._inputs), (self._inputs, 1))
        return self._matrix.times((tile.contiguous() for tile in seen.split(sizes)), scales)[:steps]

    def warm_up(self) -> None:
        """Have the kernel of each tile size compiled."""
        for size in TILES:
            self.rows(torch.zeros(size, self._inputs))


def _together(made: list[Tensor]) -> Tensor:
    return made[0] if len(made) == 1 else torch.cat(made)


def _filled_up(scales: Tensor | None, rows: int) -> Tensor | None:
    """Give the scales (n, 1) of rows that were filled up to `rows` a one for each that was added."""
    return None if scales is None else F.pad(scales, (0, 0, 0, rows - len(scales)), value=1.0)
