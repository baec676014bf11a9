"""Loads Kokoro-82M's vocoder in the form that is fastest on the device.

Both forms make a 24 kHz waveform from features and pitch. On a GPU the padded batch of `istftnet` is computed at once.
On a CPU each member is computed by itself (`istftnet_cpu`), since there a batch only adds cache misses. Both are called
the same way and agree within 1e-3 in float32.
"""

from __future__ import annotations

from typing import Literal

import torch

from engines.embedded import quantized
from engines.embedded.istftnet import SAMPLE_RATE, SAMPLES_PER_COLUMN, VocoderNetwork
from engines.embedded.istftnet_cpu import CpuVocoder

__all__ = ["SAMPLES_PER_COLUMN", "SAMPLE_RATE", "CpuVocoder", "VocoderNetwork", "load", "load_network"]


def load(
    device: torch.device | str = "cpu", bf16: bool | Literal["auto"] = "auto", threads: int = 1
) -> CpuVocoder | VocoderNetwork:
    """Load the vocoder with Kokoro's weights.

    Args:
        device: `cpu`, or anything else torch knows.
        threads: that compute on a CPU.
        bf16: True: a CPU convolves in bfloat16; "auto": if it has instructions for it. A GPU stays in float32.

    Raises:
        WeightsError: the weights are missing or damaged.
    """
    network = load_network()
    if torch.device(device).type != "cpu":
        return network.to(device)
    return CpuVocoder(network, has_bf16_instructions() if bf16 == "auto" else bf16, threads)


def load_network() -> VocoderNetwork:
    """Load the plain network on the CPU, in float32."""
    return quantized.fill(VocoderNetwork(), {"": "decoder.decoder.generator."})


def has_bf16_instructions() -> bool:
    """Tell if this CPU multiplies bfloat16 in hardware (AVX512-BF16 or AMX); emulated, it is slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
