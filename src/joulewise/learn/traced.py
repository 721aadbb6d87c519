"""A network as a flat graph of torch's operators, which exporters to other formats take."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

__all__ = ["traced"]

PURE = {torch.ops.aten.detach_.default: torch.ops.aten.detach.default}
"""What `torch.tensor` leaves in a graph -> the same without a side effect."""


def traced(network: nn.Module, example: tuple[Tensor, ...]) -> GraphModule:
    """Return what a module does with `example`, for inputs of that shape.

    A network reads shapes and axes from tensors of its graph, which `torch.export` alone would take
    for unknown; here they are numbers.

    Args:
        network: in evaluation mode.
        example: its inputs, in order.
    """
    with torch.no_grad():
        flat = make_fx(network, pre_dispatch=True)(*example)
    _fold_whole_numbers(flat)
    _use_plain_numbers(flat)
    flat.graph.eliminate_dead_code()
    flat.recompile()
    return flat.eval()


def _fold_whole_numbers(flat: GraphModule) -> None:
    """Put a constant where whole numbers or truth values do not depend on what comes in.

    Such are places to gather from, which a graph of fixed shape knows; LiteRT Torch, for one, gives
    them different widths on their way and then refuses to put them together.
    """
    known: dict[Node, Any] = {}
    for node in list(flat.graph.nodes):
        if node.op == "get_attr":
            known[node] = attrgetter(node.target)(flat)
        target = PURE.get(node.target, node.target)
        pure = isinstance(target, OpOverload) and not target._schema.is_mutable  # noqa: SLF001
        if not pure or not all(each in known for each in node.all_input_nodes):
            continue
        arguments, named = map_arg((node.args, node.kwargs), known.__getitem__)
        value = known[node] = target(*arguments, **named)
        if isinstance(value, Tensor) and not value.is_floating_point():
            known[_put_constant(flat, node, value)] = value


def _put_constant(flat: GraphModule, node: Node, value: Tensor) -> Node:
    name = f"_folded_{node.name}"
    flat.register_buffer(name, value.contiguous())
    with flat.graph.inserting_before(node):
        constant = flat.graph.get_attr(name)
    constant.meta = dict(node.meta)
    node.replace_all_uses_with(constant)
    flat.graph.erase_node(node)
    return constant


def _use_plain_numbers(flat: Any) -> None:  # noqa: ANN401
    """Put plain numbers where an operator's second operand is a constant of one number.

    So it is in code for PyTorch, while an ONNX graph has tensors; with these LiteRT Torch, for one,
    cannot keep the channels last, and transposes before and after.
    """
    aten = torch.ops.aten
    binary = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor}
    for node in flat.graph.nodes:
        if node.target not in binary or getattr(node.args[1], "op", None) != "get_attr":
            continue
        constant = getattr(flat, node.args[1].target)
        fits = constant.ndim <= node.args[0].meta["val"].ndim
        if constant.numel() == 1 and constant.is_floating_point() and fits:
            node.update_arg(1, constant.item())
