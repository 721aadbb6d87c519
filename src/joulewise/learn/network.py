"""An ONNX graph as a torch module, and back.

The graph stays what it is: torch runs its nodes one by one with the operators' own meaning
(`joulewise.learn.operators`), and after training or pruning the new weights go into the same graph.
So there is no exporter whose output could differ, a trained model keeps its names and its
preprocessing, and every step of a recipe takes an ONNX file and gives one.

Invariants: a network that was opened and not changed writes a graph that computes the same; weights
that are used twice are one tensor; the file that was opened is never touched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from joulewise.core.errors import PassError, one_line
from joulewise.learn.graph import Arrays, arrays_of, attributes_of, plain
from joulewise.learn.layers import Layer, Slot, embedding_of, layer_of, with_bias
from joulewise.learn.operators import OPERATORS
from joulewise.learn.session import open_session

if TYPE_CHECKING:
    import onnx

__all__ = ["SAME_RATIO", "Network", "check_same", "open_network", "save_network"]

WEIGHTED = frozenset(
    {"Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "PRelu", "LayerNormalization"}
    | {"InstanceNormalization", "GroupNormalization", "RMSNormalization", "Concat", "Where"}
)
"""Operators whose float constants of two numbers or more are weights, unless the node only
prepares the model's inputs."""

SAME_RATIO = 1e-3
"""Largest relative L2 difference to ONNX Runtime at which a network counts as the same.

Source: a judgement: float32 rounding stays well below 1e-4 through a hundred layers, a wrong
operator does not.
"""


@dataclass(frozen=True, kw_only=True)
class _Node:
    """One instruction: values by name in, values by name out."""

    run: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(kw_only=True)
class _Plan:
    """What a graph becomes: instructions, and the tensors that they use."""

    nodes: list[_Node] = field(default_factory=list)
    layers: dict[str, Layer] = field(default_factory=dict)
    free: list[str] = field(default_factory=list)


class Network(nn.Module):
    """An ONNX graph that torch runs and differentiates.

    Called with one tensor per input, in the graph's order; returns a tuple of its outputs. In
    training mode batch normalisation uses and updates batch statistics; nothing is dropped out.
    `layers` holds the layers with weights (torch's own classes), `free` the other weights.

    Args:
        model: the graph, its weights loaded.

    Raises:
        PassError: an operator is not known, or the weights are not float32.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._model = plain(model)
        graph = self._model.graph
        arrays = arrays_of(graph)
        _check_float32(arrays)
        self.inputs = tuple(value.name for value in graph.input)
        self.outputs = tuple(value.name for value in graph.output)
        plan = _plan(graph, arrays)
        self.layers = nn.ModuleDict({key: layer.module for key, layer in plan.layers.items()})
        self._slots = {key: layer.slots for key, layer in plan.layers.items()}
        _share(self.layers, self._slots)
        self._free_names = tuple(plan.free)
        self.free = nn.ParameterList(nn.Parameter(_tensor(arrays[name])) for name in plan.free)
        owned = {
            *plan.free,
            *(slot.initializer for key in self._slots for slot in self._slots[key]),
        }
        used = {name for node in plan.nodes for name in node.inputs} | set(self.outputs)
        twice = sorted(used & owned - set(plan.free))
        if twice:
            raise PassError(f"the weights {twice[0]} are used by a layer and elsewhere too")
        self._constant_names = tuple(name for name in arrays if name in used - owned)
        for number, name in enumerate(self._constant_names):
            self.register_buffer(f"constant_{number}", _tensor(arrays[name]), persistent=False)
        self._nodes = tuple(plan.nodes)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs, in the graph's order."""
        values: dict[str, Any] = {"": None, **dict(zip(self.inputs, inputs, strict=True))}
        values |= zip(self._free_names, self.free, strict=True)
        for number, name in enumerate(self._constant_names):
            values[name] = getattr(self, f"constant_{number}")
        for node in self._nodes:
            found = node.run(self.layers, *(values[name] for name in node.inputs))
            if isinstance(found, tuple):
                values |= zip(node.outputs, found, strict=False)
            else:
                values[node.outputs[0]] = found
        return tuple(values[name] for name in self.outputs)

    @property
    def fixed_items(self) -> int | None:
        """The batch that the graph is fixed to, None where it is free."""
        shape = self._model.graph.input[0].type.tensor_type.shape
        first: int = shape.dim[0].dim_value if shape.dim else 0
        return first if first > 0 else None

    def layer_of(self, initializer: str) -> str | None:
        """Return the key in `layers` of the layer whose tensor this is, None where none is."""
        for key, slots in self._slots.items():
            if any(slot.initializer == initializer for slot in slots):
                return key
        return None

    def weight_of(self, layer: str) -> str:
        """Return the initializer that holds the weights of the layer with this key."""
        return self._slots[layer][0].initializer

    def bias_of(self, layer: str) -> str | None:
        """Return the initializer that holds the bias of a layer, None where it has none."""
        found = (slot.initializer for slot in self._slots[layer] if slot.attribute == "bias")
        return next(found, None)

    def learn_only(self, names: Collection[str]) -> None:
        """Let only the weights of these initializers be trained."""
        found = dict(zip(self.free, self._free_names, strict=True))
        for key, slots in self._slots.items():
            found |= {getattr(self.layers[key], x.attribute): x.initializer for x in slots}
        for weight in self.parameters():
            weight.requires_grad_(found[weight] in names)

    def weights(self) -> Arrays:
        """Return the present value of every initializer that can change, float32."""
        found: dict[str, Tensor] = dict(zip(self._free_names, self.free, strict=True))
        for key, slots in self._slots.items():
            for slot in slots:
                value = getattr(self.layers[key], slot.attribute)
                found[slot.initializer] = value.t() if slot.transposed else value
        return {name: np.ascontiguousarray(x.detach().cpu().numpy()) for name, x in found.items()}

    def to_onnx(self) -> onnx.ModelProto:
        """Return the graph with the weights as they are now.

        Raises:
            PassError: the changed graph is not valid.
        """
        import onnx

        model, weights = onnx.ModelProto(), self.weights()
        model.CopyFrom(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in weights:
                tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name], tensor.name))
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type in ("Conv", "ConvTranspose") and attribute.name == "group":
                    attribute.i = self._groups(node.input[1], attribute.i)
        del model.graph.value_info[:]
        try:
            model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
            onnx.checker.check_model(model)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise PassError(f"the changed graph is not valid: {one_line(error)}") from error
        return model

    def _groups(self, initializer: str, known: int) -> int:
        key = self.layer_of(initializer)
        return known if key is None else int(self.layers[key].groups)


def open_network(path: Path) -> Network:
    """Return the ONNX graph at `path` as a network.

    Args:
        path: a ``.onnx`` file that `joulewise.workload.model.load_model` accepts.

    Raises:
        PassError: an operator is not known, or the weights are not float32.
    """
    import onnx

    return Network(onnx.load(path))


def save_network(network: Network, path: Path) -> None:
    """Write a network with its present weights to one ONNX file.

    Raises:
        PassError: the changed graph is not valid, or its weights are not finite numbers.
    """
    import onnx

    broken = [name for name, value in network.weights().items() if not np.isfinite(value).all()]
    if broken:
        raise PassError(f"training gave weights that are not numbers ({broken[0]}); lower the rate")
    onnx.save(network.to_onnx(), path)


def check_same(
    network: Network,
    path: Path,
    batch: Mapping[str, np.ndarray[Any, Any]],
    most_ratio: float = SAME_RATIO,
) -> None:
    """Compare a network with ONNX Runtime on the graph it came from.

    Args:
        network: the network; left in evaluation mode.
        path: the graph.
        batch: one array per input.
        most_ratio: largest relative L2 difference.

    Raises:
        PassError: an output differs by more than that, or torch cannot run the graph.
    """
    network.eval()
    session = open_session(path, rewrite=False)
    expected = session.run(list(network.outputs), dict(batch))
    try:
        with torch.no_grad():
            found = network(*(_tensor(batch[name]) for name in network.inputs))
    except (RuntimeError, NotImplementedError, IndexError, ValueError, TypeError) as error:
        raise PassError(f"torch cannot run this graph: {one_line(error)}") from error
    for name, ours, theirs in zip(network.outputs, found, expected, strict=True):
        off = _difference(ours.numpy(), np.asarray(theirs))
        if not off <= most_ratio:
            raise PassError(
                f"in torch the output {name} differs from ONNX Runtime's by {100 * off:.2g} %; "
                "steps that train are left out for this model"
            )


def _difference(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Return the relative L2 difference; infinity where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    length = float(np.linalg.norm(theirs.astype(np.float64)))
    off = float(np.linalg.norm(ours.astype(np.float64) - theirs.astype(np.float64)))
    return off / length if length else off


def _plan(graph: onnx.GraphProto, arrays: Arrays) -> _Plan:
    """Return the instructions of a plain graph."""
    weights = {name: value for name, value in arrays.items() if value.dtype == np.float32}
    biases = dict(_biases(graph, weights))
    merged = {addition: product for product, (addition, _) in biases.items()}
    raw = {value.name for value in graph.input}  # values that only prepare the inputs
    plan, known = _Plan(), dict[tuple[object, ...], str]()
    for node in graph.node:
        name = node.output[0]
        if name in merged:
            continue
        attributes = attributes_of(node)
        layer = layer_of(node.op_type, node.input, attributes, weights)
        if layer is None and _is_lookup(node, attributes, weights):
            layer = embedding_of(node.input[0], weights)
        if layer is not None and name in biases:
            name, bias = biases[name]
            layer = with_bias(layer, bias, weights)
        if layer is not None:
            same = (node.op_type, str(attributes), layer.slots)
            key = known.setdefault(same, f"{len(plan.layers)}_{node.op_type}")
            plan.layers.setdefault(key, layer)
            data = node.input[1] if node.op_type == "Gather" else node.input[0]
            plan.nodes.append(_Node(run=_through(key, layer), inputs=(data,), outputs=(name,)))
            continue
        if all(x in raw or x in arrays for x in node.input):
            raw.update(node.output)
        elif node.op_type in WEIGHTED:
            found = (x for x in node.input if x in weights and weights[x].size > 1)
            plan.free += [x for x in found if x not in plan.free]
        run = _bound(node.op_type, attributes)
        plan.nodes.append(_Node(run=run, inputs=tuple(node.input), outputs=tuple(node.output)))
    return plan


def _biases(graph: onnx.GraphProto, weights: Arrays) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield (product, (sum, bias)) for every MatMul whose only use is to add a bias to it."""
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    products = {
        node.output[0]: weights[node.input[1]].shape[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
        and weights[node.input[1]].ndim == 2 and uses[node.output[0]] == 1
    }  # fmt: skip
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, bias in (tuple(node.input), tuple(node.input)[::-1]):
            known = product in products and bias in weights
            if known and weights[bias].shape == (products[product],):
                yield product, (node.output[0], bias)


def _is_lookup(node: onnx.NodeProto, attributes: Mapping[str, Any], weights: Arrays) -> bool:
    table = weights.get(node.input[0]) if node.op_type == "Gather" else None
    return table is not None and table.ndim == 2 and attributes.get("axis", 0) == 0


def _through(key: str, layer: Layer) -> Callable[..., Any]:
    """Return an instruction that sends its input through a layer."""
    if layer.before is None:
        return lambda layers, x: layers[key](x)
    before = layer.before
    return lambda layers, x: layers[key](before(x))


def _bound(kind: str, attributes: Mapping[str, Any]) -> Callable[..., Any]:
    """Return an instruction that runs an operator."""
    operator = OPERATORS.get(kind)
    if operator is None:
        raise PassError(f"a {kind} whose weights are computed by the graph cannot be trained")
    return lambda _, *inputs: operator(attributes, *inputs)


def _share(layers: nn.ModuleDict, slots: Mapping[str, tuple[Slot, ...]]) -> None:
    """Make weights that several layers use one tensor."""
    first: dict[str, tuple[str, Slot]] = {}
    for key, found in slots.items():
        for slot in found:
            owner, before = first.setdefault(slot.initializer, (key, slot))
            if owner == key:
                continue
            if before.transposed != slot.transposed:
                raise PassError(f"the weights {slot.initializer} are used in two directions")
            setattr(layers[key], slot.attribute, getattr(layers[owner], before.attribute))


def _check_float32(arrays: Arrays) -> None:
    for name, value in arrays.items():
        if value.dtype.kind == "f" and value.dtype != np.float32 and value.size > 1:
            raise PassError(f"the weights {name} are {value.dtype}; export the model in float32")


def _tensor(value: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(value))
