"""Two ONNX models as one: the first answers, and what it is unsure of goes through the second.

::

    inputs -> first stage -> gate -> If any item is deferred
                                     then: its rows of the inputs -> second stage -> put in place
                                     else: the first stage's answers

The second stage and its weights lie inside the If: runtimes then optimise it as a model of its own
(with weights outside, ONNX Runtime 1.32 ran convolutions there 1.7 times slower), and it costs
nothing when no item needs it. Deferred items of a batch go through it as one smaller batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.compress.gate import TINY, Gate
from joulewise.core.errors import PassError, one_line

if TYPE_CHECKING:
    import onnx

__all__ = ["Nodes", "batch_of", "compose", "graphs", "inputs_of", "self_contained"]

LEAST_OPSET = 13
"""First opset in which LogSoftmax works along one axis and the axes of Squeeze are an input."""

LEAST_IR = 7
"""IR version of LEAST_OPSET; from 4 on, weights need not be inputs."""

LARGEST_BYTES = 2**31 - 1
"""Largest ONNX file: a protobuf message holds no more."""

Attribute = int | Sequence[int]

FIRST, SECOND, GATE = "first/", "second/", "gate/"


def compose(
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    gate: Gate,
    *,
    feeds: Mapping[str, str],
    rows: bool,
) -> onnx.ModelProto:
    """Return one model with the inputs of the first stage and the outputs of the second.

    Args:
        first: self-contained; its first output holds scores [n, k].
        second: self-contained; as many outputs of the same types and shapes.
        gate: which items go to the second stage.
        feeds: input of the second stage -> the value of the first that it gets: one of its inputs,
            or a value inside.
        rows: whether the second stage works for any number of items; else the whole batch goes
            through it as soon as one item is deferred.

    Raises:
        PassError: the two do not fit together, or are too large for one file.
    """
    from onnx import helper

    first, second = _same_opsets(first, second)
    _check_outputs(first, second)
    batch = _common_batch(first, second)
    outer = {value.name: value.name for value in inputs_of(first)}
    ours = _renamed(first.graph, FIRST, outer)
    answers = [value.name for value in ours.output]
    fed = {name: outer.get(value, FIRST + value) for name, value in feeds.items()}
    gating, constants = _gate_nodes(gate, answers[0], _element(first.graph.output[0]))
    outputs = [_with_batch(value, batch) for value in second.graph.output]
    chosen = helper.make_node(
        "If",
        [f"{GATE}any"],
        [value.name for value in outputs],
        name=f"{GATE}if",
        then_branch=_deferred(second.graph, fed, ours, alone=batch == 1, rows=rows),
        else_branch=_kept(ours),
    )
    graph = helper.make_graph(
        [*ours.node, *gating, chosen],
        "cascade",
        [_with_batch(value, batch) for value in inputs_of(first)],
        outputs,
        initializer=[*ours.initializer, *constants],
        sparse_initializer=list(ours.sparse_initializer),
    )
    made = helper.make_model(
        graph,
        opset_imports=list(second.opset_import),
        ir_version=max(first.ir_version, second.ir_version),
    )
    made.metadata_props.extend(second.metadata_props)
    return _checked(made)


def self_contained(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of LEAST_OPSET or newer, without functions, no weights among its inputs.

    Raises:
        PassError: the opset cannot be raised.
    """
    import onnx.inliner

    plain = onnx.inliner.inline_local_functions(model) if model.functions else model
    made = _raised(plain, max(LEAST_OPSET, _versions(plain).get("", 0)))
    inputs = list(inputs_of(made))
    del made.graph.input[:]
    made.graph.input.extend(inputs)
    made.ir_version = max(made.ir_version, LEAST_IR)
    return made


def inputs_of(model: onnx.ModelProto) -> tuple[onnx.ValueInfoProto, ...]:
    """Return what the user feeds: inputs that are not weights."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    weights |= {tensor.values.name for tensor in graph.sparse_initializer}
    return tuple(value for value in graph.input if value.name not in weights)


def batch_of(model: onnx.ModelProto) -> int | None:
    """Return the number of items that a model is fixed to, None where it is free."""
    dims = [value.type.tensor_type.shape.dim for value in inputs_of(model)]
    fixed = {dim[0].dim_value for dim in dims if dim and dim[0].dim_value > 0}
    return max(fixed, default=None)


# --- the two stages -------------------------------------------------------------------------------


def _same_opsets(
    first: onnx.ModelProto, second: onnx.ModelProto
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return both stages with the same versions of all operator sets."""
    from onnx import helper

    ours, theirs = _versions(first), _versions(second)
    newest = max(ours.pop("", LEAST_OPSET), theirs.pop("", LEAST_OPSET))
    for domain in ours.keys() & theirs.keys():
        if ours[domain] != theirs[domain]:
            raise PassError(
                f"the two stages use versions {ours[domain]} and {theirs[domain]} of {domain}; "
                "export both models with the same tools"
            )
    both = {"": newest, **ours, **theirs}
    made = [_raised(model, newest) for model in (first, second)]
    for model in made:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(*entry) for entry in both.items())
    return made[0], made[1]


def _versions(model: onnx.ModelProto) -> dict[str, int]:
    names = {"ai.onnx": ""}
    return {names.get(x.domain, x.domain): x.version for x in model.opset_import}


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy of a model at `opset`."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    known = _versions(model).get("", opset)
    if known == opset:
        return made
    try:
        return onnx.version_converter.convert_version(made, opset)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise PassError(
            f"a stage of opset {known} cannot be raised to {opset} ({one_line(error)}); "
            "export both models with the same opset"
        ) from error


def _check_outputs(first: onnx.ModelProto, second: onnx.ModelProto) -> None:
    ours, theirs = ([_element(x) for x in model.graph.output] for model in (first, second))
    if ours != theirs:
        raise PassError(
            f"the first stage has {len(ours)} outputs, the second {len(theirs)}, or not of the "
            "same types; a cascade needs two models with the same outputs"
        )


def _renamed(graph: onnx.GraphProto, prefix: str, kept: Mapping[str, str]) -> onnx.GraphProto:
    """Return a copy of a graph in which all names but those in `kept` begin with `prefix`.

    What is known about shapes inside is left out: the two stages may call different sizes the same.
    """
    import onnx

    made = onnx.GraphProto()
    made.CopyFrom(graph)

    def new(name: str) -> str:
        return kept.get(name, prefix + name) if name else name

    for part in graphs(made):
        del part.value_info[:]
        del part.quantization_annotation[:]
        for value in (*part.input, *part.output, *part.initializer):
            value.name = new(value.name)
        for sparse in part.sparse_initializer:
            sparse.values.name = new(sparse.values.name)
        for node in part.node:
            node.name = prefix + node.name if node.name else ""
            for names in (node.input, node.output):
                names[:] = [new(name) for name in names]
    return made


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for attribute in (a for node in graph.node for a in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from graphs(inner)


def _common_batch(first: onnx.ModelProto, second: onnx.ModelProto) -> int | None:
    ours, theirs = batch_of(first), batch_of(second)
    if None not in (ours, theirs) and ours != theirs:
        raise PassError(
            f"the first stage is fixed to batches of {ours} and the second to {theirs}; export the "
            "original with a free batch axis"
        )
    return theirs if ours is None else ours


def _with_batch(value: onnx.ValueInfoProto, batch: int | None) -> onnx.ValueInfoProto:
    """Return a copy of an input or output that says how many items there are."""
    import onnx

    made = onnx.ValueInfoProto()
    made.CopyFrom(value)
    for dim in made.type.tensor_type.shape.dim[:1]:
        if batch is None:
            dim.dim_param = "items"
        else:
            dim.dim_value = batch
    return made


def _element(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    if model.ByteSize() > LARGEST_BYTES:
        raise PassError(
            f"the two stages have {model.ByteSize() / 1e9:.1f} GB together, and an ONNX file holds "
            "2.1; leave cascades out for this model"
        )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise PassError(f"the cascade is not valid ONNX: {one_line(error)}") from error
    return model


# --- the branches ---------------------------------------------------------------------------------


def _deferred(
    graph: onnx.GraphProto,
    fed: Mapping[str, str],
    first: onnx.GraphProto,
    *,
    alone: bool,
    rows: bool,
) -> onnx.GraphProto:
    """Return the branch in which the second stage answers the deferred items.

    Args:
        graph: the second stage.
        fed: its inputs -> values outside.
        first: the first stage, whose other answers are kept.
        alone: whether the batch is one item, which then is the deferred one.
        rows: whether the second stage gets the deferred items only.
    """
    from onnx import helper

    before, after = Nodes(f"{GATE}deferred_"), Nodes(f"{GATE}merged_")
    inside = _renamed(graph, SECOND, {} if rows and not alone else fed)
    answers = [value.name for value in inside.output]
    if not alone:
        places = before.add("NonZero", f"{GATE}deferred")
        flat = before.add("Squeeze", places, before.constant(np.array([0])))
        if rows:
            before.nodes += [
                helper.make_node("Gather", [value, flat], [SECOND + name], SECOND + name, axis=0)
                for name, value in fed.items()
            ]
        else:
            answers = [after.add("Gather", answer, flat, axis=0) for answer in answers]
        index = after.add("Transpose", places)
        pairs = zip(first.output, answers, strict=True)
        answers = [after.add("ScatterND", kept.name, index, new) for kept, new in pairs]
    return _branch(
        "deferred",
        [*before.nodes, *inside.node, *after.nodes],
        answers,
        first,
        weights=[*inside.initializer, *before.constants],
        sparse=list(inside.sparse_initializer),
    )


def _kept(first: onnx.GraphProto) -> onnx.GraphProto:
    """Return the branch in which the first stage's answers stand."""
    return _branch("kept", [], [value.name for value in first.output], first)


def _branch(
    name: str,
    nodes: Sequence[onnx.NodeProto],
    answers: Sequence[str],
    first: onnx.GraphProto,
    *,
    weights: Sequence[onnx.TensorProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
) -> onnx.GraphProto:
    """Return a branch of the If that gives `answers`; a branch may not give what lies outside."""
    from onnx import helper

    ends = Nodes(f"{GATE}{name}_output_")
    outputs = [
        helper.make_tensor_value_info(ends.add("Identity", answer), _element(value), None)
        for answer, value in zip(answers, first.output, strict=True)
    ]
    return helper.make_graph(
        [*nodes, *ends.nodes], name, [], outputs, initializer=list(weights),
        sparse_initializer=list(sparse),
    )  # fmt: skip


# --- the gate -------------------------------------------------------------------------------------


def _gate_nodes(
    gate: Gate, scores: str, element: int
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return nodes that compute gate/deferred, bool [n], and gate/any; and their constants.

    `Gate.deferred` is the same rule in numpy.
    """
    from onnx import TensorProto

    steps = Nodes(GATE)
    floats = scores
    if element != TensorProto.FLOAT:
        floats = steps.add("Cast", scores, to=TensorProto.FLOAT)
    confidence = _CONFIDENCES[gate.signal](steps, floats, gate)
    sure = steps.add("GreaterOrEqual", confidence, steps.constant(np.float32(gate.threshold)))
    flat = steps.add("Squeeze", sure, steps.constant(np.array([1])))
    deferred = steps.add("Not", flat, output="deferred")  # not "is below": a NaN is deferred too
    number = steps.add("Cast", deferred, to=TensorProto.INT32)
    largest = steps.add("ReduceMax", number, keepdims=0)
    steps.add("Cast", largest, to=TensorProto.BOOL, output="any")
    return steps.nodes, steps.constants


class Nodes:
    """Nodes in order, each named by its place, and their constants."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(
        self, kind: str, *inputs: str, output: str = "", outputs: int = 1, **attributes: Attribute
    ) -> str:
        """Append a node and return the first of its outputs."""
        from onnx import helper

        name = self.prefix + (output or f"{len(self.nodes)}_{kind}")
        names = [name, *(f"{name}_{place}" for place in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name, **attributes))
        return name

    def constant(self, value: np.ndarray[Any, Any] | np.float32) -> str:
        """Append a constant and return its name."""
        from onnx import numpy_helper

        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def _probabilities(steps: Nodes, scores: str, gate: Gate) -> str:
    if not gate.probabilities:
        return steps.add("Softmax", scores, axis=-1)
    total = steps.add("ReduceSum", scores, steps.constant(np.array([1])), keepdims=1)
    return steps.add("Div", scores, total)


def _margin(steps: Nodes, scores: str, gate: Gate) -> str:
    if gate.probabilities:
        logs = steps.add("Log", _probabilities(steps, scores, gate))
    else:
        logs = steps.add("LogSoftmax", scores, axis=-1)  # keeps differences; a NaN fills its row
    best = steps.add(
        "Split", _largest(steps, logs, 2), steps.constant(np.array([1, 1])), axis=-1, outputs=2
    )
    return steps.add("Sub", best, f"{best}_1")


def _max_probability(steps: Nodes, scores: str, gate: Gate) -> str:
    return _largest(steps, _probabilities(steps, scores, gate), 1)


def _entropy(steps: Nodes, scores: str, gate: Gate) -> str:
    share = _probabilities(steps, scores, gate)
    logs = steps.add("Log", steps.add("Max", share, steps.constant(np.float32(TINY))))
    axes = steps.constant(np.array([1]))
    negative = steps.add("ReduceSum", steps.add("Mul", share, logs), axes, keepdims=1)
    return steps.add("Exp", negative)


def _largest(steps: Nodes, values: str, count: int) -> str:
    """Return the `count` largest of each row, the largest first."""
    return steps.add("TopK", values, steps.constant(np.array([count])), outputs=2)


_CONFIDENCES = {"margin": _margin, "max_probability": _max_probability, "entropy": _entropy}
