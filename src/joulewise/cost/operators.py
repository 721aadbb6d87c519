"""What the products of an ONNX graph have to do: multiply-adds, and bytes that they move.

Counted from shapes, so nothing is run. A product is taken to read its weights and inputs and to
write its outputs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from joulewise.core.errors import MissingExtraError
from joulewise.core.profile import Work

__all__ = ["count_work"]

COUNTED = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm"})
UNCOUNTED = frozenset({"LSTM", "GRU", "RNN", "Einsum", "If", "Loop", "Scan", "DeformConv"})
"""Operators with products inside that are not counted here."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor: its shape, and the bytes of one element."""

    shape: tuple[int, ...]
    element_bytes: int


def count_work(path: Path, batch_items: int) -> Work | None:
    """Return the work of one call; None where it cannot be counted.

    An output element of a convolution takes one multiply-add per weight of its channel, one of a
    matrix product takes as many as the row has elements (Sze et al. 2017, Proceedings of the IEEE
    105(12), section II).

    Args:
        path: the main file; only ONNX graphs of float operators whose shapes are known are counted.
        batch_items: items per call, the first axis of the inputs that leave it free.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    if path.suffix != ".onnx":
        return None
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", "onnx") from error
    model = onnx.load(path, load_external_data=False)
    for given in model.graph.input:
        axes = given.type.tensor_type.shape.dim
        if axes and not axes[0].dim_value:
            axes[0].dim_value = batch_items
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError):  # ValueError: larger than 2 GB
        return None
    products = [node for node in graph.node if node.op_type in COUNTED]
    values, moved = dict(_values(graph)), [_tensors(node) for node in products]
    if not set().union(*moved) <= values.keys() or _has_uncounted(graph):
        return None
    return Work(
        mac=sum(_mac(node, values) for node in products),
        moved_bytes=sum(
            prod(values[name].shape) * values[name].element_bytes
            for names in moved
            for name in names
        ),
    )


def _values(graph: Any) -> Iterator[tuple[str, Value]]:  # noqa: ANN401
    """Yield each tensor whose shape is known, by name."""
    from onnx.helper import tensor_dtype_to_np_dtype

    for each in graph.initializer:
        size = tensor_dtype_to_np_dtype(each.data_type).itemsize
        yield each.name, Value(shape=tuple(each.dims), element_bytes=size)
    for each in (*graph.input, *graph.value_info, *graph.output):
        kind = each.type.tensor_type
        known = kind.HasField("shape") and all(
            axis.HasField("dim_value") for axis in kind.shape.dim
        )
        if known and kind.elem_type:
            size = tensor_dtype_to_np_dtype(kind.elem_type).itemsize
            shape = tuple(axis.dim_value for axis in kind.shape.dim)
            yield each.name, Value(shape=shape, element_bytes=size)


def _tensors(node: Any) -> set[str]:  # noqa: ANN401
    return {name for name in (*node.input, *node.output) if name}


def _has_uncounted(graph: Any) -> bool:  # noqa: ANN401
    return any(
        node.op_type in UNCOUNTED or node.domain not in {"", "ai.onnx"} for node in graph.node
    )


def _mac(node: Any, values: dict[str, Value]) -> int:  # noqa: ANN401
    """Return the multiply-adds of one product."""
    first, second, result = (
        values[name].shape for name in (node.input[0], node.input[1], node.output[0])
    )
    if node.op_type == "Conv":
        return prod(result) * prod(second[1:])
    if node.op_type == "ConvTranspose":
        return prod(first) * prod(second[1:])
    if node.op_type == "Gemm":
        return prod(first) * result[1]
    return prod(result) * first[-1]
