from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from joulewise.demo import DATA, MODEL
from joulewise.learn.batch_norm import fold, freeze, insert
from joulewise.learn.network import Network

Array = np.ndarray[Any, np.dtype[Any]]


def build(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Array],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    ends = [
        [helper.make_tensor_value_info(name, dtype, shape) for name, shape in some.items()]
        for some in (inputs, outputs)
    ]
    held = helper.tensor_dtype_to_np_dtype(dtype)
    initializers = [numpy_helper.from_array(v.astype(held), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", *ends, initializers)
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def norm_weights(random: np.random.Generator, name: str, channels: int) -> dict[str, Array]:
    return {
        f"{name}_gamma": random.normal(size=channels),
        f"{name}_beta": random.normal(size=channels),
        f"{name}_mean": random.normal(size=channels),
        f"{name}_var": random.uniform(0.1, 3, channels),
    }


def norm(x: str, name: str, y: str, **attributes: Any) -> onnx.NodeProto:
    inputs = [x, *(f"{name}_{part}" for part in ("gamma", "beta", "mean", "var"))]
    return helper.make_node("BatchNormalization", inputs, [y], **attributes)


def run(model: onnx.ModelProto, **inputs: Array) -> list[Array]:
    """Oracle: onnx's own reference implementation."""
    found = ReferenceEvaluator(model).run(None, inputs)
    return [np.asarray(x) for x in found]


def compute(model: onnx.ModelProto, **inputs: Array) -> Array:
    """Oracle: ONNX Runtime without its own optimisations; returns the first output."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return np.asarray(session.run(None, inputs)[0])


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def distance(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def residual(seed: int, widths: list[int], groups: int, biased: bool) -> onnx.ModelProto:
    """Convolutions with a shortcut around the second, one of them dead in a channel."""
    random = np.random.default_rng(seed)
    first, second = widths
    weights: dict[str, Array] = {
        "w0": random.normal(size=(first, 2, 3, 3)),
        "w1": random.normal(size=(first, first // groups, 3, 3)) / 3,
        "w2": random.normal(size=(second, first, 1, 1)),
        "head": random.normal(size=(second, 3)),
    }
    weights["w1"][0] = 0
    biases = {f"b{n}": random.normal(size=len(weights[f"w{n}"])) for n in range(3)}
    weights |= biases if biased else {}

    def conv(x: str, n: int, y: str, **attributes: Any) -> onnx.NodeProto:
        inputs = [x, f"w{n}", *([f"b{n}"] if biased else [])]
        return helper.make_node("Conv", inputs, [y], **attributes)

    nodes = [
        conv("x", 0, "c0", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        conv("r0", 1, "c1", pads=[1, 1, 1, 1], group=groups),
        helper.make_node("Add", ["c1", "r0"], ["s1"]),
        helper.make_node("Relu", ["s1"], ["r1"]),
        conv("r1", 2, "c2"),
        helper.make_node("GlobalAveragePool", ["c2"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "head"], ["y"]),
    ]
    return build(nodes, weights, {"x": ["n", 2, 6, 6]}, {"y": ["n", 3]})


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1000),
    widths=st.lists(st.sampled_from([4, 8]), min_size=2, max_size=2),
    groups=st.sampled_from([1, 2, 4]),
    biased=st.booleans(),
)
def test_insert_and_fold_leave_the_function(
    seed: int, widths: list[int], groups: int, biased: bool
) -> None:
    model = residual(seed, widths, groups, biased)
    before = model.SerializeToString()
    random = np.random.default_rng(seed)
    batches = [{"x": random.normal(size=(n, 2, 6, 6)).astype(np.float32)} for n in (5, 3)]
    other = {"x": 10 * random.normal(size=(4, 2, 6, 6)).astype(np.float32)}
    (expected,) = run(model, **other)
    normed = insert(model, batches)
    assert model.SerializeToString() == before
    assert kinds(normed).count("BatchNormalization") == 3
    assert distance(run(normed, **other)[0], expected) < 1e-5
    folded, count = fold(normed)
    assert count == 3
    assert kinds(folded) == kinds(model)
    onnx.checker.check_model(folded, full_check=True)
    assert distance(run(folded, **other)[0], expected) < 1e-5


def test_statistics_are_those_of_all_items_together() -> None:
    """Oracle: mean and variance of the convolution's output on one large batch."""
    model = residual(1, [4, 8], 1, biased=True)
    x = np.random.default_rng(2).normal(3, 2, size=(12, 2, 6, 6)).astype(np.float32)
    normed = insert(model, [{"x": x[:2]}, {"x": x[2:9]}, {"x": x[9:]}])
    arrays = {t.name: numpy_helper.to_array(t) for t in normed.graph.initializer}
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, None))
    maps = run(probe, x=x)[1].astype(np.float64)
    np.testing.assert_allclose(arrays["c0/offset"], maps.mean(axis=(0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(arrays["c0/variance"], maps.var(axis=(0, 2, 3)), rtol=1e-5)


def test_training_with_it_normalises() -> None:
    """In training mode the maps have the mean and the deviation that the nodes say."""
    x = np.random.default_rng(2).normal(size=(32, 2, 6, 6)).astype(np.float32)
    network = Network(insert(residual(1, [4, 8], 1, biased=False), [{"x": x}]))
    layer = network.layers["1_BatchNormalization"]
    heard: list[torch.Tensor] = []
    layer.register_forward_hook(lambda _layer, _inputs, y: heard.append(y))
    network.train()
    network(100 * torch.from_numpy(x))
    maps = heard[0].transpose(0, 1).flatten(1)
    assert torch.allclose(maps.mean(dim=1), layer.bias, atol=1e-3)
    assert torch.allclose(maps.std(dim=1, correction=0), layer.weight, rtol=1e-2)
    freeze(network)
    kept = layer.running_mean.clone()
    network(torch.from_numpy(x))
    assert torch.equal(layer.running_mean, kept)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Gemm", "GemmT"])
@pytest.mark.parametrize("biased", [False, True])
def test_fold_into_every_kind(kind: str, biased: bool) -> None:
    random = np.random.default_rng(4)
    shapes = {
        "Conv": (6, 2, 3, 3),
        "ConvTranspose": (4, 3, 2, 2),
        "Gemm": (4, 6),
        "GemmT": (6, 4),
    }
    attributes = {"Conv": {"group": 2}, "ConvTranspose": {"group": 2}, "GemmT": {"transB": 1}}
    weights = {"w": random.normal(size=shapes[kind]), **norm_weights(random, "n", 6)}
    if biased:
        weights["b"] = random.normal(size=6)
    inputs = ["x", "w", *(["b"] if biased else [])]
    name = kind.removesuffix("T") if kind == "GemmT" else kind
    nodes = [
        helper.make_node(name, inputs, ["c"], **attributes.get(kind, {})),
        norm("c", "n", "y", epsilon=0.01),
    ]
    places = [] if name == "Gemm" else [5, 5]
    model = build(nodes, weights, {"x": ["n", 4, *places]}, {"y": ["n", 6, *["s"] * len(places)]})
    folded, count = fold(model)
    x = random.normal(size=(3, 4, *places)).astype(np.float32)
    assert count == 1
    assert kinds(folded) == [name]
    assert {t.name for t in folded.graph.initializer} == {"w", "b" if biased else "w_bias"}
    assert distance(compute(folded, x=x), compute(model, x=x)) < 1e-6


def test_fold_a_chain_and_shared_weights() -> None:
    """Two convolutions with the same weights get weights of their own; two norms go into one."""
    random = np.random.default_rng(5)
    weights = {"w": random.normal(size=(3, 2, 1, 1)), "b": random.normal(size=3)}
    for name in ("p", "q", "r"):
        weights |= norm_weights(random, name, 3)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        norm("c", "p", "m"),
        norm("m", "q", "y"),
        helper.make_node("Conv", ["x", "w", "b"], ["d"]),
        norm("d", "r", "z"),
    ]
    model = build(
        nodes, weights, {"x": ["n", 2, 4, 4]}, {"y": ["n", 3, 4, 4], "z": ["n", 3, 4, 4]},
        TensorProto.DOUBLE,
    )  # fmt: skip
    folded, count = fold(model)
    assert count == 3
    assert kinds(folded) == ["Conv", "Conv"]
    x = random.normal(size=(2, 2, 4, 4))
    for found, expected in zip(run(folded, x=x), run(model, x=x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def unfoldable(case: str) -> onnx.ModelProto:
    random = np.random.default_rng(6)
    weights = {"w": random.normal(size=(3, 2, 1, 1)), **norm_weights(random, "n", 3)}
    outputs = {"y": ["n", 3, 4, 4]}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), norm("c", "n", "y")]
    inputs = {"x": ["n", 2, 4, 4]}
    if case == "read twice":
        nodes.append(helper.make_node("Relu", ["c"], ["z"]))
        outputs["z"] = outputs["y"]
    elif case == "an output":
        outputs["c"] = outputs["y"]
    elif case == "after relu":
        nodes[1:] = [helper.make_node("Relu", ["c"], ["r"]), norm("r", "n", "y")]
    elif case == "computed weights":
        nodes.insert(0, helper.make_node("Identity", ["w"], ["w2"]))
        nodes[1].input[1] = "w2"
    elif case == "training":
        nodes[1] = norm("c", "n", "y", training_mode=1)
        nodes[1].output.extend(["mean2", "var2"])
    return build(nodes, weights, inputs, outputs)


@pytest.mark.parametrize(
    "case", ["read twice", "an output", "after relu", "computed weights", "training"]
)
def test_fold_leaves_what_it_must(case: str) -> None:
    model = unfoldable(case)
    onnx.checker.check_model(model)
    folded, count = fold(model)
    assert count == 0
    assert folded.SerializeToString() == model.SerializeToString()


def test_fold_weights_listed_as_inputs() -> None:
    """As old exporters wrote them: what is gone is no input any more."""
    model = unfoldable("nothing")
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, list(tensor.dims))
        model.graph.input.append(value)
    model.ir_version = 3
    folded, count = fold(model)
    assert count == 1
    onnx.checker.check_model(folded, full_check=True)
    assert [value.name for value in folded.graph.input] == ["x"]


def test_networks_with_their_own_normalisation_are_left() -> None:
    random = np.random.default_rng(7)
    weights = {
        "w": random.normal(size=(3, 2, 1, 1)),
        "s": np.ones(4),
        **norm_weights(random, "n", 3),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("LayerNormalization", ["c", "s"], ["y"]),
    ]
    model = build(nodes, weights, {"x": ["n", 2, 4, 4]}, {"y": ["n", 3, 4, 4]})
    assert kinds(insert(model, [])) == ["Conv", "LayerNormalization"]


def test_norms_are_put_where_there_is_none() -> None:
    """Not after a convolution that has one, nor after one that gives an output."""
    random = np.random.default_rng(8)
    weights = {"v": random.normal(size=(2, 3, 1, 1)), "w": random.normal(size=(3, 2, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        norm("c", "n", "m"),
        helper.make_node("Conv", ["m", "v"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
        helper.make_node("Conv", ["r", "u"], ["y"]),
    ]
    weights |= {"u": random.normal(size=(3, 2, 1, 1)), **norm_weights(random, "n", 3)}
    model = build(nodes, weights, {"x": ["n", 2, 4, 4]}, {"y": ["n", 3, 4, 4]})
    x = random.normal(size=(4, 2, 4, 4)).astype(np.float32)
    normed = insert(model, [{"x": x}])
    assert kinds(normed) == ["Conv", "BatchNormalization"] * 2 + ["Relu", "Conv"]
    assert distance(run(normed, x=x)[0], run(model, x=x)[0]) < 1e-5


def test_demo_network_there_and_back() -> None:
    """Real network and images: the same to float rounding, and the same nodes at the end."""
    with np.load(DATA) as data:
        images = data["x"][:96].astype(np.float32).reshape(-1, 1, 28, 28)
    model = onnx.load(MODEL)
    normed = insert(model, [{"pixels": images[:64]}])
    folded, count = fold(normed)
    assert count == 16
    assert kinds(folded) == kinds(model)
    expected, *found = (compute(made, pixels=images[64:]) for made in (model, normed, folded))
    assert all(distance(scores, expected) < 1e-6 for scores in found)
