"""Computes an ONNX graph with torch, operator by operator, on any device.

    graph = OnnxGraph(path, "cuda")
    tokens, = graph(mel, lengths)

The two ONNX models of the front end run on a GPU with it, without onnxruntime's CUDA provider. That provider must fit
the machine's CUDA, and plans its convolutions anew for each length of a clip. `onnx_operators` has the operators of
speech networks. A graph with any other is refused when it is loaded, and the caller then takes onnxruntime.

Values that only say how large others are (shapes, lengths, indices) stay on the host, so that the host waits for the
device only when it reads the results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engines.cosyvoice3.onnx_operators import OPERATORS, READING, Operator

_HOST_NUMBERS = 1024  #: whole numbers of a constant up to which it is taken for indices or a shape


class Unsupported(Exception):
    """The error of a graph that needs what is not implemented; the message names it."""


@dataclass(frozen=True)
class _Node:
    operator: Operator
    attributes: Mapping[str, Any]
    inputs: Sequence[str]
    outputs: Sequence[str]
    ends: Sequence[str]  # values that no later node needs
    reads: bool  # True: it reads its inputs after the first on the host


class OnnxGraph:
    """A graph with its constants on a device.

    Args:
        path: the file.
        device: a torch device.

    Attributes:
        inputs: the names of the inputs.

    Raises:
        Unsupported: the graph has an operator that `onnx_operators` lacks, or keeps its weights in another file.
    """

    def __init__(self, path: Path, device: str) -> None:
        import onnx

        self._device = torch.device(device)
        model = onnx.load(str(path), load_external_data=False)
        if any(each.data_location == onnx.TensorProto.EXTERNAL for each in model.graph.initializer):
            raise Unsupported("its weights are in another file")
        opset = max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)
        self._graph = _Graph(model.graph, opset, self._device, ())
        names = {each.name for each in model.graph.initializer}
        self.inputs = [each.name for each in model.graph.input if each.name not in names]

    @torch.inference_mode()
    def __call__(self, *inputs: np.ndarray) -> list[Tensor]:
        """Compute the outputs, on the device or the host. Whole numbers among the inputs stay on the host."""
        values: dict[str, Tensor] = {}
        for name, array in zip(self.inputs, inputs, strict=True):
            value = torch.from_numpy(np.ascontiguousarray(array))
            values[name] = value.to(self._device) if value.is_floating_point() else value
        # Both settings belong to the process. By default cuDNN rounds to TF32; near a boundary that is another token.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return self._graph.run(values, {})


class _Graph:
    """The nodes of a graph, or of a branch of one, in the order of the file."""

    def __init__(self, graph: Any, opset: int, device: torch.device, outside: Sequence[str]) -> None:
        self._device = device
        self._outputs = [each.name for each in graph.output]
        self._constants = {each.name: _placed(_tensor(each), device) for each in graph.initializer}
        self._moved: dict[str, Tensor] = {}  # small constants that a node needed on the device
        unknown = Counter(
            node.op_type for node in graph.node
            if node.domain not in ("", "ai.onnx") or node.op_type not in {*OPERATORS, "Constant", "If"}
        )  # fmt: skip
        if unknown:
            raise Unsupported(", ".join(f"{name} ({count} x)" for name, count in unknown.most_common()))
        nodes = []
        for node in graph.node:
            attributes = _attributes(node)
            if node.op_type == "Constant":
                value = next(iter(attributes.values()))
                constant = value if isinstance(value, Tensor) else torch.tensor(value)
                self._constants[node.output[0]] = _placed(constant, device)
                continue
            if node.op_type == "If":
                branches = [_Graph(attributes[name], opset, device, ()) for name in ("then_branch", "else_branch")]
                attributes = {"branches": branches}
            nodes.append((node, attributes))
        last = {name: index for index, (node, _) in enumerate(nodes) for name in node.input}
        inner = any(node.op_type == "If" for node, _ in nodes)  # branches use outer values that no list names
        self._nodes = []
        for index, (node, attributes) in enumerate(nodes):
            ends = [name for name in {*node.input, *node.output} if last.get(name, index) == index]
            self._nodes.append(
                _Node(
                    OPERATORS.get(node.op_type, _branch),
                    {**attributes, "opset": opset, "count": len(node.output)},
                    list(node.input),
                    list(node.output),
                    [] if inner else [name for name in ends if name and name not in self._outputs],
                    node.op_type in READING,
                )
            )

    def run(self, values: dict[str, Tensor], outer: Mapping[str, Tensor]) -> list[Tensor]:
        for node in self._nodes:
            given = [self._value(name, values, outer) for name in node.inputs]
            attributes = node.attributes
            if "branches" in attributes:
                attributes = {**attributes, "values": {**outer, **self._constants, **values}}
            else:
                given = self._together(node, given)
            made = node.operator(attributes, *given)
            for name, value in zip(node.outputs, made if isinstance(made, tuple | list) else (made,), strict=False):
                values[name] = value
            for name in node.ends:
                values.pop(name, None)
        return [value for name in self._outputs if (value := self._value(name, values, outer)) is not None]

    def _value(self, name: str, values: Mapping[str, Tensor], outer: Mapping[str, Tensor]) -> Tensor | None:
        if not name:
            return None
        for place in (values, self._constants, outer):
            if name in place:
                return place[name]
        raise Unsupported(f"a value that no node makes, {name}")

    def _together(self, node: _Node, given: list[Tensor | None]) -> list[Tensor | None]:
        """Move numbers of the host to the device where the others are there. A single number may stay."""
        if self._device.type == "cpu" or not any(each is not None and each.device.type != "cpu" for each in given):
            return given
        moved = list(given)
        for index, (name, value) in enumerate(zip(node.inputs, given, strict=True)):
            if value is None or value.device.type != "cpu" or value.dim() == 0 or index and node.reads:
                continue
            if name not in self._constants:
                moved[index] = value.to(self._device)
                continue
            if name not in self._moved:
                self._moved[name] = value.to(self._device)
            moved[index] = self._moved[name]
        return moved


def _placed(value: Tensor, device: torch.device) -> Tensor:
    """Put a constant on the device, unless it is a single number, or a few whole ones."""
    stays = value.numel() <= 1 or not value.is_floating_point() and value.numel() <= _HOST_NUMBERS
    return value if stays else value.to(device)


def _tensor(proto: Any) -> Tensor:
    from onnx import numpy_helper

    return torch.from_numpy(np.array(numpy_helper.to_array(proto)))


def _attributes(node: Any) -> dict[str, Any]:
    from onnx import AttributeProto, helper

    found: dict[str, Any] = {}
    for each in node.attribute:
        if each.type == AttributeProto.TENSOR:
            found[each.name] = _tensor(each.t)
        elif each.type == AttributeProto.GRAPH:
            found[each.name] = each.g
        else:
            value = helper.get_attribute_value(each)
            found[each.name] = value.decode() if isinstance(value, bytes) else value
    return found


def _branch(attributes: Mapping[str, Any], condition: Tensor) -> list[Tensor]:
    then, otherwise = attributes["branches"]
    return (then if bool(condition) else otherwise).run({}, attributes["values"])
