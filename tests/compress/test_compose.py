from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from joulewise.compress.compose import batch_of, compose, self_contained
from joulewise.compress.gate import SIGNALS, Gate
from joulewise.core.errors import PassError

Array = npt.NDArray[Any]

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
MARGIN = Gate(signal="margin", threshold=1.0, probabilities=False)


def linear(
    seed: int,
    *,
    classes: int = 3,
    batch: int | None = None,
    opset: int = 17,
    ir_version: int = 8,
    softmax: bool = False,
    element: int = FLOAT,
    spread: float = 3.0,
) -> onnx.ModelProto:
    """Return x [n, 4] -> scores [n, classes], label-like second output [n], of random weights."""
    random = np.random.default_rng(seed)
    weights = random.normal(0, spread, (4, classes))
    first = "n" if batch is None else batch
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["raw" if softmax else "scores"], "product"),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    ]
    if softmax:
        nodes.insert(1, helper.make_node("Softmax", ["raw"], ["scores"], axis=-1))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", element, [first, 4])],
        [
            helper.make_tensor_value_info("scores", element, [first, classes]),
            helper.make_tensor_value_info("best", TensorProto.INT64, [first]),
        ],
        [numpy_helper.from_array(weights.astype(np.float32 if element == FLOAT else float), "w")],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version
    )
    if ir_version < 4:  # weights were inputs then
        model.graph.input.append(helper.make_tensor_value_info("w", element, [4, classes]))
    onnx.checker.check_model(model)
    return model


def run(model: onnx.ModelProto, x: Array) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(values) for values in session.run(None, {"x": x})]


def expected(first: onnx.ModelProto, second: onnx.ModelProto, gate: Gate, x: Array) -> list[Array]:
    """Return what the rule gives, from two runs of whole batches."""
    ours, theirs = run(first, x), run(second, x)
    deferred = gate.deferred(ours[0])
    return [
        np.where(deferred.reshape(-1, *[1] * (a.ndim - 1)), b, a)
        for a, b in zip(ours, theirs, strict=True)
    ]


def check(made: Sequence[Array], wanted: Sequence[Array]) -> None:
    for ours, theirs in zip(made, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def joined(
    first: onnx.ModelProto, second: onnx.ModelProto, gate: Gate, *, rows: bool = True
) -> onnx.ModelProto:
    plain = self_contained(first), self_contained(second)
    return compose(*plain, gate, feeds={"x": "x"}, rows=rows)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 9),
    classes=st.integers(2, 5),
    signal=st.sampled_from(SIGNALS),
    softmax=st.booleans(),
    rows=st.booleans(),
    place=st.integers(0, 9),
)
def test_any_cascade_is_the_rule(
    seed: int, items: int, classes: int, signal: str, softmax: bool, rows: bool, place: int
) -> None:
    """Any models, batch and threshold: each item has the answers of its stage, in its place."""
    first = linear(seed, classes=classes, softmax=softmax, spread=0.5)
    second = linear(seed + 1, classes=classes, softmax=softmax)
    x = np.random.default_rng(seed).normal(size=(items, 4)).astype(np.float32)
    gate = Gate(signal=signal, threshold=0.0, probabilities=softmax)
    levels = [-1.0, *np.sort(gate.confidence(run(first, x)[0])), 1e9]
    low, high = levels[min(place, items)], levels[min(place, items) + 1]
    if high - low < 1e-4:  # rounding may decide
        return
    gate = replace(gate, threshold=max(0.0, (low + high) / 2))
    check(run(joined(first, second, gate, rows=rows), x), expected(first, second, gate, x))


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("batch", [None, 1, 7])
def test_the_ends_of_the_threshold_are_the_two_stages(batch: int | None, rows: bool) -> None:
    first, second = linear(1, batch=batch), linear(2)
    x = np.random.default_rng(3).normal(size=(batch or 5, 4)).astype(np.float32)
    for threshold, stage in ((0.0, first), (1e30, second)):
        made = joined(first, second, replace(MARGIN, threshold=threshold), rows=rows)
        assert batch_of(made) == batch
        for ours, theirs in zip(run(made, x), run(linear(2) if stage is second else stage, x),
                                strict=True):  # fmt: skip
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("softmax", [True, False])
def test_items_whose_scores_are_not_numbers_go_on(signal: str, softmax: bool) -> None:
    """The second stage ignores the damaged input, so its answers are numbers."""
    first, second = linear(1, softmax=softmax), linear(2, softmax=softmax)
    clean = helper.make_node("Where", ["nan", "zero", "x"], ["clean"])
    second.graph.node.insert(0, clean)
    second.graph.node.insert(0, helper.make_node("IsNaN", ["x"], ["nan"]))
    second.graph.node[2].input[0] = "clean"
    second.graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    x[[1, 4], 2] = np.nan
    gate = Gate(signal=signal, threshold=0.0, probabilities=softmax)
    found = run(joined(first, second, gate), x)
    check([values[[1, 4]] for values in found], [y[[1, 4]] for y in run(second, x)])
    check([values[[0, 2, 3, 5]] for values in found], [y[[0, 2, 3, 5]] for y in run(first, x)])


def test_stages_of_other_versions_and_types_are_reconciled() -> None:
    x = np.random.default_rng(5).normal(size=(20, 4)).astype(np.float32)
    old, new = linear(1, opset=13, ir_version=7), linear(2, opset=18, ir_version=10)
    for first, second in ((old, new), (new, old)):
        made = joined(first, second, MARGIN)
        assert made.ir_version == 10
        assert made.opset_import[0].version == 18
        check(run(made, x), expected(first, second, MARGIN, x))


def test_an_old_stage_with_weights_among_its_inputs() -> None:
    old, new = linear(1, opset=9, ir_version=3), linear(2)
    x = np.random.default_rng(5).normal(size=(20, 4)).astype(np.float32)
    made = joined(old, new, MARGIN)
    assert [value.name for value in made.graph.input] == ["x"]
    check(run(made, x), expected(linear(1), new, MARGIN, x))


def test_doubles() -> None:
    first, second = linear(1, element=DOUBLE), linear(2, element=DOUBLE)
    x = np.random.default_rng(5).normal(size=(20, 4))
    check(run(joined(first, second, MARGIN), x), expected(first, second, MARGIN, x))


def test_functions_and_other_operator_sets_are_kept() -> None:
    first, second = linear(1), linear(2)
    own = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for model, factor in ((first, 0.5), (second, 2.0)):
        scale = helper.make_node("Constant", [], ["k"], value_float=factor)
        times = helper.make_node("Mul", ["a", "k"], ["b"])
        model.functions.append(
            helper.make_function("own", "Scaled", ["a"], ["b"], [scale, times], own[:1])
        )
        model.opset_import.append(own[1])
        model.graph.node[0].output[0] = "product"
        model.graph.node.insert(
            1, helper.make_node("Scaled", ["product"], ["scores"], domain="own")
        )
    x = np.random.default_rng(5).normal(size=(20, 4)).astype(np.float32)
    made = joined(first, second, MARGIN)
    assert not made.functions
    check(run(made, x), expected(first, second, MARGIN, x))


def test_a_cascade_can_be_the_second_stage_of_another() -> None:
    one, two, three = (linear(seed, spread=0.4 * seed) for seed in (1, 2, 3))
    x = np.random.default_rng(5).normal(size=(40, 4)).astype(np.float32)
    inner = joined(two, three, MARGIN)
    early = replace(MARGIN, threshold=0.5)
    made = joined(one, inner, early)
    wanted = expected(one, inner, early, x)
    check(run(made, x), wanted)
    used = [
        np.isclose(wanted[0], run(model, x)[0]).all(axis=1).any() for model in (one, two, three)
    ]
    assert all(used)


def test_weights_of_the_second_stage_lie_where_they_are_optimised() -> None:
    made = joined(linear(1), linear(2), MARGIN)
    branches = {a.name: a.g for a in made.graph.node[-1].attribute}
    assert "second/w" in {tensor.name for tensor in branches["then_branch"].initializer}
    assert "second/w" not in {tensor.name for tensor in made.graph.initializer}


def test_openvino_gives_the_same(tmp_path: Any) -> None:
    openvino = pytest.importorskip("openvino")
    first, second = linear(1), linear(2)
    onnx.save(joined(first, second, MARGIN), tmp_path / "model.onnx")
    for items in (1, 7):
        core = openvino.Core()
        model = core.read_model(tmp_path / "model.onnx")
        model.reshape([items, 4])
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for seed in range(4):
            x = np.random.default_rng(seed).normal(size=(items, 4)).astype(np.float32)
            x[seed % items, 0] = np.nan if seed == 3 else x[seed % items, 0]
            found = list(compiled(x).values())
            check(found[:1], expected(first, second, MARGIN, x)[:1])


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (linear(1, batch=2), linear(2, batch=3), "free batch"),
        (linear(1, element=DOUBLE), linear(2), "same types"),
    ],
)
def test_stages_that_do_not_fit_are_one_line(
    first: onnx.ModelProto, second: onnx.ModelProto, words: str
) -> None:
    with pytest.raises(PassError, match=words) as caught:
        joined(first, second, MARGIN)
    assert "\n" not in str(caught.value)


def test_other_versions_of_other_operator_sets_are_refused() -> None:
    first, second = linear(1), linear(2)
    first.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    second.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    with pytest.raises(PassError, match=r"versions 2 and 3 of ai\.onnx\.ml"):
        joined(first, second, MARGIN)


def test_arguments_are_not_changed() -> None:
    first, second = linear(1), linear(2, opset=18)
    before = first.SerializeToString(), second.SerializeToString()
    joined(first, second, MARGIN)
    assert (first.SerializeToString(), second.SerializeToString()) == before
