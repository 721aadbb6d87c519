from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from joulewise.core.errors import PassError
from joulewise.demo import DATA, MODEL
from joulewise.learn.graph import attributes_of
from joulewise.learn.network import Network, check_same, open_network, save_network
from joulewise.learn.operators import OPERATORS
from joulewise.learn.session import open_session

Array = np.ndarray[Any, np.dtype[Any]]
RANDOM = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


def number(value: float) -> Array:
    return np.array(value, dtype=np.float32)


def ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


X = floats(2, 4, 6, 6)
ROW = floats(2, 6)

ROW_OPERATORS = [
    "Abs", "ArgMax", "ArgMin", "Ceil", "Cos", "Elu", "Erf", "Exp", "Flatten", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "IsNaN", "LeakyRelu", "LogSoftmax", "Mish", "Neg",
    "Reciprocal", "Relu", "Round", "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Size", "Softmax",
    "Softplus", "Tanh", "Transpose",
]  # fmt: skip
REDUCTIONS = [
    "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum",
    "ReduceSumSquare",
]  # fmt: skip

Case = tuple[str, list[Array | None], dict[str, Any]]


def each(kinds: list[str], *values: Array, **attributes: int) -> list[Case]:
    """Return a case of every kind on the same values."""
    return [(kind, list(values), attributes) for kind in kinds]


CASES: list[Case] = [
    *each(ROW_OPERATORS, ROW),
    *each(["Log", "Sqrt"], np.abs(ROW) + 1),
    *each(["Add", "Sub", "Mul", "Div", "Greater", "Less"], ROW, floats(6)),
    *each(["Equal", "GreaterOrEqual", "LessOrEqual"], ROW, ROW),
    *each(["Max", "Min", "Mean", "Sum"], ROW, floats(1, 6), floats(6)),
    *each(["And", "Or"], ROW > 0, ROW > 1),
    ("Not", [ROW > 0], {}),
    ("Div", [ints(7, -7), ints(2, 2)], {}),
    ("Mod", [ints(7, -7), ints(3, 3)], {}),
    ("Mod", [ROW, floats(6)], {"fmod": 1}),
    ("Pow", [np.abs(ROW), np.array(2, dtype=np.float32)], {}),
    ("Pow", [ROW, np.array(2, dtype=np.int64)], {}),
    ("Gelu", [ROW], {"approximate": "tanh"}),
    ("PRelu", [X, floats(4, 1, 1)], {}),
    ("Clip", [ROW, number(-0.5), number(0.5)], {}),
    ("Clip", [ROW, None, number(0.5)], {}),
    *each(REDUCTIONS, X, ints(1, 3), keepdims=0),
    *each(REDUCTIONS, X, ints(1, 3), keepdims=1),
    ("ReduceMean", [X], {}),
    ("ReduceSum", [X], {"noop_with_empty_axes": 1}),
    ("ArgMax", [X], {"axis": -1, "keepdims": 0}),
    ("MatMul", [floats(2, 3, 4), floats(2, 4, 5)], {}),
    ("Gemm", [ROW, floats(6, 3), floats(3)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", [floats(6, 2), floats(3, 6)], {"transA": 1, "transB": 1}),
    ("Reshape", [X, ints(0, -1, 12)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Squeeze", [floats(2, 1, 3, 1), ints(1, -1)], {}),
    ("Unsqueeze", [ROW, ints(0, 3)], {}),
    ("Transpose", [X], {"perm": [0, 2, 3, 1]}),
    ("Concat", [ROW, floats(2, 3)], {"axis": 1}),
    ("Slice", [X, ints(1, -3), ints(9, 100), ints(1, 3), ints(1, 2)], {}),
    ("Slice", [X, ints(-1), ints(-(2**62)), ints(2), ints(-1)], {}),
    ("Gather", [X, ints(0, -1, 2)], {"axis": 1}),
    ("Gather", [X, np.array([[1, 0]], dtype=np.int64)], {"axis": 3}),
    ("GatherElements", [ROW, np.array([[0, -1], [2, 3]], dtype=np.int64)], {"axis": 1}),
    ("GatherND", [X, np.array([[0, 1], [1, 3]], dtype=np.int64)], {}),
    ("Expand", [floats(2, 1, 3), ints(1, 4, 1)], {}),
    ("Shape", [X], {"start": 1, "end": -1}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(floats(1))}),
    ("Cast", [ROW], {"to": TensorProto.INT32}),
    ("Pad", [X, ints(0, 1, 2, 0, 0, 0, 1, 3), number(2)], {}),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", [X, ints(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "edge"}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("GlobalAveragePool", [X], {}),
    ("GlobalMaxPool", [X], {}),
    ("Resize", [X, None, np.array([1, 1, 2, 2], dtype=np.float32)], {"mode": "nearest"}),
    ("Resize", [X, None, None, ints(2, 4, 9, 5)], {"mode": "linear"}),
    (
        "Resize",
        [X, None, None, ints(2, 4, 9, 5)],
        {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
         "nearest_mode": "floor"},
    ),
    ("DepthToSpace", [X], {"blocksize": 2}),
    ("DepthToSpace", [X], {"blocksize": 2, "mode": "CRD"}),
    ("LayerNormalization", [X, floats(6, 6), floats(6, 6)], {"axis": 2}),
    ("InstanceNormalization", [X, floats(4), floats(4)], {}),
    ("GroupNormalization", [X, floats(4), floats(4)], {"num_groups": 2}),
    ("CumSum", [ROW, np.array(1, dtype=np.int64)], {}),
    ("Trilu", [floats(5, 5), np.array(1, dtype=np.int64)], {"upper": 0}),
    ("Range", [np.array(2), np.array(9), np.array(3)], {}),
    ("Where", [ROW > 0, ROW, floats(6)], {}),
    ("Tile", [ROW, ints(2, 3)], {}),
    ("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], {"equation": "bij,bjk->bik"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "values", "attributes"), CASES, ids=[f"{n}-{c[0]}" for n, c in enumerate(CASES)]
)
def test_operators_mean_what_the_reference_says(
    kind: str, values: list[Array | None], attributes: dict[str, Any]
) -> None:
    """Oracle: onnx's own reference implementation."""
    names = ["" if value is None else f"x{place}" for place, value in enumerate(values)]
    node = helper.make_node(kind, names, ["y"], **attributes)
    inputs = [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(np.asarray(value).dtype), np.shape(value)
        )
        for name, value in zip(names, values, strict=True)
        if value is not None
    ]
    output = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    graph = helper.make_graph([node], "one", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    fed = {n: np.asarray(v) for n, v in zip(names, values, strict=True) if v is not None}
    (expected,) = ReferenceEvaluator(model).run(None, fed)
    given = [None if v is None else torch.from_numpy(np.array(v)) for v in values]
    found = OPERATORS[kind](attributes_of(node), *given)
    assert found.dtype == torch.from_numpy(np.array(expected)).dtype
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-5, atol=2e-6)


def test_every_operator_has_a_case() -> None:
    """The few without one give several outputs, need newer references, or are not of ONNX."""
    known = {"Dropout", "FakeQuantize", "LSTM", "RMSNormalization", "Split", "TopK"}
    assert set(OPERATORS) - {kind for kind, _, _ in CASES} == known


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("given", [3, 4, 7])
def test_lstm_is_that_of_onnx_runtime(direction: str, given: int, tmp_path: Path) -> None:
    """With weights alone, with a bias, and with the state before."""
    count = 2 if direction == "bidirectional" else 1
    values: dict[str, Array | None] = {
        "x": floats(5, 2, 3), "w": floats(count, 16, 3), "r": floats(count, 16, 4),
        "b": floats(count, 32), "": None, "h": floats(count, 2, 4), "c": floats(count, 2, 4),
    }  # fmt: skip
    used = list(values)[:given]
    ends = ["y", "last", "cells"]
    node = helper.make_node("LSTM", used, ends, direction=direction, hidden_size=4)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
        for name in used
        if (value := values[name]) is not None
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ends]
    graph = helper.make_graph([node], "one", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "m.onnx")
    fed = {name: values[name] for name in used if name}
    expected = open_session(tmp_path / "m.onnx").run(None, fed)
    tensors = [None if (v := values[n]) is None else torch.from_numpy(v) for n in used]
    for ours, theirs in zip(
        OPERATORS["LSTM"](attributes_of(node), *tensors), expected, strict=True
    ):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=2e-5, atol=2e-6)


def test_an_unusual_lstm_is_refused() -> None:
    x, w, r = (torch.from_numpy(floats(*shape)) for shape in ((5, 2, 3), (1, 16, 3), (1, 16, 4)))
    for odd in ({"direction": b"reverse"}, {"layout": 1}, {"clip": 1.0}):
        with pytest.raises(NotImplementedError, match="usual"):
            OPERATORS["LSTM"](odd, x, w, r)


@pytest.mark.parametrize("parts", [{"num_outputs": 4}, {}])
def test_split_gives_every_part(parts: dict[str, int]) -> None:
    x = torch.arange(14.0).reshape(2, 7)
    sizes = None if parts else torch.tensor([2, 5])
    found = OPERATORS["Split"]({"axis": 1, **parts}, x, sizes)
    assert [part.shape[1] for part in found] == ([2, 2, 2, 1] if parts else [2, 5])
    assert torch.equal(torch.cat(found, dim=1), x)


def test_demo_network_is_the_same_and_learns(tmp_path: Path) -> None:
    """Real network and images: same answers as ONNX Runtime; one step on a batch lowers its loss;
    what is written has the new weights and is what torch computes."""
    with np.load(DATA) as data:
        images, labels = data["x"][:64].astype(np.float32), torch.from_numpy(data["y"][:64])
    batch = {"pixels": images.reshape(64, 1, 28, 28)}
    network = open_network(MODEL)
    check_same(network, MODEL, batch)
    assert sum(weights.numel() for weights in network.parameters()) == 932_858
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        (scores,) = network(torch.from_numpy(batch["pixels"]))
        loss = torch.nn.functional.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    save_network(network, tmp_path / "trained.onnx")
    check_same(network, tmp_path / "trained.onnx", batch)
    with pytest.raises(PassError, match="differs"):
        check_same(network, MODEL, batch)


def shared_and_biased(path: Path) -> Path:
    """Write two products with the same weights, a bias after each, and a table of rows."""
    weights = {
        "table": floats(10, 4), "w": floats(4, 4), "b1": floats(4), "b2": floats(4),
        "place": floats(3, 4),
    }  # fmt: skip
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Add", ["rows", "place"], ["placed"]),
        helper.make_node("MatMul", ["placed", "w"], ["p1"]),
        helper.make_node("Add", ["b1", "p1"], ["s1"]),
        helper.make_node("Tanh", ["s1"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["p2"]),
        helper.make_node("Add", ["p2", "b2"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


def test_shared_weights_stay_one_tensor(tmp_path: Path) -> None:
    path = shared_and_biased(tmp_path / "m.onnx")
    network = open_network(path)
    batch = {"ids": RANDOM.integers(0, 10, (5, 3))}
    check_same(network, path, batch)
    linear = [layer for layer in network.layers.values() if isinstance(layer, torch.nn.Linear)]
    assert len(linear) == 2
    assert linear[0].weight is linear[1].weight
    assert linear[0].bias is not linear[1].bias
    assert len(network.free) == 1  # the places
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(1.5)
    save_network(network, tmp_path / "out.onnx")
    check_same(network, tmp_path / "out.onnx", batch)


@pytest.mark.parametrize(("opset", "padding"), [(11, "SAME_LOWER"), (17, "SAME_UPPER")])
def test_batch_norm_and_uneven_padding(tmp_path: Path, opset: int, padding: str) -> None:
    """Also from an opset whose nodes still have their axes as attributes."""
    weights = {
        "w": floats(8, 1, 3, 3), "scale": floats(8), "bias": floats(8), "mean": floats(8),
        "var": np.abs(floats(8)) + 1,
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], group=4, strides=[2, 2], auto_pad=padding),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "var"], ["n"]),
        helper.make_node("Clip", ["n", "low", "high"], ["clipped"]),
        helper.make_node("ReduceMean", ["clipped"], ["y"], axes=[2, 3], keepdims=0),
    ]
    limits = {"low": number(0), "high": number(6)}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(v, name) for name, v in {**weights, **limits}.items()],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8),
        tmp_path / "m.onnx",
    )
    network = open_network(tmp_path / "m.onnx")
    check_same(network, tmp_path / "m.onnx", {"x": X})
    network.train()
    network(torch.from_numpy(X))
    network.eval()
    save_network(network, tmp_path / "out.onnx")
    check_same(network, tmp_path / "out.onnx", {"x": X})


def test_unknown_operator_is_named() -> None:
    node = helper.make_node("LRN", ["x"], ["y"], size=3)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 4, 4])],
    )  # fmt: skip
    with pytest.raises(PassError, match="no gradient is known here for LRN"):
        Network(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_broken_weights_are_not_written(tmp_path: Path) -> None:
    network = open_network(shared_and_biased(tmp_path / "m.onnx"))
    with torch.no_grad():
        network.free[0].fill_(float("nan"))
    with pytest.raises(PassError, match="not numbers"):
        save_network(network, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()
