"""Cut a graph in two at a value: where that is possible, and the two parts as models."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from joulewise.compress.compose import batch_of, graphs, inputs_of
from joulewise.core.errors import PassError
from joulewise.learn.session import open_session
from joulewise.workload.store import Store

if TYPE_CHECKING:
    import onnx

__all__ = ["Place", "find_place", "part_after", "part_before"]

LOOK_ITEMS = 2
"""Items on which the shapes inside a model with a free batch are looked at."""

WEIGHTS = {
    "Conv": 1, "ConvInteger": 1, "ConvTranspose": 1, "QLinearConv": 3,
    "Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3,
    "GRU": 1, "LSTM": 1, "RNN": 1,
}  # fmt: skip
"""Operators that multiply and add -> which of their inputs is the weights."""

ALONG_LAST_AXIS = frozenset({"MatMul", "MatMulInteger", "LayerNormalization"})


@dataclass(frozen=True, kw_only=True)
class Place:
    """A value through which every product before it reaches the answer.

    Args:
        value: name of the floats there.
        carried: name of what goes on: the same, or what it is dequantized from.
        shape: of the value, the batch first.
        channels_last: whether its channels are the last axis; else they are the second.
        fixed: whether nothing but the batch of its shape can differ.
        work_ratio: share of the multiply-adds before it.
    """

    value: str
    carried: str
    shape: tuple[int, ...]
    channels_last: bool
    fixed: bool
    work_ratio: float


def find_place(model: onnx.ModelProto, store: Store, after: str | float) -> Place:
    """Return where to cut.

    Args:
        model: self-contained, with one output.
        store: items, of which a few are run.
        after: share of the multiply-adds before the cut, in (0, 1): the nearest place is taken, of
            equally near ones the last; or the name of a value.

    Raises:
        PassError: there is no such place.
    """
    shapes, floats = _look(model, store)
    nodes, work = _Nodes(model.graph.node), [_work(node, shapes) for node in model.graph.node]
    total, answer = sum(work), model.graph.output[0].name
    ratios = {name: sum(work[i] for i in nodes.needed([name])) / total for name in floats if total}
    named = [after] if after in ratios else []
    order = named if isinstance(after, str) else _nearest(ratios, after)
    for name in order:
        maker = nodes.maker(name)
        carried = maker.input[0] if maker.op_type == "DequantizeLinear" else name
        rest = nodes.needed([answer], stop=(carried,))
        if 0 < ratios[name] < 1 and not any(work[i] for i in rest & nodes.needed([name])):
            return Place(
                value=name,
                carried=carried,
                shape=shapes[name],
                channels_last=bool(nodes.readers(name) & ALONG_LAST_AXIS),
                fixed=_has_fixed_items(model),
                work_ratio=ratios[name],
            )
    where = f"after {after!r}" if isinstance(after, str) else "anywhere"
    raise PassError(
        f"the graph cannot be cut in two {where}: values from before are needed later, or no "
        "products lie before or after; leave early_exit out, or name another value"
    )


def part_before(
    model: onnx.ModelProto,
    place: Place,
    more: Sequence[onnx.NodeProto],
    weights: Sequence[onnx.TensorProto],
    output: onnx.ValueInfoProto,
) -> onnx.ModelProto:
    """Return the part of a model before a place, and `more` nodes after it that give `output`."""
    nodes = _Nodes(model.graph.node)
    kept = [*nodes.at(nodes.needed([place.value])), *more]
    return _part(model, kept, inputs_of(model), [output], weights)


def part_after(model: onnx.ModelProto, place: Place) -> onnx.ModelProto:
    """Return the part of a model after a place; its inputs are `carried` and the model's own."""
    from onnx import helper

    nodes = _Nodes(model.graph.node)
    answer = model.graph.output[0]
    kept = nodes.at(nodes.needed([answer.name], stop=(place.carried,)))
    used = {name for node in kept for name in _reads(node)}
    inputs = [value for value in inputs_of(model) if value.name in used]
    carried = helper.make_empty_tensor_value_info(place.carried)
    return _part(model, kept, [carried, *inputs], [answer], ())


def _part(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Iterable[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto],
) -> onnx.ModelProto:
    """Return a model of some nodes of another, with the weights that they use."""
    from onnx import helper

    used = {name for node in nodes for name in _reads(node)}
    graph = helper.make_graph(
        list(nodes),
        "part",
        list(inputs),
        list(outputs),
        initializer=[*(x for x in model.graph.initializer if x.name in used), *weights],
        sparse_initializer=[x for x in model.graph.sparse_initializer if x.values.name in used],
    )
    made = helper.make_model(
        graph, opset_imports=list(model.opset_import), ir_version=model.ir_version
    )
    made.metadata_props.extend(model.metadata_props)
    return made


class _Nodes:
    """The nodes of a graph in their order, and which needs which."""

    def __init__(self, nodes: Iterable[onnx.NodeProto]) -> None:
        self._nodes = list(nodes)
        self._reads = [_reads(node) for node in self._nodes]
        self._makers = {x: i for i, node in enumerate(self._nodes) for x in node.output if x}

    def at(self, places: Collection[int]) -> list[onnx.NodeProto]:
        return [self._nodes[i] for i in sorted(places)]

    def maker(self, name: str) -> onnx.NodeProto:
        return self._nodes[self._makers[name]]

    def readers(self, name: str) -> set[str]:
        """Return the operator types that read a value."""
        pairs = zip(self._nodes, self._reads, strict=True)
        return {node.op_type for node, reads in pairs if name in reads}

    def needed(self, names: Iterable[str], stop: Collection[str] = ()) -> set[int]:
        """Return the places of the nodes that some values need, not looking beyond `stop`."""
        found: set[int] = set()
        waiting = [name for name in names if name not in stop]
        while waiting:
            maker = self._makers.get(waiting.pop())
            if maker is not None and maker not in found:
                found.add(maker)
                waiting += [name for name in self._reads[maker] if name not in stop]
        return found


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the names of all values that a node may read, those in its inner graphs included."""
    inner = [g for a in node.attribute for x in (a.g, *a.graphs) for g in graphs(x)]
    names = {name for graph in inner for each in graph.node for name in each.input}
    names |= {value.name for graph in inner for value in graph.output}
    return (names | set(node.input)) - {""}


def _look(model: onnx.ModelProto, store: Store) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Return the shape of every value, and which are floats with a row per item."""
    import onnx

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [name for node in model.graph.node for name in node.output if name]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(shown, rewrite=False)
    items = batch_of(model) or LOOK_ITEMS
    batch = store.batch(0, items)
    found = zip(names, session.run(None, batch), strict=True)
    values = {name: value for name, value in found if isinstance(value, np.ndarray)}
    floats = [
        name
        for name, value in values.items()
        if value.dtype.kind == "f" and value.ndim >= 2 and len(value) == items
    ]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return shapes | {name: value.shape for name, value in (batch | values).items()}, floats


def _work(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the multiply-adds of a node on the items that were looked at."""
    place = WEIGHTS.get(node.op_type)
    if place is None:
        return 0
    x, weights = shapes[node.input[0]], shapes[node.input[place]]
    if "Conv" in node.op_type:
        ends = node.input[0] if node.op_type == "ConvTranspose" else node.output[0]
        return math.prod(shapes[ends]) * math.prod(weights[1:])
    if "MatMul" in node.op_type:
        return math.prod(shapes[node.output[0]]) * x[-1]
    if node.op_type == "Gemm":
        return math.prod(x) * shapes[node.output[0]][1]
    return math.prod(x[:2]) * (math.prod(weights) + math.prod(shapes[node.input[2]]))


def _nearest(ratios: Mapping[str, float], after: float) -> list[str]:
    places = {name: place for place, name in enumerate(ratios)}
    return sorted(ratios, key=lambda name: (abs(ratios[name] - after), -places[name]))


def _has_fixed_items(model: onnx.ModelProto) -> bool:
    """Return whether all items have one shape."""
    dims = [dim for x in inputs_of(model) for dim in x.type.tensor_type.shape.dim[1:]]
    return all(dim.dim_value > 0 for dim in dims)
