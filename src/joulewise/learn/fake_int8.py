"""A quantized graph as a network that learns: its weights stay in float and are rounded when used.

Activations are rounded where the quantized graph rounds them, with its ranges. Weights are rounded
as ONNX Runtime's quantizer will do it, with the ranges that they have at that moment. The gradient
takes rounding for the identity and is 0 outside a range of activations, so weights move until what
they are rounded to does the job.

Source: Jacob et al. 2018, section 3 (arXiv:1712.05877); differs: the ranges of activations are
those of the calibration and stay, so that what was trained is what is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from joulewise.learn.graph import arrays_of, attributes_of
from joulewise.learn.network import Network

if TYPE_CHECKING:
    import onnx

__all__ = ["fake_int8"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

LEARN = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Operators whose weights and biases are trained; what other nodes have is rounded once."""

LARGEST, LARGEST_REDUCED = 127, 64
"""Integer that the largest weight gets, with 8 bits and with 7 (onnxruntime 1.32, function
get_qmin_qmax_for_qType)."""

TINY = torch.finfo(torch.float32).tiny


class Rounded(nn.Module):
    """Weights rounded to signed integers times a scale.

    Args:
        axis: of the channels that have a scale of their own, None for one scale.
        largest: integer that the largest weight gets.
    """

    def __init__(self, axis: int | None, largest: int) -> None:
        super().__init__()
        self._axis, self._largest = axis, largest

    def forward(self, weight: Tensor) -> Tensor:
        """Return the rounded weights."""
        size = weight.detach().abs()
        others = [axis for axis in range(weight.ndim) if axis != self._axis]
        scale = (size.amax(dim=others, keepdim=True) / self._largest).clamp_min(TINY)
        rounded = (weight.detach() / scale).round() * scale
        return weight + (rounded - weight).detach()


def fake_int8(quantized: onnx.ModelProto, floats: Arrays, *, reduce_range: bool) -> Network:
    """Return a network that computes what a graph in the QDQ format does, and can be trained.

    Its `weights()` are the rounded ones; rounded again by the same rule, they stay as they are.

    Args:
        quantized: the graph, as ONNX Runtime's quantizer wrote it.
        floats: the weights before they were quantized.
        reduce_range: whether weights were given 7 bits.

    Raises:
        PassError: an operator is not known.
    """
    graph, axes = _plain_int8(quantized, floats)
    network = Network(graph)
    network.learn_only(floats)
    largest = LARGEST_REDUCED if reduce_range else LARGEST
    for key, layer in network.layers.items():
        name = network.weight_of(key)
        if name in axes:
            axis = 0 if isinstance(layer, nn.Linear) and axes[name] is not None else axes[name]
            parametrize.register_parametrization(layer, "weight", Rounded(axis, largest))
    return network


def _plain_int8(
    quantized: onnx.ModelProto, floats: Arrays
) -> tuple[onnx.ModelProto, dict[str, int | None]]:
    """Return the graph with weights in float and FakeQuantize nodes, and the weights to round.

    Returns:
        The graph, and the name of each weight with the axis of its scales, None for one scale.
    """
    import onnx
    from onnx import helper, numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(quantized)
    graph, arrays = made.graph, arrays_of(made.graph)
    learn = {x for node in graph.node if node.op_type in LEARN for x in node.input[1:]}
    nodes: list[onnx.NodeProto] = []
    renamed: dict[str, str] = {}
    axes: dict[str, int | None] = {}
    for node in graph.node:
        given, (target, *_) = node.input[0], node.output
        name = given.removesuffix("_quantized")
        if node.op_type == "QuantizeLinear":
            nodes.append(helper.make_node("FakeQuantize", node.input, [target]))
        elif node.op_type != "DequantizeLinear":
            nodes.append(node)
        elif given not in arrays:
            nodes.append(helper.make_node("Identity", [given], [target]))
        elif target in learn and name in floats:
            renamed[target] = name
            graph.initializer.append(numpy_helper.from_array(floats[name], name))
            if arrays[given].dtype == np.int8:
                single = arrays[node.input[1]].size == 1
                axes[name] = None if single else int(attributes_of(node).get("axis", 1))
        else:
            value = _dequantized(node, arrays)
            graph.initializer.append(numpy_helper.from_array(value, target))
    for node in nodes:
        node.input[:] = [renamed.get(x, x) for x in node.input]
    del graph.node[:]
    graph.node.extend(nodes)
    return made, axes


def _dequantized(node: onnx.NodeProto, arrays: Arrays) -> np.ndarray[Any, Any]:
    """Return what a DequantizeLinear node makes of a constant."""
    value, scale = arrays[node.input[0]], arrays[node.input[1]]
    zero = arrays[node.input[2]] if len(node.input) > 2 else np.zeros((), value.dtype)
    axis = attributes_of(node).get("axis", 1)
    if scale.size > 1:
        wide = [-1 if place == axis % value.ndim else 1 for place in range(value.ndim)]
        scale, zero = scale.reshape(wide), zero.reshape(wide)
    return ((value.astype(np.int32) - zero) * scale).astype(np.float32)
