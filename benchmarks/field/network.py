"""The original for optimisers that take a PyTorch module."""

from __future__ import annotations

import json
import math
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.field.contract import Asked
from joulewise.workload.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from joulewise.learn.network import Network

__all__ = [
    "Tensors",
    "batches_of",
    "flattened",
    "name_sources",
    "network_of",
    "save_program",
]

Tensors = tuple[Any, ...]


def network_of(asked: Asked) -> Network:
    """Return the original as a module for inference: takes its `inputs` in order, gives a tuple.

    Its layers are torch's own; its operators are called in the order of the graph.
    """
    import onnx

    from joulewise.learn.network import Network

    network: Network = Network(flattened(onnx.load(asked.model))).eval()
    return network


def flattened(model: Any) -> Any:  # noqa: ANN401
    """Return a graph with Flatten where it reshapes to a fixed number of values per item.

    So it is in code for PyTorch, and stays right where channels are cut; exporters write numbers.
    """
    from onnx import helper, numpy_helper, shape_inference

    graph = shape_inference.infer_shapes(model).graph
    values = {
        value.name: math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
        for value in (*graph.input, *graph.value_info)
    }
    shapes = {x.name: numpy_helper.to_array(x).tolist() for x in graph.initializer if x.dims == [2]}
    for node in model.graph.node:
        wanted = shapes.get(node.input[1]) if node.op_type == "Reshape" else None
        if wanted and wanted[0] == -1 and wanted[1] == values.get(node.input[0]):
            flat = helper.make_node("Flatten", node.input[:1], node.output, node.name, axis=1)
            node.CopyFrom(flat)
    return model


def batches_of(folder: str, names: Sequence[str], items: int = 1) -> Iterator[tuple[Any, ...]]:
    """Yield the inputs of `items` at a time, in the order of `names`, as tensors."""
    import torch

    for batch in open_store(Path(folder)).batches(items):
        yield tuple(torch.from_numpy(batch[name]) for name in names)


def save_program(program: Any, names: Sequence[str], asked: Asked) -> Path:  # noqa: ANN401
    """Write ``model.pt2`` with the names of the inputs, which is all that goes on.

    Args:
        program: what `torch.export.export` gives.
        names: of its inputs, in order.
        asked: where to.
    """
    import torch

    target = Path(asked.output) / "model.pt2"
    torch.export.save(program, target, extra_files={"inputs.json": json.dumps(list(names))})
    return target


def name_sources(exported: Any) -> None:  # noqa: ANN401
    """Write beside every operator which layer it comes from.

    torchao's quantizer for x86, which Neural Compressor uses too, looks for layers, not for
    operators. An export of a module of layers would tell them (`strict=True`); what `traced` gives
    is a flat graph, which has lost them.
    """
    import torch
    from torch import nn

    aten = torch.ops.aten
    layers = {
        aten.add.Tensor: operator.add,
        aten.batch_norm.default: nn.BatchNorm2d,
        aten.conv1d.default: nn.Conv1d,
        aten.conv2d.default: nn.Conv2d,
        aten.gelu.default: nn.GELU,
        aten.hardswish.default: nn.Hardswish,
        aten.hardtanh.default: nn.Hardtanh,
        aten.leaky_relu.default: nn.LeakyReLU,
        aten.linear.default: nn.Linear,
        aten.mul.Tensor: operator.mul,
        aten.relu.default: nn.ReLU,
        aten.relu6.default: nn.ReLU6,
        aten.silu.default: nn.SiLU,
        aten.tanh.default: nn.Tanh,
    }
    for node in exported.graph.nodes:
        if node.target in layers:
            node.meta["source_fn_stack"] = [(node.name, layers[node.target])]
