"""A recorder without a GPU: what was recorded is computed anew into the same buffers, as a CUDA graph does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from engines.cosyvoice3.capture import Recorded


def replaying(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Recorded:
    """A `capture.Recorder`. The function is called at each replay, reads `inputs` and fills the first outputs.

    Until the first replay the outputs hold NaN, or the smallest number of their type.
    """
    outputs = function(*inputs)
    kept = _tensors(outputs)
    for tensor in kept:
        tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(tensor.dtype).min)

    def replay() -> None:
        for tensor, value in zip(kept, _tensors(function(*inputs)), strict=True):
            tensor.copy_(value)

    return Recorded(inputs, outputs, replay)


def _tensors(outputs: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(outputs)[0] if isinstance(leaf, Tensor)]
