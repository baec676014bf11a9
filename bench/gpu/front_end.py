"""Writes ONNX graphs with the operators and sizes of the front end's two models, with random weights.

The official files are not at hand. These are built after the published descriptions: a speech tokenizer of Whisper's
encoder blocks with rotary positions, a memory convolution and finite scalar quantisation, and CAM++ of densely
connected convolutions. Official exports hold such operators in other orders.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

_OPSET, _FORMAT = 17, 9
BANDS, EMBEDDING = 128, 192


@dataclass(frozen=True)
class Sizes:
    """The sizes of both models.

    Args:
        width, heads, layers: of the tokenizer's blocks.
        blocks: the layers in each of CAM++'s blocks.
        channels: of its first layer.
    """

    width: int
    heads: int
    layers: int
    blocks: tuple[int, ...]
    channels: int


TINY = Sizes(32, 2, 2, (2, 1), 16)
FULL = Sizes(1280, 20, 12, (12, 24, 16), 128)


class _Writer:
    """The nodes of a graph under way. A method adds nodes and returns the name of their result."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._random = torch.Generator().manual_seed(seed)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(value, dtype)
        return name

    def whole(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, *shape: int, fan: int) -> str:
        return self.constant(torch.randn(shape, generator=self._random).mul_(fan**-0.5).numpy())

    def linear(self, x: str, ins: int, outs: int) -> str:
        return self.add("Add", self.add("MatMul", x, self.weight(ins, outs, fan=ins)), self.constant(np.zeros(outs)))

    def convolution(self, x: str, ins: int, outs: int, kernel: list[int], **attributes: Any) -> str:
        groups = attributes.get("group", 1)
        weight = self.weight(outs, ins // groups, *kernel, fan=ins // groups * int(np.prod(kernel)))
        return self.add("Conv", x, weight, kernel_shape=kernel, **attributes)

    def gelu(self, x: str) -> str:
        half = self.add("Mul", x, self.constant(0.5))
        grown = self.add("Erf", self.add("Div", x, self.constant(2**0.5)))
        return self.add("Mul", half, self.add("Add", grown, self.constant(1.0)))

    def layer_norm(self, x: str, width: int) -> str:
        centred = self.add("Sub", x, self.add("ReduceMean", x, axes=[-1]))
        variance = self.add("ReduceMean", self.add("Pow", centred, self.constant(2.0)), axes=[-1])
        spread = self.add("Sqrt", self.add("Add", variance, self.constant(1e-5)))
        return self.add("Mul", self.add("Div", centred, spread), self.constant(np.ones(width)))

    def batch_norm(self, x: str, channels: int) -> str:
        ones, zeros = self.constant(np.ones(channels)), self.constant(np.zeros(channels))
        return self.add("BatchNormalization", x, ones, zeros, zeros, ones)

    def size(self, x: str, axis: int) -> str:
        return self.add("Gather", self.add("Shape", x), self.whole(axis))

    def write(self, path: Path, inputs: list[tuple[str, int, list]], output: tuple[str, int, list]) -> None:
        import onnx
        from onnx import helper, numpy_helper

        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(*each) for each in inputs],
            [helper.make_tensor_value_info(*output)],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_FORMAT)
        onnx.save(model, str(path))


def write_tokenizer(path: Path, sizes: Sizes, seed: int = 0) -> None:
    """Write the speech tokenizer: mel (1, 128, frames) and frames (1,) int32 into tokens (1, frames / 4) int32."""
    from onnx import TensorProto

    w, width, head = _Writer(seed), sizes.width, sizes.width // sizes.heads
    x = w.gelu(w.convolution("feats", BANDS, width, [3], strides=[2], pads=[1, 1]))
    x, length = _masked(w, x, _halved(w, w.add("Cast", "feats_length", to=TensorProto.INT64)))
    x = w.gelu(w.convolution(x, width, width, [3], strides=[2], pads=[1, 1]))
    x, length = _masked(w, x, _halved(w, length))
    x = w.add("Transpose", x, perm=[0, 2, 1])
    seen = w.add("Cast", _own(w, x, 1, length), to=TensorProto.FLOAT)
    mask = w.add("Unsqueeze", seen, w.whole(2))
    bias = w.add("Mul", w.add("Sub", w.constant(1.0), seen), w.constant(-1e10))
    bias = w.add("Unsqueeze", bias, w.whole(1, 2))
    angles = np.arange(2048)[:, None] / 10_000 ** (np.arange(head // 2) / (head // 2))
    tables = [w.constant(np.tile(function(angles), 2)) for function in (np.cos, np.sin)]
    cos, sin = (
        w.add("Unsqueeze", w.add("Slice", table, w.whole(0), w.size(x, 1), w.whole(0)), w.whole(0, 2))
        for table in tables
    )

    def rotated(q: str) -> str:
        first = w.add("Slice", q, w.whole(0), w.whole(head // 2), w.whole(3))
        second = w.add("Slice", q, w.whole(head // 2), w.whole(2**31 - 1), w.whole(3))
        turned = w.add("Concat", w.add("Neg", second), first, axis=3)
        return w.add("Add", w.add("Mul", q, cos), w.add("Mul", turned, sin))

    for _ in range(sizes.layers):
        normed = w.layer_norm(x, width)
        shape = w.add("Concat", w.size(x, 0), w.size(x, 1), w.whole(sizes.heads, head), axis=0)
        q, k, v = (w.add("Reshape", w.linear(normed, width, width), shape) for _ in range(3))
        flat = w.add("Mul", w.add("Reshape", v, w.add("Shape", x)), mask)
        memory = w.add("Pad", w.add("Transpose", flat, perm=[0, 2, 1]), w.whole(0, 0, 15, 0, 0, 15))
        memory = w.add("Transpose", w.convolution(memory, width, width, [31], group=width), perm=[0, 2, 1])
        memory = w.add("Mul", w.add("Add", memory, flat), mask)
        q, v = w.add("Transpose", rotated(q), perm=[0, 2, 1, 3]), w.add("Transpose", v, perm=[0, 2, 1, 3])
        k = w.add("Transpose", rotated(k), perm=[0, 2, 3, 1])
        scores = w.add("Add", w.add("Mul", w.add("MatMul", q, k), w.constant(head**-0.5)), bias)
        found = w.add("Transpose", w.add("MatMul", w.add("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        found = w.linear(w.add("Reshape", found, w.add("Shape", x)), width, width)
        x = w.add("Add", x, w.add("Add", found, memory))
        inner = w.gelu(w.linear(w.layer_norm(x, width), width, 4 * width))
        x = w.add("Add", x, w.linear(inner, 4 * width, width))
    level = w.add("Round", w.add("Mul", w.add("Tanh", w.linear(x, width, 8)), w.constant(0.999)))
    digits = w.add("Mul", w.add("Add", level, w.constant(1.0)), w.constant(3.0 ** np.arange(8)))
    sums = w.add("ReduceSum", digits, w.whole(-1), keepdims=0)
    w.nodes.append(_named("Cast", sums, "indices", to=TensorProto.INT32))
    w.write(
        path,
        [("feats", TensorProto.FLOAT, [1, BANDS, "T"]), ("feats_length", TensorProto.INT32, [1])],
        ("indices", TensorProto.INT32, [1, "t"]),
    )


def write_campplus(path: Path, sizes: Sizes, seed: int = 0) -> None:
    """Write CAM++: filter bank (n, frames, 80) into the speaker's embedding (n, 192)."""
    from onnx import TensorProto

    w, growth, planes = _Writer(seed), 32, sizes.channels // 4
    x = w.add("Unsqueeze", w.add("Transpose", "input", perm=[0, 2, 1]), w.whole(1))
    ins = 1
    for stride in (1, 2, 1, 2, 1, 2):
        y = w.convolution(x, ins, planes, [3, 3], strides=[stride, 1], pads=[1] * 4)
        x, ins = w.add("Relu", w.batch_norm(y, planes)), planes
    x = w.add("Reshape", x, w.add("Concat", w.size(x, 0), w.whole(10 * planes), w.size(x, 3), axis=0))
    x = w.convolution(x, 10 * planes, sizes.channels, [5], strides=[2], pads=[2, 2])
    channels = sizes.channels
    for index, layers in enumerate(sizes.blocks):
        dilation = 1 if index == 0 else 2
        for _ in range(layers):
            inner = w.add("Relu", w.batch_norm(x, channels))
            inner = w.add("Relu", w.batch_norm(w.convolution(inner, channels, 4 * growth, [1]), 4 * growth))
            local = w.convolution(inner, 4 * growth, growth, [3], dilations=[dilation], pads=[dilation, dilation])
            context = w.add("Add", w.add("ReduceMean", inner, axes=[-1]), _segments(w, inner))
            context = w.add("Relu", w.convolution(context, 4 * growth, 2 * growth, [1]))
            gate = w.add("Sigmoid", w.convolution(context, 2 * growth, growth, [1]))
            x, channels = w.add("Concat", x, w.add("Mul", local, gate), axis=1), channels + growth
        x = w.convolution(w.add("Relu", w.batch_norm(x, channels)), channels, channels // 2, [1])
        channels //= 2
    x = w.add("Relu", w.batch_norm(x, channels))
    mean = w.add("ReduceMean", x, axes=[-1])
    squares = w.add("ReduceMean", w.add("Pow", w.add("Sub", x, mean), w.constant(2.0)), axes=[-1])
    x = w.add("Concat", mean, w.add("Sqrt", w.add("Add", squares, w.constant(1e-5))), axis=1)
    x = w.convolution(x, 2 * channels, EMBEDDING, [1])
    w.nodes.append(_named("Flatten", x, "output"))
    w.write(
        path,
        [("input", TensorProto.FLOAT, ["B", "T", 80])],
        ("output", TensorProto.FLOAT, ["B", EMBEDDING]),
    )


def _segments(w: _Writer, x: str) -> str:
    """Give each frame the mean of its segment of 100 frames."""
    pooled = w.add("AveragePool", x, kernel_shape=[100], strides=[100], ceil_mode=1, count_include_pad=0)
    shape = w.add("Shape", pooled)
    wide = w.add("Expand", w.add("Unsqueeze", pooled, w.whole(3)), w.add("Concat", shape, w.whole(100), axis=0))
    front = w.add("Slice", shape, w.whole(0), w.whole(2), w.whole(0))
    long = w.add("Reshape", wide, w.add("Concat", front, w.whole(-1), axis=0))
    return w.add("Slice", long, w.whole(0), w.size(x, 2), w.whole(2))


def _halved(w: _Writer, length: str) -> str:
    """Return (length + 1) / 2, the frames after a convolution of stride 2."""
    return w.add("Div", w.add("Add", length, w.whole(1)), w.whole(2))


def _own(w: _Writer, x: str, axis: int, length: str) -> str:
    """Return the mask (n, frames) of each row's own frames."""
    zero, one = w.constant(0, np.int64), w.constant(1, np.int64)
    end = w.add("Squeeze", w.size(x, axis), w.whole(0))
    places = w.add("Unsqueeze", w.add("Range", zero, end, one), w.whole(0))
    return w.add("Less", places, w.add("Unsqueeze", length, w.whole(1)))


def _masked(w: _Writer, x: str, length: str) -> tuple[str, str]:
    """Set frames (n, channels, frames) beyond each row's length to zero."""
    from onnx import TensorProto

    own = w.add("Unsqueeze", w.add("Cast", _own(w, x, 2, length), to=TensorProto.FLOAT), w.whole(1))
    return w.add("Mul", x, own), length


def _named(kind: str, source: str, target: str, **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, [source], [target], **attributes)
