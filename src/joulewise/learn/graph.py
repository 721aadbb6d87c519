"""Bring an ONNX graph into the plain form that `joulewise.learn.network` reads.

Plain: opset 13 or newer, every constant an initializer, nothing left to compute that depends on
constants alone. The meaning of the graph does not change.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from joulewise.core.errors import PassError, one_line
from joulewise.learn.operators import OPERATORS, Attributes

if TYPE_CHECKING:
    import onnx

__all__ = [
    "SHAPES",
    "Arrays",
    "Flow",
    "Shape",
    "arrays_of",
    "attributes_of",
    "drop_unused",
    "flexible",
    "plain",
    "shapes_of",
]

Arrays = dict[str, np.ndarray[Any, Any]]

Shape = tuple[int | str | None, ...]
"""Length of each axis: a number, the name of one that is free, None where nothing is known."""

LEAST_OPSET = 13
"""First opset in which axes and split sizes are inputs."""

SHAPES = frozenset({"Shape", "Size"})
"""Operators that look at the shape of a value, not at its numbers."""

FOLD_LIMIT_RATIO = 4
"""A node of constants is computed once, unless that gives so many times more numbers than it had
(a mask made of one number, say)."""


def plain(model: onnx.ModelProto, *, trained: bool = True) -> onnx.ModelProto:
    """Return the model in plain form; the argument is not changed.

    Args:
        model: its weights loaded.
        trained: refuse it where it could not be trained; without this, operators may be any.

    Raises:
        PassError: an operator is not known, or the opset cannot be raised.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(_raised(model))
    graph = made.graph
    _constants_to_initializers(graph)
    if trained:
        _check_operators(graph)
    _fold(graph)
    inputs = [value for value in graph.input if value.name not in arrays_of(graph)]
    del graph.input[:]
    graph.input.extend(inputs)
    return made


def arrays_of(graph: onnx.GraphProto) -> Arrays:
    """Return the initializers by name."""
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def attributes_of(node: onnx.NodeProto) -> Attributes:
    """Return a node's attributes by name; tensors as torch tensors."""
    import onnx

    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        is_tensor = attribute.type == onnx.AttributeProto.TENSOR
        found[attribute.name] = _tensor(onnx.numpy_helper.to_array(value)) if is_tensor else value
    return found


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if versions.get("ai.onnx", 0) >= LEAST_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, LEAST_OPSET)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise PassError(
            f"the model's opset {versions.get('ai.onnx')} cannot be raised to {LEAST_OPSET} "
            f"({one_line(error)}); export it again with a newer opset"
        ) from error


def _check_operators(graph: onnx.GraphProto) -> None:
    kinds = {_name(node) for node in graph.node}
    unknown = sorted(kinds - set(OPERATORS) - {"BatchNormalization", "Conv", "ConvTranspose"})
    if unknown:
        raise PassError(
            f"the graph cannot be trained: no gradient is known here for {', '.join(unknown)}; "
            "give the model as PyTorch code, or leave out steps that train"
        )


def _name(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    from onnx import numpy_helper

    kept = []
    for node in graph.node:
        value = _constant(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    _set_nodes(graph, kept)


def _constant(node: onnx.NodeProto) -> np.ndarray[Any, Any] | None:
    """Return what a Constant node holds, None where it is no tensor of numbers."""
    attributes = attributes_of(node)
    for name, value in attributes.items():
        if name == "value":
            return np.asarray(value.numpy())
        if name in ("value_float", "value_floats"):
            return np.asarray(value, dtype=np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, dtype=np.int64)
    return None


def _fold(graph: onnx.GraphProto) -> None:
    """Compute once what depends on constants alone."""
    from onnx import numpy_helper

    known = {name: _tensor(value) for name, value in arrays_of(graph).items()}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        constant = node.op_type in OPERATORS and all(name in known for name in node.input if name)
        if not constant or not node.input or len(node.output) != 1 or node.output[0] in outputs:
            kept.append(node)
            continue
        given = [known[name] if name else None for name in node.input]
        value = OPERATORS[node.op_type](attributes_of(node), *given)
        most = FOLD_LIMIT_RATIO * max(1, sum(x.numel() for x in given if x is not None))
        if not isinstance(value, torch.Tensor) or value.numel() > most:
            kept.append(node)
            continue
        known[node.output[0]] = value
        graph.initializer.append(
            numpy_helper.from_array(np.ascontiguousarray(value.numpy()), node.output[0])
        )
    _set_nodes(graph, kept)
    drop_unused(graph)


def drop_unused(graph: onnx.GraphProto) -> None:
    """Take nodes and initializers out of a graph that none of its outputs depends on."""
    used, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            kept.append(node)
    _set_nodes(graph, kept[::-1])
    needed = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(needed)


class Flow:
    """Who makes and who uses each value of a graph.

    Args:
        graph: in plain form; not changed afterwards.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.users[name].append(node)

    def before(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that make what a node takes, except for what depends on shapes alone."""
        for name in dict.fromkeys(node.input):
            if name in self.makers and self.makers[name].op_type not in SHAPES:
                yield self.makers[name]

    def after(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Yield the nodes that use what a node makes, except for its shape."""
        for name in node.output:
            yield from (user for user in self.users[name] if user.op_type not in SHAPES)

    def nearest(
        self,
        start: onnx.NodeProto,
        onward: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto]],
        wanted: Callable[[onnx.NodeProto], bool],
    ) -> list[onnx.NodeProto]:
        """Return the first wanted nodes on every way from a node.

        Args:
            start: where the ways begin; not looked at itself.
            onward: `before` or `after`.
            wanted: tells where a way ends.
        """
        found, seen, waiting = [], set[str](), list(onward(start))
        while waiting:
            node = waiting.pop()
            if node.output[0] in seen:
                continue
            seen.add(node.output[0])
            if wanted(node):
                found.append(node)
            else:
                waiting.extend(onward(node))
        return found


def shapes_of(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shape of every value of a graph that ONNX can infer, by name."""
    import onnx

    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    found: dict[str, Shape] = {
        value.name: tuple(_length(axis) for axis in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.HasField("shape")
    }
    return found | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _length(axis: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if axis.HasField("dim_value"):
        return int(axis.dim_value) if axis.dim_value >= 0 else None  # some exporters write -1
    return axis.dim_param or None


def flexible(model: onnx.ModelProto, *, trained: bool = True) -> onnx.ModelProto:
    """Return a model in plain form whose Reshape nodes take what they can from their input.

    A size that is the same axis of the input becomes 0, and of the others one becomes -1, so that
    the graph still holds after channels or heads were taken out. What it computes is the same.

    Args:
        model: its weights loaded; not changed.
        trained: see `plain`.

    Source: ONNX operator schema of Reshape, opset 13: "0" copies the axis, "-1" is what is left.
    """
    from onnx import numpy_helper

    made = plain(model, trained=trained)
    graph, arrays, shapes = made.graph, arrays_of(made.graph), shapes_of(made)
    for node in graph.node:
        before = shapes.get(node.input[0]) if node.op_type == "Reshape" else None
        name = f"{node.output[0]}/sizes"
        if before is None or node.input[1] == name:  # of an earlier call
            continue
        target = _target(node, before, arrays, shapes)
        sizes = None if target is None else _free_sizes(before, target)
        if sizes is not None:
            graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), name))
            node.input[1] = name
            del node.attribute[:]  # allowzero, with which 0 would not copy an axis
    drop_unused(graph)
    return made


def _target(
    node: onnx.NodeProto, before: Shape, arrays: Arrays, shapes: Mapping[str, Shape]
) -> Shape | None:
    """Return the shape that a Reshape gives, as far as it is known."""
    if node.input[1] not in arrays:
        return shapes.get(node.output[0])
    wanted = [int(size) for size in arrays[node.input[1]]]
    if 0 in wanted and attributes_of(node).get("allowzero", 0):
        return None
    target: list[int | str | None] = [
        before[place] if size == 0 else size for place, size in enumerate(wanted)
    ]
    if -1 in target:
        target[target.index(-1)] = _left_over(before, target)
    return tuple(target)


def _left_over(before: Shape, target: Sequence[int | str | None]) -> int | str | None:
    """Return the length of the axis of `target` that is -1, None where it is not known."""
    left = list(before)
    for size in target:
        if isinstance(size, str) and size in left:
            left.remove(size)
    names = [size for size in left if not isinstance(size, int)]
    count = math.prod(size for size in left if isinstance(size, int))
    others = math.prod(size for size in target if isinstance(size, int) and size > 0)
    if not names and count % others == 0:
        return count // others
    return names[0] if len(names) == 1 and count == others else None


def _free_sizes(before: Shape, target: Shape) -> list[int] | None:
    """Return sizes with 0 and -1 that give `target`, None where that cannot be told."""
    same = 0
    while same < min(len(before), len(target)) and before[same] == target[same] is not None:
        same += 1
    rest = list(target[same:])
    open_places = [place for place, size in enumerate(rest) if not isinstance(size, int)]
    if len(open_places) > 1:
        return None
    if rest:
        rest[open_places[0] if open_places else 0] = -1
    return [0] * same + [int(size) for size in rest if isinstance(size, int)]


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _tensor(value: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(value))
