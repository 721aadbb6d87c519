"""What ONNX operators compute, in torch: one small function per operator.

A function takes the attributes of its node and its input tensors (None where an optional input is
left out) and returns a tensor, or a tuple where the node has several outputs. Layers with weights
(Conv, Gemm, BatchNormalization, ...) are modules instead; `joulewise.learn.layers` makes those.

Source of every definition: the ONNX operator schemas, opset 13 to 23 (onnx.ai/onnx/operators).
Only float and integer tensors on one device are meant; sequences, maps, strings, control flow and
operators of other domains are refused when the graph is opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

__all__ = ["OPERATORS", "Attributes", "Operator"]

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]

DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip
"""onnx.TensorProto.DataType -> torch type."""


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda _, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _, a, b: function(a, b)


def _axes(attributes: Attributes, given: Tensor | None) -> list[int] | None:
    """Return the axes of a node, an input in newer opsets and an attribute in older ones."""
    if given is not None:
        return [int(axis) for axis in given.tolist()]
    axes = attributes.get("axes")
    return None if axes is None else list(axes)


def _divide(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
    if a.is_floating_point():
        return a / b
    return torch.div(a, b, rounding_mode="trunc")


def _modulo(attributes: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if attributes.get("fmod", 0) else torch.remainder(a, b)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    def reduced(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
        found = _axes(attributes, axes)
        if not found and attributes.get("noop_with_empty_axes", 0):
            return x
        dims = found or list(range(x.ndim))
        return function(x, dims, bool(attributes.get("keepdims", 1)))

    return reduced


def _sum_of_squares(x: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    return x.square().sum(dim=tuple(dims), keepdim=keepdim)


def _product(x: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    for dim in sorted((d % x.ndim for d in dims), reverse=True):
        x = x.prod(dim=dim, keepdim=keepdim)
    return x


def _arg(function: Callable[..., Tensor]) -> Operator:
    return lambda attributes, x: function(
        x, dim=attributes.get("axis", 0), keepdim=bool(attributes.get("keepdims", 1))
    )


def _clip(
    attributes: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    least = attributes.get("min") if low is None else low.item()
    most = attributes.get("max") if high is None else high.item()
    return x if least is None and most is None else torch.clamp(x, least, most)


def _gelu(attributes: Attributes, x: Tensor) -> Tensor:
    approximate = attributes.get("approximate", b"none")
    return F.gelu(x, approximate=approximate.decode())


def _prelu(_: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


def _hard_sigmoid(attributes: Attributes, x: Tensor) -> Tensor:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def _matmul(_: Attributes, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left = a.t() if attributes.get("transA", 0) else a
    right = b.t() if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (left @ right)
    return product if c is None else product + attributes.get("beta", 1.0) * c


def _reshape(attributes: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = [int(size) for size in shape.tolist()]
    if not attributes.get("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


def _flatten(attributes: Attributes, x: Tensor) -> Tensor:
    axis = attributes.get("axis", 1) % (x.ndim + 1)
    if axis == 1:
        return x.flatten(1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    found = _axes(attributes, axes)
    return x.squeeze() if found is None else x.squeeze(tuple(found))


def _unsqueeze(attributes: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    found = _axes(attributes, axes) or []
    rank = x.ndim + len(found)
    for axis in sorted(axis % rank for axis in found):
        x = x.unsqueeze(axis)
    return x


def _transpose(attributes: Attributes, x: Tensor) -> Tensor:
    return x.permute(attributes.get("perm", list(range(x.ndim))[::-1]))


def _concat(attributes: Attributes, *parts: Tensor) -> Tensor:
    return torch.cat(parts, dim=attributes["axis"])


def _split(attributes: Attributes, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    given = attributes.get("split") if sizes is None else sizes.tolist()
    if given is not None:
        return torch.split(x, [int(size) for size in given], dim=axis)
    parts = attributes["num_outputs"]
    return torch.split(x, math.ceil(x.shape[axis] / parts), dim=axis)


def _slice(
    _: Attributes,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    dims = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    for dim, start, end, step in zip(dims, starts.tolist(), ends.tolist(), strides, strict=True):
        if step > 0:
            index = slice(start, end, step)
            x = x[(slice(None),) * (dim % x.ndim) + (index,)]
        else:
            chosen = range(
                *slice(start, end if end > -(2**31) else None, step).indices(x.shape[dim])
            )
            x = x.index_select(dim, torch.tensor(list(chosen), device=x.device))
    return x


def _gather(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % x.ndim
    wanted = torch.where(indices < 0, indices + x.shape[axis], indices).long()
    flat = x.index_select(axis, wanted.reshape(-1))
    return flat.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_elements(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0)
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def _gather_nd(attributes: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    if attributes.get("batch_dims", 0):
        raise NotImplementedError("GatherND with batch_dims")
    return x[tuple(indices.long().unbind(-1))]


def _expand(_: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(int(n) for n in shape.tolist())))


def _shape(attributes: Attributes, x: Tensor) -> Tensor:
    sizes = list(x.shape)[attributes.get("start", 0) : attributes.get("end")]
    return torch.tensor(sizes, dtype=torch.int64)


def _constant_of_shape(attributes: Attributes, shape: Tensor) -> Tensor:
    value = attributes.get("value", torch.zeros(1))
    return value.reshape(()).expand([int(n) for n in shape.tolist()]).clone()


def _cast(attributes: Attributes, x: Tensor) -> Tensor:
    return x.to(DTYPES[attributes["to"]])


def _pads(pads: Sequence[int], rank: int) -> list[int]:
    """Return ONNX pads (all starts, then all ends) in the order of torch (last axis first)."""
    return [int(pads[axis + side * rank]) for axis in reversed(range(rank)) for side in (0, 1)]


def _pad(
    attributes: Attributes,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    mode = attributes.get("mode", b"constant").decode()
    given = pads.tolist()
    dims = list(range(x.ndim)) if axes is None else [int(axis) % x.ndim for axis in axes.tolist()]
    starts, ends = [0] * x.ndim, [0] * x.ndim
    for place, dim in enumerate(dims):
        starts[dim], ends[dim] = int(given[place]), int(given[place + len(dims)])
    ordered = _pads([*starts, *ends], x.ndim)
    if mode == "constant":
        return F.pad(x, ordered, value=0.0 if value is None else value.item())
    while ordered[-2:] == [0, 0]:
        ordered = ordered[:-2]
    return F.pad(x, ordered, mode={"edge": "replicate", "wrap": "circular"}.get(mode, mode))


def window_padding(
    attributes: Attributes, x: Tensor, kernel: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return the padding of a sliding window before and after each spatial axis.

    Args:
        attributes: of a Conv or pooling node: pads or auto_pad, strides, dilations.
        x: the input, [n, c, *spatial].
        kernel: size of the window by spatial axis.
    """
    rank = len(kernel)
    auto = attributes.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        strides = attributes.get("strides", [1] * rank)
        dilations = attributes.get("dilations", [1] * rank)
        needed = [
            max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(x.shape[2:], strides, kernel, dilations, strict=True)
        ]
        less, more = [n // 2 for n in needed], [n - n // 2 for n in needed]
        return (less, more) if auto == "SAME_UPPER" else (more, less)
    pads = [0] * 2 * rank if auto == "VALID" else attributes.get("pads", [0] * 2 * rank)
    return list(pads[:rank]), list(pads[rank:])


def _max_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    rank = len(kernel)
    before, after = window_padding(attributes, x, kernel)
    x = F.pad(x, _pads([*before, *after], rank), value=-math.inf)
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
    return pool(
        x,
        kernel,
        stride=attributes.get("strides", [1] * rank),
        dilation=attributes.get("dilations", [1] * rank),
        ceil_mode=bool(attributes.get("ceil_mode", 0)),
    )


def _average_pool(attributes: Attributes, x: Tensor) -> Tensor:
    kernel = attributes["kernel_shape"]
    rank = len(kernel)
    if attributes.get("ceil_mode", 0) or any(d != 1 for d in attributes.get("dilations", [])):
        raise NotImplementedError("AveragePool with ceil_mode or dilations")
    strides = attributes.get("strides", [1] * rank)
    pads = _pads([*(sides := window_padding(attributes, x, kernel))[0], *sides[1]], rank)
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
    mean = pool(F.pad(x, pads), kernel, stride=strides)
    if attributes.get("count_include_pad", 0) or not any(pads):
        return mean
    return mean / pool(F.pad(torch.ones_like(x[:1, :1]), pads), kernel, stride=strides)


def _global(function: Callable[..., Tensor]) -> Operator:
    return lambda _, x: function(x, tuple(range(2, x.ndim)), keepdim=True)


def _resize(
    attributes: Attributes,
    x: Tensor,
    region: Tensor | None = None,  # noqa: ARG001 - for a mode that is refused below
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    mode = attributes.get("mode", b"nearest").decode()
    where = attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    if sizes is None or not sizes.numel():
        if scales is None:
            raise NotImplementedError("Resize without scales and sizes")
        target = [math.floor(n * s) for n, s in zip(x.shape, scales.tolist(), strict=True)][2:]
    else:
        target = [int(size) for size in sizes.tolist()][2:]
    if mode == "nearest" and where == "asymmetric":
        return F.interpolate(x, target, mode="nearest")
    if (
        mode == "nearest"
        and where == "half_pixel"
        and all(n % o == 0 for n, o in zip(target, x.shape[2:], strict=True))
    ):
        return F.interpolate(x, target, mode="nearest")  # whole factors: the same items
    if mode in ("linear", "cubic") and where in (
        "half_pixel",
        "align_corners",
        "pytorch_half_pixel",
    ):
        kind = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2]
        kind = "bicubic" if mode == "cubic" else kind
        return F.interpolate(x, target, mode=kind, align_corners=where == "align_corners")
    raise NotImplementedError(f"Resize {mode} with {where}")


def _depth_to_space(attributes: Attributes, x: Tensor) -> Tensor:
    size = attributes["blocksize"]
    if attributes.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, size)
    n, c, h, w = x.shape
    parts = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _layer_norm(
    attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None
) -> Tensor:
    axis = attributes.get("axis", -1) % x.ndim
    shape = x.shape[axis:]
    epsilon = attributes.get("epsilon", 1e-5)
    flat = F.layer_norm(x, shape, eps=epsilon) * scale
    return flat if bias is None else flat + bias


def _rms_norm(attributes: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    axis = attributes.get("axis", -1) % x.ndim
    return F.rms_norm(x, x.shape[axis:], eps=attributes.get("epsilon", 1e-5)) * scale


def _instance_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=attributes.get("epsilon", 1e-5))


def _group_norm(attributes: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = attributes["num_groups"]
    return F.group_norm(x, groups, scale, bias, eps=attributes.get("epsilon", 1e-5))


def _cumulative_sum(attributes: Attributes, x: Tensor, axis: Tensor) -> Tensor:
    if attributes.get("exclusive", 0) or attributes.get("reverse", 0):
        raise NotImplementedError("CumSum exclusive or reverse")
    return torch.cumsum(x, dim=int(axis.item()))


def _triangle(attributes: Attributes, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return torch.triu(x, diagonal) if attributes.get("upper", 1) else torch.tril(x, diagonal)


def _top_k(attributes: Attributes, x: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    found = torch.topk(
        x,
        int(k.item()),
        dim=attributes.get("axis", -1),
        largest=bool(attributes.get("largest", 1)),
        sorted=bool(attributes.get("sorted", 1)),
    )
    return found.values, found.indices


def _range(_: Attributes, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _mean(_: Attributes, *parts: Tensor) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / len(parts)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def folded(_: Attributes, *parts: Tensor) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total = function(total, part)
        return total

    return folded


LSTM_DEFAULTS: Mapping[str, Any] = {
    "activation_alpha": [], "activation_beta": [], "activations": None, "clip": 0.0,
    "input_forget": 0, "layout": 0,
}  # fmt: skip
"""Attributes of LSTM for which torch has no other value."""

DIRECTIONS = {b"forward": 1, b"bidirectional": 2}


def _lstm(
    attributes: Attributes,
    x: Tensor,
    weights: Tensor,
    recurrent: Tensor,
    bias: Tensor | None = None,
    lengths: Tensor | None = None,
    hidden: Tensor | None = None,
    cell: Tensor | None = None,
    peepholes: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return all outputs [steps, directions, n, units], and the last ones and cells.

    Gates are input, output, forget, cell in ONNX; input, forget, cell, output in torch.
    """
    asked = {key: attributes.get(key, usual) for key, usual in LSTM_DEFAULTS.items()}
    direction = attributes.get("direction", b"forward")
    if asked != LSTM_DEFAULTS or direction not in DIRECTIONS:
        raise NotImplementedError("LSTM with other than the usual attributes")
    if lengths is not None or peepholes is not None:
        raise NotImplementedError("LSTM with lengths or peepholes")
    count, units = DIRECTIONS[direction], recurrent.shape[-1]
    empty = x.new_zeros((count, x.shape[1], units))
    start = [empty if state is None else state for state in (hidden, cell)]
    parts = [weights, recurrent, *(() if bias is None else bias.chunk(2, dim=1))]
    flat = [_lstm_gates(part[number]) for number in range(count) for part in parts]
    outputs, last, cells = torch.lstm(
        x, start, flat, bias is not None, 1, 0.0, False, count == 2, False
    )
    by_direction = outputs.unflatten(-1, (count, units)).transpose(1, 2)
    return by_direction, last, cells


def _lstm_gates(stacked: Tensor) -> Tensor:
    inward, outward, forget, cell = stacked.chunk(4)
    return torch.cat([inward, forget, cell, outward])


def _fake_quantize(_: Attributes, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return what QuantizeLinear and DequantizeLinear make of a tensor, with a gradient.

    Source: the straight-through estimator, Jacob et al. 2018, section 3 (arXiv:1712.05877).
    """
    limits = torch.iinfo(zero.dtype)
    return torch.fake_quantize_per_tensor_affine(
        x, scale.reshape(1), zero.reshape(1).int(), limits.min, limits.max
    )


OPERATORS: Mapping[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": _average_pool,
    "Cast": _cast,
    "Ceil": _unary(torch.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _unary(torch.cos),
    "CumSum": _cumulative_sum,
    "DepthToSpace": _depth_to_space,
    "Div": _divide,
    "Dropout": lambda _, x, *__: x,
    "Einsum": lambda attributes, *parts: torch.einsum(attributes["equation"].decode(), *parts),
    "Elu": lambda attributes, x: F.elu(x, attributes.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "FakeQuantize": _fake_quantize,  # not of ONNX, see learn.fake_int8
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(F.hardswish),
    "Identity": lambda _, x: x,
    "InstanceNormalization": _instance_norm,
    "IsNaN": _unary(torch.isnan),
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda attributes, x: F.leaky_relu(x, attributes.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": lambda attributes, x: F.log_softmax(x, attributes.get("axis", -1)),
    "MatMul": _matmul,
    "Max": _fold(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "Min": _fold(torch.minimum),
    "Mish": _unary(F.mish),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": lambda _, a, b: torch.pow(a, b.to(a.dtype)),
    "RMSNormalization": _rms_norm,
    "Range": _range,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL2": _reduce(lambda *a: _sum_of_squares(*a).sqrt()),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(_sum_of_squares),
    "Relu": _unary(F.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _unary(torch.round),
    "Selu": _unary(F.selu),
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": lambda _, x: torch.tensor(x.numel()),
    "Slice": _slice,
    "Softmax": lambda attributes, x: F.softmax(x, attributes.get("axis", -1)),
    "Softplus": _unary(F.softplus),
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _unary(torch.tanh),
    "Tile": lambda _, x, repeats: x.repeat([int(n) for n in repeats.tolist()]),
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Where": lambda _, condition, a, b: torch.where(condition, a, b),
}
"""ONNX operator type -> what it computes."""
