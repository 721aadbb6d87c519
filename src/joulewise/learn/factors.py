"""Layers that are one matrix product, and putting two thin products in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from joulewise.learn.graph import arrays_of
from joulewise.learn.layers import CONVOLUTIONS
from joulewise.learn.network import Network

if TYPE_CHECKING:
    import onnx

__all__ = ["Factors", "Matrix", "Moments", "input_moments", "matrices", "shrunk", "with_factors"]

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """A linear layer or a 1x1 convolution.

    Args:
        layer: its key in `Network.layers`.
        weights: [out, in].
        bias: initializer that holds its bias, None where it has none.
    """

    layer: str
    weights: Array
    bias: str | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """What a layer reads, on average.

    Args:
        mean: [in].
        covariance: [in, in], as estimated for inputs that were not looked at (`shrunk`).
    """

    mean: Array
    covariance: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """What takes the place of weights: ``second @ first``.

    Args:
        first: [rank, in].
        second: [out, rank].
        offset: added to the bias, [out]; None for nothing.
    """

    first: Array
    second: Array
    offset: Array | None = None


def matrices(network: Network, graph: onnx.GraphProto) -> dict[str, Matrix]:
    """Return initializer -> layer for all that are one matrix product with weights of their own.

    Args:
        network: made of `graph`.
        graph: in plain form.
    """
    uses = Counter(name for node in graph.node for name in node.input)
    found = {}
    for name in (node.input[1] for node in graph.node if len(node.input) > 1):
        key = network.layer_of(name) if uses[name] == 1 else None
        if key is None or network.weight_of(key) != name:
            continue
        layer = network.layers[key]
        if isinstance(layer, nn.Linear) or _is_pointwise(layer):
            weights = layer.weight.detach().flatten(1).double().numpy()
            found[name] = Matrix(layer=key, weights=weights, bias=network.bias_of(key))
    return found


def input_moments(
    network: Network, names: Mapping[str, Matrix], batches: Iterable[Sequence[Tensor]]
) -> dict[str, Moments]:
    """Return the moments of what each layer reads, by initializer of its weights.

    Args:
        network: in evaluation mode.
        names: layers by initializer.
        batches: typical inputs; read once.
    """
    gathered = {name: _Gathered() for name in names}
    handles = [
        network.layers[matrix.layer].register_forward_pre_hook(gathered[name].add)
        for name, matrix in names.items()
    ]
    with torch.no_grad():
        for batch in batches:
            network(*batch)
    for handle in handles:
        handle.remove()
    return {name: each.moments() for name, each in gathered.items()}


def with_factors(
    model: onnx.ModelProto, layers: Mapping[str, Matrix], factors: Mapping[str, Factors]
) -> onnx.ModelProto:
    """Return the graph with two nodes in place of each layer that is split.

    Args:
        model: in plain form; not changed.
        layers: by initializer of their weights.
        factors: of the layers to split.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, arrays = made.graph, arrays_of(model.graph)
    nodes: list[onnx.NodeProto] = []
    moved: dict[str, tuple[str, str]] = {}  # product -> its bias, and what takes its place
    for node in model.graph.node:
        weights = node.input[1] if len(node.input) > 1 else ""
        if weights in factors:
            biases = _split(graph, nodes, node, layers[weights], factors[weights], arrays)
            moved |= {node.output[0]: biases} if biases else {}
            continue
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
        for product in set(moved) & set(node.input):
            before, after = moved[product]
            nodes[-1].input[:] = [after if name == before else name for name in node.input]
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return made


def _split(
    graph: onnx.GraphProto,
    nodes: list[onnx.NodeProto],
    node: onnx.NodeProto,
    layer: Matrix,
    factors: Factors,
    arrays: Mapping[str, np.ndarray[Any, Any]],
) -> tuple[str, str] | None:
    """Append two nodes for one; return the bias that a later node adds, and what replaces it."""
    from onnx import helper, numpy_helper

    weights, output = node.input[1], node.output[0]
    ones = [1] * (arrays[weights].ndim - 2)

    def keep(part: str, value: np.ndarray[Any, Any]) -> str:
        tensor = np.ascontiguousarray(value, np.float32)
        graph.initializer.append(numpy_helper.from_array(tensor, f"{weights}/{part}"))
        return f"{weights}/{part}"

    def laid(value: Array) -> Array:  # a convolution holds [out, in, 1, ...], others [in, out]
        return value.reshape(*value.shape, *ones) if node.op_type == "Conv" else value.T

    strides = {a.name: a.ints for a in node.attribute if a.name == "strides"}
    inputs = [node.input[0], keep("first", laid(factors.first))]
    nodes.append(helper.make_node(node.op_type, inputs, [f"{output}/thin"], **strides))
    rest = [f"{output}/thin", keep("second", laid(factors.second)), *node.input[2:]]
    later = None
    if factors.offset is not None:
        bias = 0.0 if layer.bias is None else arrays[layer.bias]
        offset = keep("offset", bias + factors.offset)
        if node.op_type != "MatMul":
            rest = [*rest[:2], offset]
        elif layer.bias is None:
            nodes.append(helper.make_node("MatMul", rest, [f"{output}/raw"]))
            nodes.append(helper.make_node("Add", [f"{output}/raw", offset], [output]))
            return None
        else:
            later = (layer.bias, offset)
    nodes.append(helper.make_node(node.op_type, rest, [output]))
    return later


class _Gathered:
    """Sums over batches of what a layer reads."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Array = np.zeros(1)
        self._products: Array = np.zeros(1)
        self._long: Array = np.zeros(1)  # rows times their squared lengths
        self._fourth = 0.0  # squares of those

    def add(self, layer: nn.Module, given: tuple[Tensor]) -> None:
        """Take in one batch; the signature is that of a torch hook."""
        rows = _rows(layer, given[0]).double()
        lengths = rows.square().sum(dim=1)
        self._count += len(rows)
        self._sum = self._sum + rows.sum(dim=0).numpy()
        self._products = self._products + (rows.T @ rows).numpy()
        self._long = self._long + (lengths @ rows).numpy()
        self._fourth += lengths.square().sum().item()

    def moments(self) -> Moments:
        mean, products = self._sum / self._count, self._products / self._count
        offset, length = float(mean @ mean), float(np.trace(products))
        fourth = (  # mean of (|x|^2 - 2 mean x + |mean|^2)^2
            self._fourth / self._count
            + 4 * mean @ products @ mean
            - 4 * mean @ (self._long / self._count)
            + offset * (2 * length - 3 * offset)
        )
        covariance = products - np.outer(mean, mean)
        return Moments(mean=mean, covariance=shrunk(covariance, float(fourth), self._count))


def shrunk(covariance: Array, fourth: float, count: int) -> Array:
    """Return a covariance of few rows as it is to be expected for others.

    Drawn towards the same variance in all directions, the more the fewer rows there are: else
    directions in which none of them happened to lie would count for nothing.

    Args:
        covariance: of the rows, [in, in].
        fourth: mean fourth power of a row's distance from their mean.
        count: number of rows, taken as independent.

    Source: Ledoit and Wolf 2004, section 3.3 (doi:10.1016/S0047-259X(03)00096-4).
    """
    even = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
    apart = float(np.square(covariance - even).sum())
    noise = max(0.0, fourth - float(np.square(covariance).sum())) / count
    part = min(1.0, noise / apart) if apart > 0 else 0.0
    found: Array = (1 - part) * covariance + part * even
    return found


def _is_pointwise(layer: nn.Module) -> bool:
    return (
        isinstance(layer, CONVOLUTIONS)
        and layer.groups == 1
        and not any(layer.padding)
        and set(layer.kernel_size) == {1}
    )


def _rows(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the vectors that a layer multiplies, [n, in]."""
    if isinstance(layer, nn.Linear):
        return x.flatten(0, -2)
    steps = (slice(None, None, step) for step in layer.stride)
    return x[(slice(None), slice(None), *steps)].transpose(0, 1).flatten(1).T
