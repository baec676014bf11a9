"""Mixes voices: the weighted mean of the numbers that a voice consists of.

The layers that read a style are affine, and a fitted voice's deltas are added to their outputs. So each adaptive norm
of decoder and vocoder gets just the mean of what the members give it, also where only some of them are fitted.
The pitch is the mean of the logarithms: halfway between 110 and 220 Hz lies 156 Hz, six semitones from both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engines.contract import Voice
from engines.embedded.deltas import OF_DECODER, OF_VOCODER


def mix(voices: Sequence[Voice], weights: Sequence[float]) -> Voice:
    """Return the mean of the voices. It has no embeddings, which only a fit reads.

    Args:
        voices: steered or fitted, as the speaker encoder or a fit made them.
        weights: above 0, one for each voice; their sum may be anything.
    """
    arrays = {
        name: np.average([voice.arrays[name] for voice in voices], axis=0, weights=weights).astype(np.float32)
        for name in ("style_offset", "log_f0")
    }
    for name in (OF_DECODER, OF_VOCODER):
        deltas = [voice.arrays.get(name) for voice in voices]
        if any(member is not None for member in deltas):
            rows = [np.float32(0) if member is None else member.astype(np.float32) for member in deltas]
            mean = np.average(np.stack(np.broadcast_arrays(*rows)), axis=0, weights=weights)
            arrays[name] = mean.astype(np.float16)
    return Voice(arrays)
