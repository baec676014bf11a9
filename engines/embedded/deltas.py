"""Deltas make a steered voice a fitted one: numbers that are added to the outputs of the layers that read the style.

A style has 128 numbers for all adaptive norms of decoder and vocoder together; a speaker needs more. A fit finds a
delta for each output of each such layer (fitting.py). They are a part of the voice, as two arrays of float16: those of
the decoder, 18,964, and those of the vocoder, 18,432, which travel on with the mel. Together they have 75 kB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

OF_DECODER, OF_VOCODER = "decoder_deltas", "vocoder_deltas"  #: names in a voice's arrays


def stacked(members: Sequence[np.ndarray | None], device: torch.device | str = "cpu") -> torch.Tensor | None:
    """Return the deltas of a batch, float32 (B, D), with zeros for members without; None if none has any."""
    import torch  # the ingress, which mixes voices, needs the names above, and no torch

    known = [member for member in members if member is not None]
    if not known:
        return None
    rows = np.zeros((len(members), len(known[0])), np.float32)
    for row, member in zip(rows, members, strict=True):
        if member is not None:
            row[:] = member
    return torch.from_numpy(rows).to(device)
