from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper

from joulewise.compress.compose import graphs, self_contained
from joulewise.compress.cut import Place, find_place
from joulewise.compress.early_exit import EarlyExit, fit_linear
from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.stages import METADATA_KEY
from joulewise.compress.static_int8 import StaticInt8
from joulewise.core.errors import PassError, UsageError
from joulewise.core.recipe import Step
from joulewise.testing import models
from joulewise.workload.store import Store, write_store

Array = npt.NDArray[Any]

CLASSES = 3


def run(path: Path, inputs: Mapping[str, Array]) -> Array:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(inputs))[0])


def residual(path: Path, *, batch: int | None = None, softmax: bool = False) -> Path:
    """Write conv a, a block of convs b and c with a way around them, conv d, mean, Gemm.

    Multiply-adds of an 8 x 8 image: a 4*1*9*64, b and c 4*4*9*64 each, d 4*4*9*64, Gemm 12.
    """
    random = np.random.default_rng(0)
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["a_out"], **pads),
        helper.make_node("Relu", ["a_out"], ["stem"]),
        helper.make_node("Conv", ["stem", "b"], ["b_out"], **pads),
        helper.make_node("Relu", ["b_out"], ["inside"]),
        helper.make_node("Conv", ["inside", "c"], ["c_out"], **pads),
        helper.make_node("Add", ["c_out", "stem"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["block"]),
        helper.make_node("Conv", ["block", "d"], ["d_out"], **pads),
        helper.make_node("Relu", ["d_out"], ["late"]),
        helper.make_node("GlobalAveragePool", ["late"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head", "offset"], ["raw" if softmax else "scores"]),
    ]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["raw"], ["scores"], axis=-1))
    weights = {name: random.normal(0, 0.4, (4, 4, 3, 3)) for name in "bcd"}
    weights["a"], head = random.normal(0, 0.4, (4, 1, 3, 3)), random.normal(0, 4, (4, CLASSES))
    features = models.save_model(
        path, nodes[:11], weights, {"x": ["n", 1, 8, 8]}, {"flat": ["n", 4]}
    )
    mean = run(features, {"x": images(500, 0)}).mean(axis=0)
    weights |= {"head": head, "offset": -mean @ head}
    first: int | str = "n" if batch is None else batch
    ends: list[dict[str, Sequence[int | str]]] = [
        {"x": [first, 1, 8, 8]},
        {"scores": [first, CLASSES]},
    ]
    return models.save_model(path, nodes, weights, *ends)


def images(count: int, seed: int) -> Array:
    """Return noise of random direction and length, float32 [count, 1, 8, 8]."""
    random = np.random.default_rng(seed)
    slopes = np.einsum("nd,dhw->nhw", random.normal(size=(count, 2)), np.indices((8, 8)) - 3.5)
    noise = random.normal(0, 0.5, (count, 8, 8))
    return np.asarray((0.5 * slopes + noise)[:, None], np.float32)


def items(folder: Path, count: int = 300, *, seed: int = 0) -> Store:
    return write_store(folder, {"x": images(count, seed)}, {"x": "float32"}, None, np.arange(count))


def place(path: Path, after: str | float, store: Store) -> Place:
    return find_place(self_contained(onnx.load(path)), store, after)


def note(path: Path) -> dict[str, Any]:
    (entry,) = [x for x in onnx.load(path).metadata_props if x.key == METADATA_KEY]
    found: dict[str, Any] = json.loads(entry.value)
    return found


# --- the linear layer -----------------------------------------------------------------------------


def test_exact_relation_is_found() -> None:
    random = np.random.default_rng(0)
    x, weights, bias = (
        random.normal(2, 3, (50, 4)),
        random.normal(size=(4, 3)),
        random.normal(size=3),
    )
    found = fit_linear(x, x @ weights + bias)
    np.testing.assert_allclose(found[0], weights, atol=1e-4)
    np.testing.assert_allclose(found[1], bias, atol=1e-3)


@pytest.mark.parametrize("features", [5, 60], ids=["tall", "wide"])
def test_penalty_is_the_one_that_predicts_left_out_items_best(features: int) -> None:
    """Oracle: solve the ridge problem anew without each item, for many penalties."""
    random = np.random.default_rng(1)
    x = random.normal(size=(30, features))
    y = x[:, :3] @ random.normal(size=(3, 2)) + random.normal(0, 1.0, (30, 2))
    weights, bias = fit_linear(x, y)
    z, target = (x - x.mean(0)) / x.std(0), y - y.mean(0)

    def solve(rows: Array, penalty: float) -> Array:
        a = np.column_stack([z[rows], np.ones(len(rows))])
        ridge = np.diag([penalty] * features + [0.0])
        solution: Array = np.linalg.solve(a.T @ a + ridge, a.T @ target[rows])
        return solution

    def left_out(penalty: float) -> float:
        total = 0.0
        for i in range(30):
            solution = solve(np.delete(np.arange(30), i), penalty)
            total += float(np.sum((np.append(z[i], 1.0) @ solution - target[i]) ** 2))
        return total

    unit = float(np.mean(np.linalg.eigvalsh(z.T @ z)))
    tried = [unit * 10.0**power for power in np.arange(-6, 3.01, 0.25)]
    best = solve(np.arange(30), min(tried, key=left_out))
    np.testing.assert_allclose(weights * x.std(0)[:, None], best[:-1], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(x.mean(0) @ weights + bias, y.mean(0), atol=1e-9)


def test_features_that_never_change_do_no_harm() -> None:
    x = np.column_stack([np.linspace(0, 1, 20), np.zeros(20)])
    weights, bias = fit_linear(x, x[:, :1])
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(x @ weights + bias, x[:, :1], atol=1e-4)


# --- the place ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "value", "before"),
    [(0.02, "stem", 1), (0.3, "stem", 1), (0.6, "block", 9), (0.99, "flat", 13)],
)
def test_cut_is_the_nearest_that_nothing_bypasses(
    tmp_path: Path, after: float, value: str, before: int
) -> None:
    """Never inside the block; shares in units of a's 2304 multiply-adds, 12 are the Gemm's."""
    found = place(residual(tmp_path / "m.onnx"), after, items(tmp_path / "i", 4))
    assert found.value == found.carried == value
    assert found.work_ratio == pytest.approx(before * 2304 / (13 * 2304 + 12))


def test_named_place(tmp_path: Path) -> None:
    path, store = residual(tmp_path / "m.onnx"), items(tmp_path / "i", 4)
    assert place(path, "block", store).value == "block"
    for name in ("inside", "x", "scores", "nowhere"):
        with pytest.raises(PassError, match=name) as caught:
            place(path, name, store)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "inputs", "weights", "attributes", "work"),
    [
        ("Conv", (2, 4, 8, 8), (6, 2, 3, 3), {"group": 2}, 2 * 6 * 36 * 2 * 9),
        ("ConvTranspose", (2, 4, 8, 8), (4, 6, 3, 3), {}, 2 * 4 * 64 * 6 * 9),
        ("MatMul", (2, 5, 7), (7, 3), {}, 2 * 5 * 7 * 3),
        ("Gemm", (2, 7), (3, 7), {"transB": 1}, 2 * 7 * 3),
    ],
)
def test_multiply_adds_have_their_closed_form(
    tmp_path: Path,
    kind: str,
    inputs: tuple[int, ...],
    weights: tuple[int, ...],
    attributes: dict[str, int],
    work: int,
) -> None:
    """Counted against a Gemm of known size that follows."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node(kind, ["x", "w"], ["out"], **attributes),
        helper.make_node("Flatten", ["out"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["scores"]),
    ]
    shown = models.save_model(
        tmp_path / "shown.onnx", nodes[:2], {"w": random.normal(size=weights)},
        {"x": ["n", *inputs[1:]]}, {"flat": ["n", "f"]},
    )  # fmt: skip
    x = random.normal(size=inputs).astype(np.float32)
    size = run(shown, {"x": x}).shape[1]
    path = models.save_model(
        tmp_path / "m.onnx", nodes,
        {"w": random.normal(size=weights), "head": random.normal(size=(size, 5))},
        {"x": ["n", *inputs[1:]]}, {"scores": ["n", 5]},
    )  # fmt: skip
    store = write_store(tmp_path / "i", {"x": x}, {"x": "float32"}, None, np.arange(2))
    assert place(path, 0.5, store).work_ratio == pytest.approx(work / (work + 2 * size * 5))


# --- the pass -------------------------------------------------------------------------------------


def apply(path: Path, folder: Path, store: Store, **parameters: Any) -> Path:
    made = folder / "made"
    made.mkdir(exist_ok=True)
    material = Material(calibrate=store)
    assert EarlyExit(**parameters).apply(path, material, made) == ("model.onnx",)
    assert [each.name for each in made.iterdir()] == ["model.onnx"]
    return made / "model.onnx"


@pytest.mark.parametrize(("batch", "softmax"), [(None, False), (1, True), (4, False)])
def test_unsure_items_get_the_whole_models_answer(
    tmp_path: Path, batch: int | None, softmax: bool
) -> None:
    path = residual(tmp_path / "m.onnx", batch=batch, softmax=softmax)
    store = items(tmp_path / "i")
    for size in (1, 7) if batch is None else (batch,):
        x = np.asarray(store.inputs["x"][:size])
        made = apply(path, tmp_path, store, after=0.6, threshold=1e30)
        np.testing.assert_allclose(run(made, {"x": x}), run(path, {"x": x}), rtol=1e-4, atol=1e-5)
        early = run(apply(path, tmp_path, store, after=0.6, threshold=0.0), {"x": x})
        assert np.isfinite(early).all()
        assert not np.allclose(early, run(path, {"x": x}), rtol=1e-3)
        if softmax:
            np.testing.assert_allclose(early.sum(axis=1), 1.0, rtol=1e-5)


def test_early_answers_are_mostly_the_models_and_their_threshold_keeps_the_loss(
    tmp_path: Path,
) -> None:
    path, store = residual(tmp_path / "m.onnx"), items(tmp_path / "i", 800)
    made = apply(path, tmp_path, store, after="stem", loss=0.05, confidence=0.9)
    said, fresh = note(made), items(tmp_path / "fresh", 800, seed=9)
    assert said["after"] == "stem"
    assert said["items"] == 400  # the other half was learnt from
    assert 0 < said["deferred_ratio"] < 0.9
    x = np.asarray(fresh.inputs["x"])
    lost = np.mean(run(made, {"x": x}).argmax(axis=1) != run(path, {"x": x}).argmax(axis=1))
    assert lost < 0.05 + 3 * np.sqrt(0.05 / 800)


def test_what_is_learnt_from_is_not_judged_with(tmp_path: Path) -> None:
    path = residual(tmp_path / "m.onnx")
    stores = {name: items(tmp_path / name, n) for name, n in (("c", 60), ("s", 100), ("t", 140))}
    (tmp_path / "made").mkdir()

    def judged(**given: Store) -> int:
        material = Material(
            calibrate=stores["c"], train=given.get("train"), search=given.get("search")
        )
        EarlyExit(after=0.02).apply(path, material, tmp_path / "made")
        return int(note(tmp_path / "made" / "model.onnx")["items"])

    assert judged() == 30
    assert judged(search=stores["s"]) == 100
    assert judged(train=stores["t"]) == 60
    assert judged(train=stores["t"], search=stores["s"]) == 160  # 60 alone are few


def test_items_in_order_of_their_class_are_learnt_from_evenly(tmp_path: Path) -> None:
    path, x = residual(tmp_path / "m.onnx"), images(300, 0)
    order = np.argsort(run(path, {"x": x}).argmax(axis=1), kind="stable")
    store = write_store(tmp_path / "i", {"x": x}, {"x": "float32"}, None, order)
    early = apply(path, tmp_path, store, after=0.6, threshold=0.0)
    agree = run(early, {"x": x}).argmax(axis=1) == run(path, {"x": x}).argmax(axis=1)
    assert np.mean(agree) > 0.9


def test_int8_models_hand_on_int8(tmp_path: Path) -> None:
    """The exit lies after a dequantized value; what goes on is the quantized one."""
    path, store = residual(tmp_path / "m.onnx"), items(tmp_path / "i")
    (tmp_path / "int8").mkdir()
    StaticInt8().apply(path, Material(calibrate=store), tmp_path / "int8")
    source = tmp_path / "int8" / "model.onnx"
    made = apply(source, tmp_path, store, after=0.6, threshold=1e30)
    nodes = {x: n for g in graphs(onnx.load(made).graph) for n in g.node for x in n.output}
    (gather,) = [node for node in nodes.values() if node.op_type == "Gather"]
    assert nodes[gather.input[0]].op_type == "QuantizeLinear"
    x = np.asarray(store.inputs["x"][:9])
    np.testing.assert_allclose(run(made, {"x": x}), run(source, {"x": x}), rtol=0.05, atol=0.05)


def masked(path: Path) -> Path:
    """Write x [n, t, 6] and mask [n, t]: two layers, each of which looks at the mask; mean."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"]),
        helper.make_node("MatMul", ["x", "w1"], ["p1"]),
        helper.make_node("Mul", ["p1", "wide"], ["m1"]),
        helper.make_node("Relu", ["m1"], ["h1"]),
        helper.make_node("MatMul", ["h1", "w2"], ["p2"]),
        helper.make_node("Mul", ["p2", "wide"], ["h2"]),
        helper.make_node("ReduceMean", ["h2"], ["pooled"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["scores"]),
    ]
    weights = {
        "w1": random.normal(size=(6, 8)),
        "w2": random.normal(size=(8, 8)),
        "head": random.normal(size=(8, CLASSES)),
    }
    ends: list[dict[str, Sequence[int | str]]] = [
        {"x": ["n", "t", 6], "mask": ["n", "t"]},
        {"scores": ["n", CLASSES]},
    ]
    model = models.save_model(path, nodes[1:2], {"w1": weights["w1"]},
                              {"x": ["n", "t", 6]}, {"p1": ["n", "t", 8]})  # fmt: skip
    proto = onnx.load(model)
    graph = helper.make_graph(
        nodes,
        "masked",
        *[
            [helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, v) for k, v in end.items()]
            for end in ends
        ],
        [
            *(onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()),
            onnx.numpy_helper.from_array(np.array([2]), "last"),
        ],
    )
    proto.graph.CopyFrom(graph)
    onnx.checker.check_model(proto)
    onnx.save(proto, path)
    return path


def test_inputs_that_are_needed_later_are_handed_on_too(tmp_path: Path) -> None:
    """A mask goes into every layer; channels last; as many steps as the batch has."""
    random, path = np.random.default_rng(0), masked(tmp_path / "m.onnx")
    arrays = {
        "x": random.normal(size=(60, 5, 6)).astype(np.float32),
        "mask": (random.random((60, 5)) < 0.8).astype(np.float32),
    }
    types = dict.fromkeys(arrays, "float32")
    store = write_store(tmp_path / "i", arrays, types, None, np.arange(60))
    found = place(path, "h1", store)
    assert found.channels_last
    assert not found.fixed
    few = {name: values[:9, :3] for name, values in arrays.items()}
    made = apply(path, tmp_path, store, after="h1", threshold=1e30)
    np.testing.assert_allclose(run(made, few), run(path, few), rtol=1e-4, atol=1e-5)
    assert run(apply(path, tmp_path, store, after="h1", threshold=0.0), few).shape == (9, CLASSES)


@pytest.mark.parametrize("write", [models.two_by_two, models.renaming])
def test_models_with_several_outputs_are_refused(tmp_path: Path, write: Any) -> None:
    path = write(tmp_path / "m.onnx")
    with pytest.raises(PassError, match="2 outputs"):
        apply(path, tmp_path, items(tmp_path / "i", 4))


@pytest.mark.parametrize("after", [0.0, 1.0, 2, True])
def test_shares_that_cannot_be_meant(after: float) -> None:
    with pytest.raises(UsageError, match="share between 0 and 1"):
        check_step(Step(name="early_exit", parameters={"after": after}))
