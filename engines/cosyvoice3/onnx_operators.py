"""The ONNX operators of speech networks, with torch. `OPERATORS` has them by their names.

An operator takes its node's attributes and inputs, None for an input that is left out. Attributes also hold `opset`,
the version of the operators, and `count`, the number of outputs. https://onnx.ai/onnx/operators defines them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]

#: ONNX's numbers for element types (TensorProto.DataType)
_TYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def _unary(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, x: function(x)


def _binary(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, x, y: function(x, y)


def _many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def apply(attributes: Attributes, first: Tensor, *others: Tensor) -> Tensor:
        for other in others:
            first = function(first, other)
        return first

    return apply


def _numbers(value: Tensor) -> list[int]:
    return [int(each) for each in value.reshape(-1).tolist()]


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _modulo(attributes: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if attributes.get("fmod", 0) else torch.remainder(x, y)


def _power(x: Tensor, y: Tensor) -> Tensor:
    return x.pow(float(y) if y.numel() == 1 and y.device.type == "cpu" else y).to(x.dtype)


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    return x.to(_TYPES[attributes["to"]])


def _clip(attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    bounds = [attributes.get(name) if bound is None else float(bound) for name, bound in (("min", low), ("max", high))]
    return x if bounds == [None, None] else x.clamp(*bounds)


def _shape(attributes: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[attributes.get("start", 0) : attributes.get("end")], dtype=torch.int64)


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = _numbers(shape)
    if not attributes.get("allowzero", 0):
        wanted = [x.shape[index] if size == 0 else size for index, size in enumerate(wanted)]
    return x.reshape(wanted)


def _axes(attributes: Attributes, given: Tensor | None) -> list[int] | None:
    """Return axes, an input in newer versions of the operators and an attribute in older ones."""
    return _numbers(given) if given is not None else attributes.get("axes")


def _squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attributes, axes)
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = _axes(attributes, axes) or []
    dims = x.dim() + len(chosen)
    for axis in sorted(axis % dims for axis in chosen):
        x = x.unsqueeze(axis)
    return x


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm") or list(range(x.dim()))[::-1])


def _concat(attributes: Attributes, *parts: Tensor) -> Tensor:
    home = next((each.device for each in parts if each.device.type != "cpu"), parts[0].device)
    return torch.cat([each.to(home) for each in parts], dim=attributes["axis"])


def _split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> list[Tensor]:
    axis = attributes.get("axis", 0)
    given = _numbers(sizes) if sizes is not None else attributes.get("split")
    return list(x.split(given or -(-x.shape[axis] // attributes["count"]), dim=axis))


def _slice(
    attributes: Attributes,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first, last = (
        _numbers(given) if given is not None else attributes[name]
        for name, given in (("starts", starts), ("ends", ends))
    )
    chosen = _axes(attributes, axes) or list(range(len(first)))
    strides = _numbers(steps) if steps is not None else [1] * len(first)
    for axis, start, end, step in zip(chosen, first, last, strides, strict=True):
        places = range(x.shape[axis])[slice(start, end if step > 0 or end >= -x.shape[axis] else None, step)]
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(places.start, max(places.start, places.stop), step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
    return x


def _gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.dim()
    if indices.dim() == 0 and indices.device.type == "cpu":
        return x.select(axis, int(indices))
    places = indices.to(x.device, torch.int64)
    places = torch.where(places < 0, places + x.shape[axis], places)
    return x.index_select(axis, places.reshape(-1)).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0)
    places = indices.to(x.device)
    return x.gather(axis, torch.where(places < 0, places + x.shape[axis], places))


def _expand(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, _numbers(shape)))


def _tile(attributes: Attributes, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(_numbers(repeats))


def _range(attributes: Attributes, start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def _constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = attributes.get("value", torch.zeros(1))
    return value.reshape(()).expand(_numbers(shape)).clone()


def _pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = _numbers(pads) if pads is not None else attributes["pads"]
    chosen = _numbers(axes) if axes is not None else list(range(len(amounts) // 2))
    both = {axis % x.dim(): (amounts[i], amounts[i + len(chosen)]) for i, axis in enumerate(chosen)}
    mode = attributes.get("mode", "constant")
    if mode == "constant":
        flat = [amount for axis in reversed(range(x.dim())) for amount in both.get(axis, (0, 0))]
        fill = attributes.get("value", 0.0) if value is None else value.item()
        return F.pad(x, flat, value=fill)
    last = max((axis for axis, pair in both.items() if any(pair)), default=x.dim() - 1)
    first = min((axis for axis, pair in both.items() if any(pair)), default=last)
    flat = [amount for axis in range(x.dim() - 1, first - 1, -1) for amount in both.get(axis, (0, 0))]
    return F.pad(x, flat, mode="replicate" if mode == "edge" else str(mode))


def _where(attributes: Attributes, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return torch.where(condition, x, y)


def _cumulated(attributes: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    if attributes.get("exclusive", 0) or attributes.get("reverse", 0):
        raise NotImplementedError("an exclusive or reverse CumSum")
    return x.cumsum(int(axis)).to(x.dtype)


def _reducing(function: Callable[..., Tensor]) -> Operator:
    def apply(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        chosen = _axes(attributes, axes)
        if not chosen:
            if attributes.get("noop_with_empty_axes", 0):
                return x
            chosen = list(range(x.dim()))
        return function(x, chosen, bool(attributes.get("keepdims", 1))).to(x.dtype)

    return apply


def _product(x: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _arg(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, x: function(x, attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1)))


def _softmax(function: Callable[..., Tensor]) -> Operator:
    def apply(attributes: Attributes, x: Tensor) -> Tensor:
        if attributes["opset"] >= 13:
            return function(x, dim=attributes.get("axis", -1))
        # Older versions flatten all axes from `axis` on.
        axis = attributes.get("axis", 1) % x.dim()
        return function(x.reshape(math.prod(x.shape[:axis]), -1), dim=1).reshape(x.shape)

    return apply


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    made = attributes.get("alpha", 1.0) * (a @ b)
    return made if c is None else made + attributes.get("beta", 1.0) * c


_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def _convolution(attributes: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dims = x.dim() - 2
    strides, dilations = (attributes.get(name) or [1] * dims for name in ("strides", "dilations"))
    x, pads = _padded(attributes, x, list(weight.shape[2:]), strides, dilations)
    return _CONVOLUTIONS[dims](x, weight, bias, strides, pads, dilations, attributes.get("group", 1))


def _padded(
    attributes: Attributes, x: Tensor, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[Tensor, list[int]]:
    """Return the input, and the padding that a convolution adds itself. Uneven padding is added to the input here."""
    dims = len(kernel)
    pads = attributes.get("pads") or [0] * 2 * dims
    kind = attributes.get("auto_pad", "NOTSET")
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
            for size, stride, width, dilation in zip(x.shape[2:], strides, kernel, dilations, strict=True)
        ]
        less, more = [each // 2 for each in total], [each - each // 2 for each in total]
        pads = [*less, *more] if kind == "SAME_UPPER" else [*more, *less]
    begins, ends = list(pads[:dims]), list(pads[dims:])
    if begins == ends:
        return x, begins
    return F.pad(x, [each for pair in reversed(list(zip(begins, ends, strict=True))) for each in pair]), [0] * dims


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    strides = attributes.get("strides") or [1] * len(kernel)
    pads = attributes.get("pads") or [0] * 2 * len(kernel)
    if pads[: len(kernel)] != pads[len(kernel) :] or any(each != 1 for each in attributes.get("dilations") or []):
        raise NotImplementedError("an AveragePool with uneven padding or dilations")
    pool: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[len(kernel)]
    inside = bool(attributes.get("count_include_pad", 0))
    return pool(x, kernel, strides, pads[: len(kernel)], bool(attributes.get("ceil_mode", 0)), inside)


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    pads = attributes.get("pads") or [0] * 2 * len(kernel)
    if pads[: len(kernel)] != pads[len(kernel) :] or attributes["count"] > 1:
        raise NotImplementedError("a MaxPool with uneven padding, or with its indices")
    pool: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel)]
    strides = attributes.get("strides") or [1] * len(kernel)
    dilations = attributes.get("dilations") or [1] * len(kernel)
    return pool(x, kernel, strides, pads[: len(kernel)], dilations, bool(attributes.get("ceil_mode", 0)))


def _batch_normalization(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor):
    if attributes.get("training_mode", 0):
        raise NotImplementedError("a BatchNormalization that learns")
    return F.batch_norm(x, mean, var, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _layer_normalization(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    if attributes["count"] > 1:
        raise NotImplementedError("a LayerNormalization that returns mean and deviation")
    axis = attributes.get("axis", -1) % x.dim()
    return F.layer_norm(x, x.shape[axis:], scale, bias, attributes.get("epsilon", 1e-5))


def _instance_normalization(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=attributes.get("approximate", "none"))


def _top_k(attributes: Attributes, x: Tensor, k: Tensor) -> list[Tensor]:
    found = x.topk(int(k), attributes.get("axis", -1), bool(attributes.get("largest", 1)))
    return [found.values, found.indices]


def _trilu(attributes: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    return (torch.triu if attributes.get("upper", 1) else torch.tril)(x, 0 if k is None else int(k))


_UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs, "Ceil": torch.ceil, "Cos": torch.cos, "Erf": torch.erf, "Exp": torch.exp,
    "Floor": torch.floor, "Identity": lambda x: x, "IsNaN": torch.isnan, "Log": torch.log, "Neg": torch.neg,
    "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Softplus": F.softplus,
    "Sqrt": torch.sqrt, "Tanh": torch.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add, "And": torch.logical_and, "Div": _divide, "Equal": torch.eq, "Greater": torch.gt,
    "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le, "MatMul": torch.matmul,
    "Mul": torch.mul, "Or": torch.logical_or, "Pow": _power, "Sub": torch.sub, "Xor": torch.logical_xor,
}  # fmt: skip
_REDUCING: dict[str, Callable[..., Tensor]] = {
    "ReduceL2": lambda x, axes, keep: x.square().sum(axes, keep).sqrt(),
    "ReduceMax": torch.amax, "ReduceMean": torch.mean, "ReduceMin": torch.amin, "ReduceProd": _product,
    "ReduceSum": torch.sum, "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
}  # fmt: skip

OPERATORS: dict[str, Operator] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    **{name: _binary(function) for name, function in _BINARY.items()},
    **{name: _reducing(function) for name, function in _REDUCING.items()},
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "CastLike": lambda attributes, x, like: x.to(like.dtype),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _convolution,
    "CumSum": _cumulated,
    "Dropout": lambda attributes, x, *_: x,
    "Einsum": lambda attributes, *parts: torch.einsum(attributes["equation"], *parts),
    "Elu": lambda attributes, x: F.elu(x, attributes.get("alpha", 1.0)),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda attributes, x: x.mean(tuple(range(2, x.dim())), keepdim=True),
    "InstanceNormalization": _instance_normalization,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda attributes, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Max": _many(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _many(torch.minimum),
    "Mod": _modulo,
    "Pad": _pad,
    "PRelu": _binary(lambda x, slope: torch.where(x < 0, x * slope, x)),
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda attributes, x: torch.tensor(x.numel()),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Split": _split,
    "Squeeze": _squeeze,
    "Sum": _many(torch.add),
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}  # fmt: skip

#: operators that read their inputs after the first on the host: shapes, axes and bounds
READING = frozenset(
    {"Clip", "CumSum", "Expand", "Gather", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "TopK", "Trilu"}
    | {"Unsqueeze"}
    | {name for name in OPERATORS if name.startswith("Reduce")}
)
