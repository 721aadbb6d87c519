"""The heads of attention, as groups that can be taken out of a network.

A block is found from its softmax: the product after it weighs the values, the product before it
compares queries with keys, and each of those comes from one linear layer. What is found is only a
proposal; `joulewise.learn.structure.proved` says whether heads can go.

Source: Vaswani et al. 2017, section 3.2.2 (arXiv:1706.03762); whole heads can be left out, Michel
et al. 2019 (arXiv:1905.10650).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from joulewise.learn.graph import Flow, shapes_of
from joulewise.learn.network import Network
from joulewise.learn.structure import Group, Part, Side

if TYPE_CHECKING:
    import onnx

__all__ = ["head_groups"]

HEADS_AXIS, RANK = 1, 4
"""Where the heads lie in the products of attention: [batch, heads, query, key or feature]."""


def head_groups(network: Network, model: onnx.ModelProto) -> tuple[Group, ...]:
    """Return one group per block of attention whose units are its heads, in the graph's order.

    Args:
        network: made of `model`.
        model: in plain form.
    """
    search = _Search(network, model)
    found = (search.block(node) for node in model.graph.node if node.op_type == "Softmax")
    return tuple(group for group in found if group is not None)


class _Search:
    """Looks for blocks of attention in one graph."""

    def __init__(self, network: Network, model: onnx.ModelProto) -> None:
        self._network = network
        self._flow = Flow(model.graph)
        self._shapes = shapes_of(model)

    def block(self, softmax: onnx.NodeProto) -> Group | None:
        """Return the heads around a softmax, None where this is no attention."""
        flow = self._flow
        compare = _only(flow.nearest(softmax, flow.before, self._is_product))
        weigh = _only(flow.nearest(softmax, flow.after, self._is_product))
        if compare is None or weigh is None:
            return None
        shape = self._shapes.get(weigh.output[0], ())
        heads = shape[HEADS_AXIS] if len(shape) == RANK else None
        reader = _only(flow.nearest(weigh, flow.after, self._is_linear))
        writers = [self._source(name) for name in (*compare.input, weigh.input[1])]
        if reader is None or not isinstance(heads, int):
            return None
        parts = [self._part(node, "writes", heads) for node in writers]
        parts.append(self._part(reader, "reads", heads))
        known = tuple(part for part in parts if part is not None)
        if len(known) < len(parts):
            return None
        return Group(name=self._network.weight_of(str(known[0].layer)), parts=known)

    def _source(self, name: str) -> onnx.NodeProto | None:
        """Return the linear layer whose output a value is, rearranged or scaled."""
        maker = self._flow.makers.get(name)
        if maker is None or self._is_linear(maker):
            return maker
        return _only(self._flow.nearest(maker, self._flow.before, self._is_linear))

    def _part(self, node: onnx.NodeProto | None, side: Side, heads: int) -> Part | None:
        """Return what a linear layer has to do with the heads, None where it cannot be theirs."""
        key = None if node is None else self._network.layer_of(node.input[1])
        if key is None:
            return None
        linear = self._network.layers[key]
        width = linear.in_features if side == "reads" else linear.out_features
        if width % heads:
            return None
        return Part(layer=key, side=side, channels=np.arange(width).reshape(heads, -1))

    def _is_product(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "MatMul" and not self._is_linear(node)

    def _is_linear(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("MatMul", "Gemm"):
            return False
        key = self._network.layer_of(node.input[1])
        return key is not None and isinstance(self._network.layers[key], nn.Linear)


def _only(nodes: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    return nodes[0] if len(nodes) == 1 else None
