"""Bring an ONNX graph into the plain form that `joulewise.learn.network` reads.

Plain: opset 13 or newer, every constant an initializer, nothing left to compute that depends on
constants alone. The meaning of the graph does not change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from joulewise.core.errors import PassError, one_line
from joulewise.learn.operators import OPERATORS, Attributes

if TYPE_CHECKING:
    import onnx

__all__ = ["Arrays", "arrays_of", "attributes_of", "plain"]

Arrays = dict[str, np.ndarray[Any, Any]]

LEAST_OPSET = 13
"""First opset in which axes and split sizes are inputs."""

FOLD_LIMIT_RATIO = 4
"""A node of constants is computed once, unless that gives so many times more numbers than it had
(a mask made of one number, say)."""


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model in plain form; the argument is not changed.

    Args:
        model: its weights loaded.

    Raises:
        PassError: an operator is not known, or the opset cannot be raised.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(_raised(model))
    graph = made.graph
    _constants_to_initializers(graph)
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
    _drop_unused(graph)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _tensor(value: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(value))
