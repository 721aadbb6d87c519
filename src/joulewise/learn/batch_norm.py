"""Batch normalisation: put into a graph so that it trains well, and folded out of it again.

Exporters fold batch normalisation into the convolution before it, since it costs joules and gives
nothing once training is over. But a network without it is hard to train any further. So what
trains goes: `insert`, train, `fold`. The first and the last leave the function as it is, and the
graph that comes out has the nodes of the graph that went in.

Source: Ioffe and Szegedy 2015, section 3.1 (arXiv:1502.03167): in inference batch normalisation is
one affine map per channel, gamma * (x - mean) / sqrt(variance + epsilon) + beta.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from joulewise.learn.graph import Arrays, arrays_of, attributes_of, drop_unused, plain
from joulewise.learn.network import Network

if TYPE_CHECKING:
    import onnx

__all__ = ["EPSILON", "FEWEST_ITEMS", "fold", "freeze", "insert"]

Array = np.ndarray[Any, np.dtype[Any]]
Batch = Mapping[str, Array]

EPSILON = 1e-5
"""Added to the variance by the nodes that `insert` makes; the default of ONNX and of PyTorch."""

NORMALISED_OTHERWISE = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "RMSNormalization"}
    | {"Sqrt"}
)
"""Operators of a network with normalisation of another kind; Sqrt where it is several nodes."""

LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators that can take in an affine map of their output's channels."""

FEWEST_ITEMS = 16
"""Smallest batch whose statistics batch normalisation should learn from.

Source: Wu and He 2018, figure 1 (arXiv:1803.08494): with fewer items its error rises.
"""

NORM_INPUTS = 5
IR_VERSION_OF_FREE_INITIALIZERS = 4
"""First version in which an initializer need not be an input as well."""


def insert(model: onnx.ModelProto, batches: Iterable[Batch]) -> onnx.ModelProto:
    """Return the model, in plain form, with batch normalisation after every convolution.

    In inference the new nodes change nothing: their mean and variance are those of the
    convolution's output on `batches`, their offset is that mean, and their scale is
    sqrt(variance + EPSILON). The convolution loses its bias, which the new node would undo. Left as
    they are: convolutions that have one, that give an output of the model, or whose weights are
    used twice; and networks with normalisation of another kind.

    Args:
        model: its weights loaded; not changed.
        batches: typical inputs by name, each [n, ...]; read once.

    Raises:
        PassError: torch does not know an operator of the model.
    """
    from onnx import helper, numpy_helper

    made = plain(model)
    graph = made.graph
    bare, arrays = _bare_convolutions(graph), arrays_of(graph)
    moments = _moments(Network(made), bare, batches) if bare else {}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type != "Conv" or node.input[1] not in bare:
            continue
        name = node.output[0]
        mean, variance = moments[node.input[1]]
        bias = _bias(node, arrays)
        values = (np.sqrt(variance + EPSILON), mean, mean - (0 if bias is None else bias), variance)
        parts = [f"{name}/{part}" for part in ("scale", "offset", "mean", "variance")]
        graph.initializer.extend(
            numpy_helper.from_array(value.astype(np.float32), part)
            for part, value in zip(parts, values, strict=True)
        )
        node.output[0] = f"{name}/raw"
        del node.input[2:]
        inputs = [node.output[0], *parts]
        nodes.append(helper.make_node("BatchNormalization", inputs, [name], epsilon=EPSILON))
    _set_nodes(graph, nodes)
    drop_unused(graph)
    return made


def fold(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """Return the model with batch normalisation folded into what is before it, and how often.

    A node is folded where it alone uses the result of a Conv, ConvTranspose or Gemm whose weights
    are constants. With gain = gamma / sqrt(variance + epsilon) per channel, the weights become
    gain * weights and the bias gain * (bias - mean) + beta.

    Args:
        model: its weights loaded; not changed.
    """
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    arrays, uses = arrays_of(graph), Counter(_used_names(graph))
    makers = {name: node for node in graph.node for name in node.output}
    kept, changed = [], dict[str, Array]()
    for node in graph.node:
        maker = makers.get(node.input[0]) if _is_affine(node, arrays) else None
        if maker is None or uses[node.input[0]] != 1 or not _takes_gain(maker, arrays):
            kept.append(node)
            continue
        names = _weight_names(maker, arrays, uses)
        for name, value in zip(names, _absorbed(maker, node, arrays), strict=True):
            arrays[name] = changed[name] = value
        maker.input[:] = [maker.input[0], *names]
        maker.output[0] = node.output[0]
        makers[node.output[0]] = maker
    count = len(graph.node) - len(kept)
    if count:
        _set_nodes(graph, kept)
        _set_arrays(made, changed)
    return made, count


def freeze(network: nn.Module) -> None:
    """Let batch normalisation use the statistics that it has, and leave them as they are."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - base of torch's
            layer.eval()


def _bare_convolutions(graph: onnx.GraphProto) -> set[str]:
    """Return the weights of the convolutions that get a batch normalisation."""
    if any(node.op_type in NORMALISED_OTHERWISE for node in graph.node):
        return set()
    uses = Counter(_used_names(graph))
    ends = {value.name for value in graph.output}
    normed = {node.input[0] for node in graph.node if node.op_type == "BatchNormalization"}
    arrays = arrays_of(graph)
    return {
        node.input[1]
        for node in graph.node
        if node.op_type == "Conv"
        and _are_constants(node.input[1:], arrays)
        and uses[node.input[1]] == 1
        and node.output[0] not in ends | normed
    }


def _moments(
    network: Network, weights: Collection[str], batches: Iterable[Batch]
) -> dict[str, tuple[Array, Array]]:
    """Return mean and variance by channel of what the layers with these weights give, float64."""
    gathered = {name: _Moments() for name in weights}
    for name, moments in gathered.items():
        layer = network.layers[network.layer_of(name)]
        layer.register_forward_hook(moments.add)
    network.eval()
    with torch.no_grad():
        for batch in batches:
            network(*(torch.from_numpy(np.array(batch[name])) for name in network.inputs))
    return {name: (moments.mean, moments.variance) for name, moments in gathered.items()}


class _Moments:
    """Mean and variance by channel over batches.

    Source: Chan, Golub and LeVeque 1983, The American Statistician 37(3), equation 2.1.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Array = np.zeros(1)
        self.squares: Array = np.zeros(1)

    def add(self, _layer: object, _inputs: object, output: Tensor) -> None:
        """Take in one batch [n, channels, ...]; the signature is that of a torch hook."""
        values = output.double().transpose(0, 1).flatten(1)
        new, count = values.mean(dim=1).numpy(), values.shape[1]
        squares = values.var(dim=1, correction=0).numpy() * count
        off, total = new - self.mean, self.count + count
        self.squares = self.squares + squares + off**2 * (self.count * count / total)
        self.mean = self.mean + off * (count / total)
        self.count = total

    @property
    def variance(self) -> Array:
        """Mean square distance from the mean."""
        return self.squares / self.count


def _is_affine(node: onnx.NodeProto, arrays: Arrays) -> bool:
    """Return whether a node is batch normalisation with constants, as in inference."""
    return (
        node.op_type == "BatchNormalization"
        and len(node.input) == NORM_INPUTS
        and _are_constants(node.input[1:], arrays)
        and not any(node.output[1:])
        and not attributes_of(node).get("training_mode", 0)
    )


def _takes_gain(node: onnx.NodeProto, arrays: Arrays) -> bool:
    """Return whether weights and bias of a node are constants that a gain can go into."""
    if node.op_type not in LINEAR or not _are_constants(node.input[1:], arrays):
        return False
    bias = _bias(node, arrays)
    return attributes_of(node).get("beta", 1.0) == 1.0 and (bias is None or bias.ndim == 1)


def _absorbed(node: onnx.NodeProto, norm: onnx.NodeProto, arrays: Arrays) -> tuple[Array, Array]:
    """Return weights and bias of a linear node after the batch normalisation is folded in."""
    gamma, beta, mean, variance = (arrays[name].astype(np.float64) for name in norm.input[1:])
    gain = gamma / np.sqrt(variance + attributes_of(norm).get("epsilon", EPSILON))
    weights, bias = arrays[node.input[1]], _bias(node, arrays)
    new = gain * ((0.0 if bias is None else bias) - mean) + beta
    spread = _spread(gain, node, weights.shape)
    return (weights * spread).astype(weights.dtype), new.astype(weights.dtype)


def _spread(gain: Array, node: onnx.NodeProto, shape: Sequence[int]) -> Array:
    """Return a gain per output channel in a shape that multiplies a node's weights."""
    attributes = attributes_of(node)
    if node.op_type == "Gemm":
        return gain[:, None] if attributes.get("transB", 0) else gain[None, :]
    if node.op_type == "ConvTranspose":  # [in, out / groups, ...], inputs group by group
        groups = attributes.get("group", 1)
        gain = np.repeat(gain.reshape(groups, -1), shape[0] // groups, axis=0)
    return gain.reshape(gain.shape + (1,) * (len(shape) - gain.ndim))


def _bias(node: onnx.NodeProto, arrays: Arrays) -> Array | None:
    return arrays[node.input[2]] if len(node.input) > 2 and node.input[2] else None


def _are_constants(names: Iterable[str], arrays: Arrays) -> bool:
    return all(name in arrays for name in names if name)


def _weight_names(node: onnx.NodeProto, arrays: Arrays, uses: Counter[str]) -> tuple[str, str]:
    """Return names for changed weights and bias: the old ones where nothing else uses them."""
    weights = node.input[1]
    bias = node.input[2] if len(node.input) > 2 else ""
    return (
        weights if uses[weights] == 1 else _unused(weights, arrays),
        bias if bias and uses[bias] == 1 else _unused(bias or f"{weights}_bias", arrays),
    )


def _unused(name: str, arrays: Arrays) -> str:
    while name in arrays:
        name += "_folded"
    return name


def _used_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every use of a value, those by nested graphs and as outputs included."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for nested in [attribute.g, *attribute.graphs]:
                yield from _used_names(nested)
    yield from (value.name for value in graph.output)


def _set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    kept = list(nodes)
    del graph.node[:]
    graph.node.extend(kept)


def _set_arrays(model: onnx.ModelProto, changed: Arrays) -> None:
    """Write changed initializers, drop those that nothing uses, and shapes that are no more."""
    from onnx import numpy_helper

    graph = model.graph
    old, used = {tensor.name for tensor in graph.initializer}, set(_used_names(graph))
    kept = [
        numpy_helper.from_array(changed[tensor.name], tensor.name)
        if tensor.name in changed
        else tensor
        for tensor in graph.initializer
        if tensor.name in used
    ]
    new = [name for name in changed if name in used - old]
    kept += [numpy_helper.from_array(changed[name], name) for name in new]
    inputs = [value for value in graph.input if value.name not in old]
    del graph.initializer[:], graph.input[:], graph.value_info[:]
    graph.initializer.extend(kept)
    graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, IR_VERSION_OF_FREE_INITIALIZERS)
