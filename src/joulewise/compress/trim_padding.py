"""Cut sequences to the longest of their batch, within the graph, so that padding costs nothing.

Texts are padded to one length, and a model computes all of it, only to ignore what the mask says is
padding. Here the graph looks at the mask first and cuts its inputs after the last token of any
item. What it answers stays the same, in every runtime. Nothing is cut from a batch in which an item
has no token at all: what a model makes of it may depend on the length.

An exporter may have fixed the length. Then constants of that length (positions, masks) are cut too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.compress.material import Material
from joulewise.compress.static_int8 import fixed_batch
from joulewise.core.child import tell
from joulewise.core.errors import PassError, one_line
from joulewise.learn.session import open_session

if TYPE_CHECKING:
    import onnx

    from joulewise.learn.graph import Shape
    from joulewise.workload.store import Store

__all__ = ["MASK", "TrimPadding", "lengths", "longest", "trimmed"]

Array = np.ndarray[Any, np.dtype[Any]]
Batch = dict[str, Array]

MASK = "attention_mask"
"""Name that exporters give to the input that says where padding is."""

SAME_RATIO = 1e-4
"""Largest relative L2 difference of an output; float32 rounding stays well below it."""

COMPARED_ITEMS, COMPARED_BATCH_ITEMS = 32, 8
"""Most calibration items on which outputs are compared, and how many at a time."""

FREE = "trimmed length"
"""What the length is called while it is followed through the graph."""

BROADCASTS = frozenset({
    "Add", "And", "Div", "Equal", "Expand", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "Sub", "Sum", "Where", "Xor",
})  # fmt: skip
"""Operators that a constant enters element by element, so that it can be cut with the others."""


@dataclass(frozen=True, kw_only=True)
class TrimPadding:
    """Cut the inputs [items, length, ...] of a model after the last token of the batch.

    Args:
        mask: input [items, length] that is 0 where there is padding.
    """

    mask: str = MASK

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where nothing can be cut, or not without harm."""
        import onnx

        from joulewise.learn.graph import flexible

        model = onnx.load(source)
        if any(
            attribute.HasField("g") for node in model.graph.node for attribute in node.attribute
        ):
            raise PassError("the graph has loops or branches, in which nothing can be cut here")
        made = trimmed(flexible(model, trained=False), self.mask)
        marks = material.calibrate.inputs[self.mask]
        kept = float(lengths(marks).mean()) / marks.shape[1]
        if kept == 1:
            raise PassError(
                "no calibration item ends in padding, so there is nothing to cut; pad on the right "
                "where the model allows that"
            )
        onnx.checker.check_model(made)
        _check_same(model, made, self._batches(model, material))
        onnx.save(made, folder / "model.onnx")
        tell((1.0, f"single items become {100 * kept:.0f} % as long"))
        return ("model.onnx",)

    def _batches(self, model: onnx.ModelProto, material: Material) -> Iterator[Batch]:
        """Yield items in their order and in another, one without padding, one without a token."""
        size, store = fixed_batch(model.graph), material.calibrate
        if size is None:
            yield store.batch(0, 1)
        few = size or COMPARED_BATCH_ITEMS
        yield from store.batches(few, COMPARED_ITEMS)
        order = np.random.default_rng(material.seed).permutation(store.items)
        for start in range(0, min(COMPARED_ITEMS, store.items), few):
            yield _at(store, order[np.arange(start, start + few) % store.items])
        for value in (1, 0):
            batch = store.batch(0, few)
            batch[self.mask][0] = value
            yield batch


def longest(mask: Array) -> int:
    """Return to which length a batch is cut: the last place of a token, all if an item has none.

    Args:
        mask: [items, length], 0 where there is padding.
    """
    return int(lengths(mask).max())


def lengths(mask: Array) -> Array:
    """Return the last place of a token in each item, the whole length where it has none.

    Args:
        mask: [items, length], 0 where there is padding.

    Returns:
        int64 [items].
    """
    found: Array = mask.shape[1] - (mask != 0)[:, ::-1].argmax(axis=1)
    return found


def trimmed(model: onnx.ModelProto, mask: str) -> onnx.ModelProto:
    """Return a model that cuts its inputs to `longest` of its mask.

    Args:
        model: in the form that `joulewise.learn.graph.flexible` gives; not changed.
        mask: name of the mask among its inputs.

    Raises:
        PassError: it has no such mask, or an output is as long as the inputs.
    """
    import onnx

    from joulewise.learn.graph import drop_unused

    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    lengths = _lengths(graph, mask)
    places = {name: (name, 1) for name in lengths}
    cuts = {(name, 1): _cut_name(name, 1) for name in lengths}
    for node in graph.node:
        for number, name in enumerate(node.input):
            if name in places:
                node.input[number] = cuts[places[name]]
    length = lengths[mask]
    while found := _whole_constants(made, cuts, length):
        for node, number, axis in found:
            name = node.input[number]
            cuts[name, axis] = node.input[number] = _cut_name(name, axis)
    shapes = _shapes(made, cuts)
    for output in graph.output:
        if FREE in shapes.get(output.name, ()):
            raise PassError(
                f"the output {output.name!r} has a value for every token, padding included, so its "
                "inputs cannot be cut; leave this step out"
            )
    del graph.value_info[:]  # lengths in it are those of before
    nodes = [*_head(graph, mask, cuts), *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph)
    return made


def _lengths(graph: onnx.GraphProto, mask: str) -> dict[str, int | str | None]:
    """Return the inputs that are as long as the mask, with that length."""
    inputs = {x.name: x.type.tensor_type.shape.dim for x in graph.input}
    if mask not in inputs:
        raise PassError(
            f"the model has no input {mask!r} that says where padding is; it has "
            f"{', '.join(map(repr, inputs))}: give mask=NAME, or leave this step out"
        )
    if len(inputs[mask]) != 2:  # items, length
        raise PassError(f"the input {mask!r} has {len(inputs[mask])} axes, not items and length")
    found = {name: _size(axes[1]) for name, axes in inputs.items() if len(axes) > 1}
    return {name: size for name, size in found.items() if size == found[mask]}


def _size(axis: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return axis.dim_value if axis.HasField("dim_value") else axis.dim_param or None


def _cut_name(name: str, axis: int) -> str:
    return f"{name}/trimmed{axis}"


def _whole_constants(
    model: onnx.ModelProto, cuts: Mapping[tuple[str, int], str], length: int | str | None
) -> list[tuple[onnx.NodeProto, int, int]]:
    """Return where constants of the whole length meet values that are cut: node, input, axis.

    An axis of that length may be another one, the channels, say. Then the other values that it
    meets have that length too, even after the cut.
    """
    if not isinstance(length, int):
        return []
    shapes = _shapes(model, cuts)
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        (node, number, axis)
        for node in model.graph.node
        if node.op_type in BROADCASTS
        for number, name in enumerate(node.input)
        if (name in constants or name in cuts.values()) and not _is_sizes(node, number)
        for axis, size in enumerate(shapes.get(name, ()))
        if size == length
        and not any(isinstance(x, int) and x > 1 for x in _met(node, number, axis, shapes))
    ]


def _is_sizes(node: onnx.NodeProto, number: int) -> bool:
    return node.op_type == "Expand" and number == 1


def _met(
    node: onnx.NodeProto, number: int, axis: int, shapes: Mapping[str, Shape]
) -> Iterator[int | str | None]:
    """Yield the sizes of other inputs of a node that align with an axis of one of them."""
    from_end = len(shapes[node.input[number]]) - axis
    for other, name in enumerate(node.input):
        shape = shapes.get(name, ())
        if other != number and not _is_sizes(node, other) and len(shape) >= from_end:
            yield shape[-from_end]


def _shapes(model: onnx.ModelProto, cuts: Mapping[tuple[str, int], str]) -> dict[str, Shape]:
    """Return the shapes of all values, with FREE for the length of those that are cut.

    What is cut is taken for an input of its own, so that nothing else has to be known of it.
    """
    import onnx
    from onnx import helper

    from joulewise.learn.graph import shapes_of

    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    del graph.value_info[:]
    known = {x.name: x.type for x in graph.input}
    known |= {x.name: helper.make_tensor_type_proto(x.data_type, x.dims) for x in graph.initializer}
    for (name, axis), cut in cuts.items():
        value = onnx.ValueInfoProto(name=cut)
        value.type.CopyFrom(known[name])
        value.type.tensor_type.shape.dim[axis].Clear()
        value.type.tensor_type.shape.dim[axis].dim_param = FREE
        known[cut] = value.type
        graph.input.append(value)
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    shadow = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return shapes_of(shadow)


def _head(
    graph: onnx.GraphProto, mask: str, cuts: Mapping[tuple[str, int], str]
) -> list[onnx.NodeProto]:
    """Return the nodes that find the length of a batch, see `longest`, and cut to it."""
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[onnx.NodeProto] = []
    known: dict[str, str] = {}

    def constant(value: int | Sequence[int]) -> str:
        name = f"trim/{value}"
        if name not in known:
            known[name] = name
            array = np.array(value, np.int64)
            graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def node(kind: str, *inputs: str, name: str, **attributes: Any) -> str:  # noqa: ANN401
        nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    sizes = node("Shape", mask, name="trim/sizes")
    whole = node("Gather", sizes, constant([1]), name="trim/whole")
    token = node("Cast", mask, name="trim/token", to=TensorProto.BOOL)
    token = node("Cast", token, name="trim/tokens", to=TensorProto.INT64)
    places = node(
        "CumSum",
        node("Expand", constant([1]), whole, name="trim/ones"),
        constant(0),
        name="trim/places",
    )
    last = node(
        "ReduceMax", node("Mul", token, places, name="trim/taken"), name="trim/last", keepdims=0
    )
    counts = node("ReduceSum", token, constant([1]), name="trim/counts", keepdims=0)
    fewest = node("ReduceMin", counts, name="trim/fewest", keepdims=0)
    empty = node("Less", fewest, constant(1), name="trim/empty")
    length = node("Where", empty, whole, last, name="trim/length")
    for (value, axis), cut in cuts.items():
        node("Slice", value, constant([0]), length, constant([axis]), name=cut)
    return nodes


def _at(store: Store, rows: np.ndarray[Any, np.dtype[np.int64]]) -> Batch:
    return {
        name: np.ascontiguousarray(values[rows], store.dtypes[name])
        for name, values in store.inputs.items()
    }


def _check_same(model: onnx.ModelProto, made: onnx.ModelProto, batches: Iterator[Batch]) -> None:
    """Raise PassError where ONNX Runtime finds that the two answer differently."""
    before = open_session(model)
    try:
        after = open_session(made)
        for batch in batches:
            for wanted, found in zip(before.run(None, batch), after.run(None, batch), strict=True):
                if not _same(np.asarray(wanted), np.asarray(found)):
                    raise PassError(
                        "without the padding the model answers differently, so it does not ignore "
                        "what the mask leaves out; leave this step out, or put it before int8"
                    )
    except PassError:
        raise
    except Exception as error:  # whatever ONNX Runtime raises
        raise PassError(
            f"the graph holds only at its whole length ({one_line(error)}); export it with a free "
            "length"
        ) from error


def _same(wanted: Array, found: Array) -> bool:
    if wanted.shape != found.shape:
        return False
    if wanted.dtype.kind != "f":
        return bool(np.array_equal(wanted, found))
    off = np.linalg.norm(found.astype(np.float64) - wanted)
    return bool(off <= SAME_RATIO * np.linalg.norm(wanted.astype(np.float64)))
