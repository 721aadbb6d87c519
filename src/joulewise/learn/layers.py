"""Nodes with weights as torch layers, so that pruning and training libraries know them.

A Slot remembers which initializer of the graph a layer's tensor came from, and how it lies there,
so that it can be written back after it was trained, pruned or both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from joulewise.learn.operators import Attributes, window_padding

__all__ = ["BatchNorm", "Layer", "Slot", "Weights", "layer_of"]

Weights = Mapping[str, np.ndarray[Any, Any]]
"""Initializer name -> its value."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Where a tensor of a layer lies in the graph.

    Args:
        initializer: its name in the graph.
        attribute: its name in the layer.
        transposed: True where the graph holds it as [in, out] and torch as [out, in].
    """

    initializer: str
    attribute: str
    transposed: bool = False


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node as a torch module.

    Args:
        module: the layer.
        slots: its tensors in the graph.
        before: what is done to the input first (uneven padding, say); None for nothing.
    """

    module: nn.Module
    slots: tuple[Slot, ...]
    before: Callable[[Tensor], Tensor] | None = None


class BatchNorm(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - torch's own base of its three
    """Batch normalisation over axis 1 of an input of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's signature
        """Accept every rank."""


def layer_of(
    kind: str, inputs: Sequence[str], attributes: Attributes, weights: Weights
) -> Layer | None:
    """Return the layer that a node is, None where it is no layer with weights.

    Args:
        kind: operator type.
        inputs: names of the node's inputs, "" where an optional one is left out.
        attributes: of the node.
        weights: the graph's float initializers.
    """
    make = _MAKERS.get(kind)
    given = [name for name in inputs[1:] if name]
    if make is None or not given or not all(name in weights for name in given):
        return None
    return make(inputs, attributes, weights)


def _convolution(inputs: Sequence[str], attributes: Attributes, weights: Weights) -> Layer:
    weight = weights[inputs[1]]
    rank = weight.ndim - 2
    groups = attributes.get("group", 1)
    uneven = _uneven(attributes, rank)
    pads = [0] * rank if uneven else list(attributes.get("pads", [0] * rank))[:rank]
    bias = _optional(inputs, 2)
    module = CONVOLUTIONS[rank - 1](
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(attributes.get("strides", [1] * rank)),
        padding=tuple(pads),
        dilation=tuple(attributes.get("dilations", [1] * rank)),
        groups=groups,
        bias=bias is not None,
    )
    layer = _filled(module, weights, weight=Slot(initializer=inputs[1], attribute="weight"),
                    bias=bias)  # fmt: skip
    if not uneven:
        return layer

    def padded(x: Tensor) -> Tensor:
        first, last = window_padding(attributes, x, weight.shape[2:])
        return F.pad(x, [n for pair in zip(first[::-1], last[::-1], strict=True) for n in pair])

    return Layer(module=layer.module, slots=layer.slots, before=padded)


def _transposed(inputs: Sequence[str], attributes: Attributes, weights: Weights) -> Layer | None:
    weight = weights[inputs[1]]
    rank = weight.ndim - 2
    if _uneven(attributes, rank) or "output_shape" in attributes:
        return None
    groups, bias = attributes.get("group", 1), _optional(inputs, 2)
    module = TRANSPOSED[rank - 1](
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        stride=tuple(attributes.get("strides", [1] * rank)),
        padding=tuple(list(attributes.get("pads", [0] * rank))[:rank]),
        output_padding=tuple(attributes.get("output_padding", [0] * rank)),
        groups=groups,
        dilation=tuple(attributes.get("dilations", [1] * rank)),
        bias=bias is not None,
    )
    return _filled(module, weights, weight=Slot(initializer=inputs[1], attribute="weight"),
                   bias=bias)  # fmt: skip


def _gemm(inputs: Sequence[str], attributes: Attributes, weights: Weights) -> Layer | None:
    plain = not attributes.get("transA", 0) and attributes.get("alpha", 1.0) == 1.0
    bias = _optional(inputs, 2)
    if not plain or attributes.get("beta", 1.0) != 1.0:
        return None
    if bias is not None and weights[bias].ndim != 1:
        return None
    return _linear(inputs[1], bias, weights, transposed=not attributes.get("transB", 0))


def _matmul(inputs: Sequence[str], _: Attributes, weights: Weights) -> Layer | None:
    if weights[inputs[1]].ndim != 2:
        return None
    return _linear(inputs[1], None, weights, transposed=True)


def with_bias(layer: Layer, bias: str, weights: Weights) -> Layer:
    """Return a linear layer with the bias that the graph adds after it.

    Args:
        layer: of a matrix product.
        bias: initializer that is added, [out].
        weights: the graph's initializers.
    """
    slot = layer.slots[0]
    return _linear(slot.initializer, bias, weights, transposed=slot.transposed)


def _linear(name: str, bias: str | None, weights: Weights, *, transposed: bool) -> Layer:
    weight = weights[name].T if transposed else weights[name]
    module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    slot = Slot(initializer=name, attribute="weight", transposed=transposed)
    return _filled(module, weights, weight=slot, bias=bias)


def _batch_norm(inputs: Sequence[str], attributes: Attributes, weights: Weights) -> Layer:
    module = BatchNorm(
        weights[inputs[1]].shape[0],
        eps=attributes.get("epsilon", 1e-5),
        momentum=1.0 - attributes.get("momentum", 0.9),
    )
    names = ("weight", "bias", "running_mean", "running_var")
    slots = [
        Slot(initializer=name, attribute=attribute)
        for name, attribute in zip(inputs[1:5], names, strict=True)
    ]
    return _with(module, slots, weights)


def _layer_norm(inputs: Sequence[str], attributes: Attributes, weights: Weights) -> Layer | None:
    scale, bias = weights[inputs[1]], _optional(inputs, 2)
    if attributes.get("axis", -1) != -1 or scale.ndim != 1:
        return None
    module = nn.LayerNorm(
        scale.shape[0], eps=attributes.get("epsilon", 1e-5), bias=bias is not None
    )
    return _filled(module, weights, weight=Slot(initializer=inputs[1], attribute="weight"),
                   bias=bias)  # fmt: skip


_MAKERS: Mapping[str, Callable[[Sequence[str], Attributes, Weights], Layer | None]] = {
    "BatchNormalization": _batch_norm,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
}


def embedding_of(name: str, weights: Weights) -> Layer:
    """Return the table whose rows a Gather node looks up."""
    table = weights[name]
    module = nn.Embedding(table.shape[0], table.shape[1])
    return _filled(module, weights, weight=Slot(initializer=name, attribute="weight"), bias=None)


def _uneven(attributes: Attributes, rank: int) -> bool:
    """Return whether a window's padding differs at its two ends, or depends on the input."""
    if attributes.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        return True
    pads = attributes.get("pads", [0] * 2 * rank)
    return list(pads[:rank]) != list(pads[rank:])


def _optional(inputs: Sequence[str], place: int) -> str | None:
    return inputs[place] if len(inputs) > place and inputs[place] else None


def _filled(module: nn.Module, weights: Weights, *, weight: Slot, bias: str | None) -> Layer:
    slots = [weight, *([] if bias is None else [Slot(initializer=bias, attribute="bias")])]
    return _with(module, slots, weights)


def _with(module: nn.Module, slots: Sequence[Slot], weights: Weights) -> Layer:
    with torch.no_grad():
        for slot in slots:
            value = torch.from_numpy(weights[slot.initializer].copy())
            getattr(module, slot.attribute).copy_(value.t() if slot.transposed else value)
    return Layer(module=module, slots=tuple(slots))
