"""Measure TF32 noise in the vocoder's audio: `python -m bench.gpu.tf32`, on a GPU, random weights of full size."""

from __future__ import annotations

import torch

from bench.gpu.networks import Networks
from engines.cosyvoice3.noise import Excitation


def main() -> None:
    """Print the noise in dB below the sound, for the same mels computed exactly and in TF32."""
    mels = [torch.randn(80, frames, generator=torch.Generator().manual_seed(frames)) for frames in (200, 350, 500)]
    sounds = {}
    for tf32 in (False, True):
        networks = Networks(True, "cuda", torch.bfloat16)
        networks.hift.tf32 = tf32
        sounds[tf32] = networks.hift(mels, Excitation(networks.numbers))
    for exact, rounded in zip(sounds[False], sounds[True], strict=True):
        noise = 10 * torch.log10((exact - rounded).square().sum() / exact.square().sum())
        print(f"{len(exact) / 24_000:.1f} s: {noise:.1f} dB", flush=True)


if __name__ == "__main__":
    main()
