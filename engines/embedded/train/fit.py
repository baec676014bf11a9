"""From the bank to the mapper: a ridge regression of styles on what the speaker encoder heard.

Styles are described in the principal components of the stock voices, acoustic and prosody half apart, scaled to unit
variance. A reference clip is a recording, with a room, a microphone and noise; synthetic speech has none of these. So
every clip is heard three times, twice through a random room, and the regression learns to look past the room.
A ridge pulls its answers toward the mean voice; `GAIN` gives that back, which makes speakers more distinct.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engines.embedded.mapper import ACOUSTIC, DATA, PROSODY
from engines.embedded.pitch import median_log_f0
from engines.embedded.speaker import load_network, without_pauses
from engines.embedded.train.rooms import through_a_room

ACOUSTIC_AXES, PROSODY_AXES = 24, 16
ROOMS = 2  #: times each clip is heard through a room, beside once without
RIDGE = 0.3  #: penalty, in mean squared lengths of an input
GAIN = 1.5
#: Weights of the inputs before the penalty: the d-vector's distance between speakers is about 0.6, the pitch is in
#: units of ln Hz with a spread of about 0.3.
DVECTOR_SCALE, PITCH_SCALE = 8.0, 5.0


@dataclass(frozen=True)
class Heard:
    """The bank as the speaker encoder hears it: n clips, each `1 + ROOMS` times."""

    inputs: np.ndarray  #: (n, 1 + ROOMS, 257) d-vector and log F0
    deviations: np.ndarray  #: (n, 256) style minus the mean pack's


def listen(folder: Path, seed: int) -> Heard:
    """Run the speaker encoder over all clips of the bank; those without a pitch are left out."""
    network = load_network()
    inputs, deviations = [], []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as clip:
            wave, deviation = clip["wave"].astype(np.float32) / 32767, clip["style"] - clip["mean"]
        log_f0 = median_log_f0(wave)
        if log_f0 is None:
            continue
        random = np.random.default_rng([seed, int(path.stem)])
        views = [wave, *(through_a_room(wave, random) for _ in range(ROOMS))]
        with torch.inference_mode():
            dvectors = network([without_pauses(view) for view in views]).numpy()
        inputs.append(np.concatenate([dvectors, np.full((len(views), 1), log_f0, np.float32)], axis=1))
        deviations.append(deviation)
    return Heard(np.stack(inputs), np.stack(deviations))


def principal_axes(packs: np.ndarray, half: slice, count: int) -> np.ndarray:
    """(count, 128) axes of the stock voices' deviations from their mean, each as long as its standard deviation.

    The rows of a pack differ little; the mean over texts of 20 to 120 tokens stands for the voice.
    """
    voices = (packs - packs.mean(axis=0))[:, 20:120, half].mean(axis=1)
    voices -= voices.mean(axis=0)
    _, spread, axes = np.linalg.svd(voices, full_matrices=False)
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]  # the same on every machine
    return axes[:count] * (spread[:count] / np.sqrt(len(voices)))[:, None]


def coordinates(deviations: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """(n, 128) deviations -> (n, count) coordinates on scaled orthogonal axes."""
    return deviations @ axes.T / (axes**2).sum(axis=1)


def regress(inputs: np.ndarray, targets: np.ndarray, ridge: float = RIDGE) -> tuple[np.ndarray, ...]:
    """Inputs (n, 257), targets (n, d) -> input mean (257,), weights (257, d), bias (d,)."""
    scale = np.append(np.full(inputs.shape[1] - 1, DVECTOR_SCALE), PITCH_SCALE)
    mean, bias = inputs.mean(axis=0), targets.mean(axis=0)
    scaled = (inputs - mean).astype(np.float64) * scale
    penalty = ridge * (scaled**2).sum(axis=1).mean()
    weights = np.linalg.solve(scaled.T @ scaled + penalty * np.eye(scaled.shape[1]), scaled.T @ (targets - bias))
    return mean, weights * scale[:, None], bias


def fit(heard: Heard, packs: dict[str, np.ndarray], *, gain: float = GAIN, ridge: float = RIDGE,
        rooms: int = ROOMS) -> dict[str, np.ndarray]:
    """The mapper's arrays, as `StyleMapper` names them."""
    stacked = np.stack(list(packs.values()))
    acoustic_axes = principal_axes(stacked, ACOUSTIC, ACOUSTIC_AXES)
    prosody_axes = principal_axes(stacked, PROSODY, PROSODY_AXES)
    targets = np.concatenate([coordinates(heard.deviations[:, ACOUSTIC], acoustic_axes),
                              coordinates(heard.deviations[:, PROSODY], prosody_axes)], axis=1)
    views = 1 + rooms
    mean, weights, bias = regress(heard.inputs[:, :views].reshape(-1, heard.inputs.shape[2]),
                                  np.repeat(targets, views, axis=0), ridge)
    mandarin = [index for index, name in enumerate(packs) if name.startswith("z")]
    return {"input_mean": mean.astype(np.float32), "weights": (weights * gain).astype(np.float32),
            "bias": bias.astype(np.float32), "acoustic_axes": acoustic_axes.astype(np.float32),
            "prosody_axes": prosody_axes.astype(np.float32), "mean_pack": stacked.mean(axis=0).astype(np.float16),
            "zh_prosody": stacked[mandarin][:, :, PROSODY].astype(np.float16),
            # The bank's first clips are the stock voices in this order.
            "zh_log_f0": heard.inputs[mandarin, 0, -1].astype(np.float32)}


def save(arrays: dict[str, np.ndarray], path: Path = DATA) -> str:
    """Write the mapper and its checksum; returns the SHA-256."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    path.write_bytes(buffer.getvalue())
    path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")
    return digest
