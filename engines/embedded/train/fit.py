"""Fits the mapper to the bank: it finds the style that gives the speaker encoder a certain result.

Styles are described in the principal components of the stock voices, acoustic and prosody half apart, scaled to unit
variance. The bank says how an input (d-vector and pitch) follows from them: input = mean + A z + noise, with A by
least squares and the noise's covariance from what is left over. The mapper turns that round: the most probable z for
an input, with the bank's own covariance of z as the prior, weakened by `PRIOR` (a whole prior pulls every speaker
toward the mean voice), and a gain on the acoustic half. Coordinates that the encoder doesn't hear stay near the mean by
themselves, where a regression of z on the input with all of the gain on top would exaggerate them: less alike, and more
artefacts.

A reference clip is a recording, with a room, a microphone and noise; synthetic speech has none of these. So every clip
is encoded three times, twice through a random room, and the rooms' effect on the input becomes part of the noise.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from engines.embedded.mapper import ACOUSTIC, DATA, PROSODY
from engines.embedded.pitch import median_log_f0
from engines.embedded.speaker import DVectorNetwork, load_network, without_pauses
from engines.embedded.train.rooms import through_a_room

ACOUSTIC_AXES, PROSODY_AXES = 24, 16
ROOMS = 2  #: times each clip is encoded through a room, besides once without
PRIOR = 0.3  #: weight of the prior; a smaller one follows the reference more closely, until there are artefacts
#: Factor on the acoustic half's most probable distance from the mean: the prior and the rooms' noise draw every speaker
#: toward the mean. It was chosen of 1, 1.3 and 1.6, by CAM++ on every other speaker and two sentences of bench.voice
#: (+0.067, +0.080 and +0.080 over the better fixed voice; worst DNSMOS 3.19, 3.06 and 3.01). On the prosody half as
#: well it gained nothing (+0.074).
ACOUSTIC_GAIN = 1.3
#: How far Mandarin speech goes from the mean of all stock voices toward that of the native ones, acoustic half.
MANDARIN_SHARE = 0.7
_SHRINKAGE = 0.3  # shrinks the noise's covariance toward a diagonal one: 257 dimensions from some thousand clips
_RIDGE = 3.0  # penalty on A, in clips


@dataclass(frozen=True)
class Heard:
    """The speaker encoder's results for the bank: n clips, each `1 + ROOMS` times."""

    inputs: np.ndarray  #: (n, 1 + ROOMS, 257) d-vector and log F0
    deviations: np.ndarray  #: (n, 256) style minus the mean pack's


def listen(folder: Path, seed: int) -> Heard:
    """Run the speaker encoder over all clips of the bank; clips without a pitch are left out."""
    network = load_network()
    heard = [listen_to(path, network, seed) for path in sorted(folder.glob("*.npz"))]
    inputs, deviations = zip(*(one for one in heard if one is not None), strict=True)
    return Heard(np.stack(inputs), np.stack(deviations))


def listen_to(path: Path, network: DVectorNetwork, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Encode a clip: returns inputs (1 + ROOMS, 257) and deviation (256,), or None if it has no pitch."""
    with np.load(path) as clip:
        wave, deviation = clip["wave"].astype(np.float32) / 32767, clip["style"] - clip["mean"]
    log_f0 = median_log_f0(wave)
    if log_f0 is None:
        return None
    random = np.random.default_rng([seed, int(path.stem)])
    views = [wave, *(through_a_room(wave, random) for _ in range(ROOMS))]
    with torch.inference_mode():
        dvectors = network([without_pauses(view) for view in views]).numpy()
    return np.concatenate([dvectors, np.full((len(views), 1), log_f0, np.float32)], axis=1), deviation


def principal_axes(packs: np.ndarray, half: slice, count: int) -> np.ndarray:
    """Find `count` axes (count, 128) of the stock voices' deviations, each as long as its standard deviation.

    The rows of a pack differ little; the mean over texts of 20 to 120 tokens stands for the voice.
    """
    voices = (packs - packs.mean(axis=0))[:, 20:120, half].mean(axis=1)
    voices -= voices.mean(axis=0)
    _, spread, axes = np.linalg.svd(voices, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # the same sign on every machine
    return axes[:count] * (spread[:count] / np.sqrt(len(voices)))[:, None]


def coordinates(deviations: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Convert deviations (n, 128) to coordinates (n, count) on scaled orthogonal axes."""
    return deviations @ axes.T / (axes**2).sum(axis=1)


def invert(inputs: np.ndarray, coordinates: np.ndarray, prior: float = PRIOR) -> tuple[np.ndarray, ...]:
    """Find the linear map from an input to its most probable coordinates, bias + (x - mean) @ weights.

    Args:
        inputs: (n, views, 257).
        coordinates: (n, d), those of the inputs.
        prior: weight of the prior.

    Returns:
        Input mean (257,), weights (257, d), bias (d,).
    """
    views, size = inputs.shape[1:]
    x = inputs.reshape(-1, size).astype(np.float64)
    z = np.repeat(coordinates, views, axis=0).astype(np.float64)
    mean, bias = x.mean(axis=0), z.mean(axis=0)
    x, z = x - mean, z - bias
    response = np.linalg.solve(z.T @ z + _RIDGE * views * np.eye(z.shape[1]), z.T @ x)  # A, transposed: (d, 257)
    noise = x - z @ response
    precision = np.linalg.inv(_shrunk(noise.T @ noise / len(noise)))
    evidence = response @ precision
    weights = np.linalg.solve(evidence @ response.T + prior * np.linalg.inv(np.cov(z.T)), evidence).T
    return mean, weights, bias


def _shrunk(covariance: np.ndarray) -> np.ndarray:
    """Shrink a covariance toward a diagonal with equal d-vector dimensions; the pitch, the last, keeps its variance."""
    diagonal = np.full(len(covariance), np.diag(covariance)[:-1].mean())
    diagonal[-1] = covariance[-1, -1]
    return (1 - _SHRINKAGE) * covariance + _SHRINKAGE * np.diag(diagonal)


def fit(heard: Heard, packs: dict[str, np.ndarray], prior: float = PRIOR) -> dict[str, np.ndarray]:
    """Fit the mapper's arrays, named as in `StyleMapper`."""
    stacked = np.stack(list(packs.values()))
    acoustic_axes = principal_axes(stacked, ACOUSTIC, ACOUSTIC_AXES)
    prosody_axes = principal_axes(stacked, PROSODY, PROSODY_AXES)
    styles = np.concatenate(
        [
            coordinates(heard.deviations[:, ACOUSTIC], acoustic_axes),
            coordinates(heard.deviations[:, PROSODY], prosody_axes),
        ],
        axis=1,
    )
    mean, weights, bias = invert(heard.inputs, styles, prior)
    weights = with_gain(weights, len(acoustic_axes))
    mandarin = [index for index, name in enumerate(packs) if name.startswith("z")]
    toward_mandarin = (stacked[mandarin].mean(axis=0) - stacked.mean(axis=0))[:, ACOUSTIC]
    return {
        "input_mean": mean.astype(np.float32),
        "weights": weights.astype(np.float32),
        "bias": bias.astype(np.float32),
        "acoustic_axes": acoustic_axes.astype(np.float32),
        "prosody_axes": prosody_axes.astype(np.float32),
        "mean_pack": stacked.mean(axis=0).astype(np.float16),
        "zh_acoustic": (MANDARIN_SHARE * toward_mandarin).astype(np.float16),
        "zh_prosody": stacked[mandarin][:, :, PROSODY].astype(np.float16),
        # The bank's first clips are the stock voices, in this order.
        "zh_log_f0": heard.inputs[mandarin, 0, -1].astype(np.float32),
    }


def with_gain(weights: np.ndarray, acoustic: int) -> np.ndarray:
    """Scale weights (257, d): the first `acoustic` coordinates lie `ACOUSTIC_GAIN` times as far from the mean."""
    return weights * np.where(np.arange(weights.shape[1]) < acoustic, ACOUSTIC_GAIN, 1).astype(weights.dtype)


def save(arrays: dict[str, np.ndarray], path: Path = DATA) -> str:
    """Write the mapper and its checksum; returns the SHA-256."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cast(dict[str, Any], arrays))
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path.write_bytes(buffer.getvalue())
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
    return digest
