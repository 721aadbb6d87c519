"""Cutting padding off within a graph, against ONNX's reference implementation and brute force."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from joulewise.compress.distill import Distill
from joulewise.compress.material import Material
from joulewise.compress.trim_padding import TrimPadding, longest, trimmed
from joulewise.core.errors import PassError
from joulewise.learn.graph import flexible
from joulewise.testing import models
from joulewise.workload.store import Store, write_store

Array = np.ndarray[Any, np.dtype[Any]]

LENGTH, WORDS = models.LENGTH, models.WORDS
MASKS = arrays.arrays(
    np.int64, st.tuples(st.integers(1, 4), st.just(LENGTH)), elements=st.sampled_from([0, 1])
)


def brute_longest(mask: Array) -> int:
    rows = [[place for place, value in enumerate(row, start=1) if value] for row in mask.tolist()]
    return max(map(max, rows)) if all(rows) else LENGTH


@given(MASKS)
def test_longest_is_the_last_place_of_a_token(mask: Array) -> None:
    assert longest(mask) == brute_longest(mask)


@pytest.fixture(scope="module")
def pooling(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReferenceEvaluator, ...]:
    """Give the model as it is; and cut, with its length and its tokens as further outputs."""
    model = onnx.load(models.masked_pooling(tmp_path_factory.mktemp("in") / "model.onnx"))
    return ReferenceEvaluator(model), spied(trimmed(flexible(model), "attention_mask"), "tokens")


def spied(model: onnx.ModelProto, *names: str) -> ReferenceEvaluator:
    """Return a runner of a cut model whose outputs are followed by its length and other values."""
    for name in ("trim/length", *names):
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    return ReferenceEvaluator(model)


@settings(deadline=None, max_examples=60)
@given(MASKS, st.integers(0, 2**16))
def test_any_mask_gives_the_same_answers_from_what_is_left(
    pooling: tuple[ReferenceEvaluator, ...], mask: Array, seed: int
) -> None:
    """Padding may lie left, right, between tokens, or be all of an item."""
    ids = np.random.default_rng(seed).integers(WORDS, size=mask.shape)
    items = {"ids": ids, "attention_mask": mask}
    whole, cut = pooling
    scores, length, tokens = cut.run(None, items)
    np.testing.assert_allclose(scores, whole.run(None, items)[0], rtol=1e-4, atol=1e-5)
    assert length.tolist() == [brute_longest(mask)]
    assert tokens.shape[:2] == (len(mask), brute_longest(mask))


def items_like(dtype: str = "int64", count: int = 24) -> dict[str, Array]:
    made = models.masked_items(count)
    return {"ids": made["ids"], "attention_mask": made["attention_mask"].astype(dtype)}


def store(folder: Path, items: Mapping[str, Array]) -> Store:
    dtypes = {name: str(value.dtype) for name, value in items.items()}
    return write_store(folder, items, dtypes, None, np.arange(len(items["ids"])))


def written(
    path: Path,
    nodes: Sequence[NodeProto],
    weights: Mapping[str, Array],
    *,
    length: int | str = LENGTH,
    mask: int = TensorProto.INT64,
    answer: Sequence[int | str] = ("n", "width"),
) -> Path:
    """Write a graph from ids and attention_mask to scores."""
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", length]),
        helper.make_tensor_value_info("attention_mask", mask, ["n", length]),
    ]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, answer)
    initialisers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "test", inputs, [output], initializer=initialisers)
    opsets = [helper.make_opsetid("", models.OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=models.IR_VERSION), path)
    return path


def attention(
    width: int, *, masked: bool = True, pooled: bool = True
) -> tuple[list[NodeProto], dict[str, Array]]:
    """Return causal attention of one head whose length is in places, masks and shapes."""
    random = np.random.default_rng(0)
    causal = np.where(np.tri(LENGTH), 0, -1e9).astype(np.float32)
    weights = {
        "table": random.normal(0, 1, (WORDS, width)),
        "places": random.normal(0, 0.3, (1, LENGTH, width)),
        "key": random.normal(0, 0.3, (width, width)),
        "bias": random.normal(0, 1, width),
        "gain": random.uniform(0.5, 2, (1, 1, width)),
        "none": np.array(0.0),
        "least": np.array(-1e9),
        "one": np.array(1.0),
    }
    floats = {name: value.astype(np.float32) for name, value in weights.items()}
    whole = {
        "row": [1],
        "column": [2],
        "shape": [-1, LENGTH, 1, width],
        "back": [-1, LENGTH, width],
    }
    integers = {name: np.array(value, np.int64) for name, value in whole.items()}
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["words"]),
        node("Add", ["words", "places"], ["tokens"]),
        node("MatMul", ["tokens", "key"], ["product"]),
        node("Add", ["product", "bias"], ["keys"]),
        node("Reshape", ["keys", "shape"], ["heads"]),
        node("Reshape", ["heads", "back"], ["headless"]),
        node("Transpose", ["headless"], ["turned"], perm=[0, 2, 1]),
        node("MatMul", ["tokens", "turned"], ["raw"]),
        node("Add", ["raw", "causal"], ["ordered"]),
        node("Cast", ["attention_mask"], ["present"], to=TensorProto.FLOAT),
        node("Sub", ["one", "present"], ["absent"]),
        node("Mul", ["absent", "least"], ["far"]),
        node("Unsqueeze", ["far", "row"], ["hidden"]),
        node("Add", ["ordered", "hidden" if masked else "none"], ["logits"]),
        node("Softmax", ["logits"], ["shares"], axis=-1),
        node("MatMul", ["shares", "tokens"], ["mixed"]),
        node("Mul", ["mixed", "gain"], ["scaled"]),
        node("Unsqueeze", ["present", "column"], ["counted"]),
        node("Mul", ["scaled", "counted"] if masked else ["scaled", "one"], ["kept"]),
        node("ReduceSum", ["kept", "row"], ["sum"], keepdims=0),
        node("Identity", ["sum" if pooled else "kept"], ["scores"]),
    ]
    return nodes, {**floats, **integers, "causal": causal}


def applied(model: Path, items: Mapping[str, Array], folder: Path) -> Path:
    folder.mkdir()
    material = Material(calibrate=store(folder.with_name("items"), items))
    (name,) = TrimPadding().apply(model, material, folder)
    return folder / name


@pytest.mark.parametrize("width", [8, LENGTH], ids=["narrow", "as wide as long"])
@pytest.mark.parametrize("kind", ["int64", "float32", "bool"])
def test_attention_of_a_fixed_length(tmp_path: Path, width: int, kind: str) -> None:
    """Constants are cut along the length, not along channels that happen to be as many."""
    types = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "bool": TensorProto.BOOL}
    model = written(tmp_path / "model.onnx", *attention(width), mask=types[kind])
    made = onnx.load(applied(model, items_like(kind), tmp_path / "out"))
    batch = {name: value[:3] for name, value in items_like(kind).items()}
    scores, length, logits, gain = spied(made, "logits", "scaled").run(None, batch)
    (wanted,) = models.reference_outputs(model, batch)
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)
    kept = brute_longest(batch["attention_mask"])
    assert kept < LENGTH
    assert length.tolist() == [kept]
    assert logits.shape == (3, kept, kept)
    assert gain.shape == (3, kept, width)


def test_a_free_length_needs_no_constant_cut(tmp_path: Path) -> None:
    nodes, weights = attention(8)
    free = [
        node for node in nodes if node.output[0] not in ("tokens", "ordered", "heads", "headless")
    ]
    for node in free:
        swaps = {"tokens": "words", "headless": "keys", "ordered": "raw"}
        node.input[:] = [swaps.get(name, name) for name in node.input]
    model = written(tmp_path / "model.onnx", free, weights, length="length")
    made = applied(model, items_like(), tmp_path / "out")
    shorter = {name: value[:5, :7] for name, value in items_like().items()}
    shorter["attention_mask"][:, 0] = 1
    (found,), (wanted,) = (models.reference_outputs(path, shorter) for path in (made, model))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_an_answer_for_every_token_is_refused(tmp_path: Path) -> None:
    nodes, weights = attention(8, pooled=False)
    model = written(tmp_path / "model.onnx", nodes, weights, answer=("n", LENGTH, 8))
    with pytest.raises(PassError, match="'scores' has a value for every token"):
        applied(model, items_like(), tmp_path / "out")


def test_a_model_that_looks_at_padding_is_refused(tmp_path: Path) -> None:
    model = written(tmp_path / "model.onnx", *attention(8, masked=False))
    with pytest.raises(PassError, match="answers differently"):
        applied(model, items_like(), tmp_path / "out")


def test_a_shape_that_is_computed_from_the_whole_length_is_refused(tmp_path: Path) -> None:
    nodes, weights = attention(8)
    weights["row of all"] = np.ones((1, LENGTH, 1), np.float32)
    weights["copies"] = np.array([1, LENGTH, 8], np.int64)
    for node in nodes:
        node.input[:] = ["spread" if name == "gain" else name for name in node.input]
    spread = helper.make_node("Expand", ["row of all", "copies"], ["spread"])
    model = written(tmp_path / "model.onnx", [spread, *nodes], weights)
    with pytest.raises(PassError, match="holds only at its whole length"):
        applied(model, items_like(), tmp_path / "out")


def test_operators_without_a_gradient_do_no_harm(tmp_path: Path) -> None:
    """Nothing is trained here."""
    nodes, weights = attention(8)
    nodes[-1].output[0] = "found"
    nodes.append(helper.make_node("Softsign", ["found"], ["scores"]))
    model = written(tmp_path / "model.onnx", nodes, weights)
    made = applied(model, items_like(), tmp_path / "out")
    (found,), (wanted,) = (models.reference_outputs(path, items_like()) for path in (made, model))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_graph_that_earlier_steps_have_changed(tmp_path: Path) -> None:
    """They leave sizes of Reshape nodes that hold for other lengths too."""
    model = onnx.load(written(tmp_path / "model.onnx", *attention(8)))
    onnx.save(flexible(model), tmp_path / "earlier.onnx")
    made = applied(tmp_path / "earlier.onnx", items_like(), tmp_path / "out")
    names = [tensor.name for tensor in onnx.load(made).graph.initializer]
    assert len(names) == len(set(names))


def test_a_trimmed_graph_can_learn(tmp_path: Path) -> None:
    """So padding costs nothing in training either, and the graph that comes out is still cut."""
    model = written(tmp_path / "model.onnx", *attention(8))
    cut, items = applied(model, items_like(), tmp_path / "cut"), items_like(count=64)
    lessons, folder = store(tmp_path / "lessons", items), tmp_path / "taught"
    folder.mkdir()
    (name,) = Distill(epochs=1, batch_items=8, rate=0.1).apply(
        cut, Material(calibrate=lessons, train=lessons, original=model), folder
    )
    made, batch = onnx.load(folder / name), {key: value[:3] for key, value in items.items()}
    scores, length = spied(made).run(None, batch)
    (before,) = models.reference_outputs(model, batch)
    assert length.tolist() == [brute_longest(batch["attention_mask"])]
    assert not np.allclose(scores, before)


def test_a_graph_within_a_node_is_refused(tmp_path: Path) -> None:
    nodes, weights = attention(8)
    nodes[-1].output[0] = "found"
    weights["yes"] = np.array(True)
    output = helper.make_tensor_value_info("same", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Identity", ["found"], ["same"])], "branch", [], [output]
    )
    nodes.append(
        helper.make_node("If", ["yes"], ["scores"], then_branch=branch, else_branch=branch)
    )
    model = written(tmp_path / "model.onnx", nodes, weights)
    with pytest.raises(PassError, match="loops or branches"):
        applied(model, items_like(), tmp_path / "out")


@pytest.mark.parametrize("turned", [False, True], ids=["no padding", "padding on the left"])
def test_nothing_to_cut_is_refused(tmp_path: Path, turned: bool) -> None:
    items = items_like()
    mask = items["attention_mask"]
    items["attention_mask"] = mask[:, ::-1].copy() if turned else np.ones_like(mask)
    with pytest.raises(PassError, match="no calibration item ends in padding"):
        applied(models.masked_pooling(tmp_path / "model.onnx"), items, tmp_path / "out")


def test_the_mask_can_have_another_name(tmp_path: Path) -> None:
    model = models.masked_pooling(tmp_path / "model.onnx")
    with pytest.raises(PassError, match=r"no input 'mask'.*it has 'ids', 'attention_mask'"):
        trimmed(flexible(onnx.load(model)), "mask")
