"""Puts packed layers into a network: those that compute in the precision in which this CPU is fastest."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from engines.embedded.blocks import ResidualBlock
from engines.embedded.direct_convolution import takes_packed
from engines.embedded.packed_layers import PackedConv1d, PackedLinear, Precision
from engines.embedded.packed_lstm import PackedLSTM
from engines.embedded.packed_residual import PackedResidualBlock

_Packed = PackedConv1d | PackedLinear | PackedLSTM | PackedResidualBlock


def fastest(bf16: bool | Literal["auto"] = "auto", int8: bool | Literal["auto"] = "auto") -> Precision:
    """Tell what this CPU multiplies fastest: bfloat16 with AMX, integers with VNNI alone, float32 with neither.

    Without VNNI sums of 8-bit products may overflow. Bfloat16 without AMX is slower than integers.

    Args:
        bf16: False: no bfloat16; True: bfloat16 where oneDNN has it for this CPU.
        int8: False: no integers; True: integers.
    """
    if not torch.backends.mkldnn.is_available():
        return "float32"
    if int8 is True:
        return "int8"
    if bf16 is True and takes_packed(torch.bfloat16) or bf16 == "auto" and torch.cpu._is_amx_tile_supported():
        return "bfloat16"
    return "int8" if int8 == "auto" and torch.cpu._is_vnni_supported() else "float32"


def put_into(network: nn.Module, precision: Precision, least: int = 1 << 16) -> None:
    """Replace the LSTMs and residual blocks of a network, and other layers that have `least` weights or more.

    LSTMs compute in bfloat16 or float32, as oneDNN has none in integers that would take its inputs as they come.
    """
    for name, child in list(network.named_children()):
        made = _packed(child, precision, least)
        if made is not None:
            setattr(network, name, made)
        put_into(child if made is None else made, precision, least)


def _packed(layer: nn.Module, precision: Precision, least: int) -> nn.Module | None:
    """Return what does the same as a layer; None if there is nothing, or nothing to gain."""
    if isinstance(layer, ResidualBlock):
        return PackedResidualBlock(layer, precision)
    if isinstance(layer, nn.LSTM):
        return PackedLSTM(layer, torch.bfloat16 if precision == "bfloat16" else torch.float32)
    if isinstance(layer, nn.Linear) and layer.weight.numel() >= least:
        return PackedLinear(layer, precision)
    if type(layer) is nn.Conv1d and layer.weight.numel() >= least:
        return PackedConv1d(layer, precision)
    return None


@torch.inference_mode()
def warm_up(network: nn.Module) -> None:
    """Have all kernels of a network's packed layers compiled, so that no text waits for it."""
    for module in network.modules():
        if isinstance(module, _Packed):
            module.warm_up()
