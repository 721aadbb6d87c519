"""A network as a flat graph of torch's operators, which exporters to other formats take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

if TYPE_CHECKING:
    from torch.fx import GraphModule

__all__ = ["traced"]


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
    _use_plain_numbers(flat)
    flat.graph.eliminate_dead_code()
    flat.recompile()
    return flat.eval()


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
