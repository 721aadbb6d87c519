from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.smooth import Smooth, factors
from joulewise.compress.static_int8 import StaticInt8
from joulewise.core.errors import PassError
from joulewise.core.recipe import Step
from joulewise.testing import models
from joulewise.workload.store import write_store

Array = npt.NDArray[Any]

WIDTH, HIDDEN, ITEMS = 16, 12, 64
OUTLIER, OUTLIER_SIZE = 3, 200.0
ENDS: list[dict[str, Any]] = [{"x": ["n", 5, WIDTH]}, {"y": ["n", 5, HIDDEN]}]

random = np.random.default_rng(0)
FIRST, SECOND = random.normal(size=(WIDTH, HIDDEN)), random.normal(size=(HIDDEN, HIDDEN))
SCALE = random.uniform(0.5, 1.5, WIDTH)
SCALE[OUTLIER] *= OUTLIER_SIZE
OFFSET, BIAS = random.normal(size=WIDTH), random.normal(size=HIDDEN)
NORM = helper.make_node("LayerNormalization", ["x", "scale", "offset"], ["tensor"])


def product(*names: str, kind: str = "MatMul", **attributes: Any) -> onnx.NodeProto:
    *inputs, output = names
    return helper.make_node(kind, inputs, [output], **attributes)


def norm_before(path: Path) -> Path:
    """Write LayerNormalization, MatMul: its channel OUTLIER is far larger than all others."""
    nodes = [NORM, product("tensor", "w", "y")]
    return models.save_model(path, nodes, {"scale": SCALE, "offset": OFFSET, "w": FIRST}, *ENDS)


def parts_of_a_norm(path: Path) -> Path:
    """Write Mul and Add with constants before a product, as older exporters do."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scaled"]),
        helper.make_node("Add", ["offset", "scaled"], ["tensor"]),
        product("tensor", "w", "y"),
    ]
    return models.save_model(path, nodes, {"scale": SCALE, "offset": OFFSET, "w": FIRST}, *ENDS)


def two_layers(path: Path) -> Path:
    """Write MatMul, Add, Relu, MatMul; the first layer's channel 1 is far larger than others."""
    wide = FIRST * np.where(np.arange(HIDDEN) == 1, OUTLIER_SIZE, 1.0)
    nodes = [
        product("x", "w", "product"),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["tensor"]),
        product("tensor", "v", "y"),
    ]
    return models.save_model(path, nodes, {"w": wide, "b": BIAS, "v": SECOND}, *ENDS)


def two_readers(path: Path) -> Path:
    """Write a tensor that two products with the same weights read, and another node."""
    nodes = [
        NORM,
        product("tensor", "w", "left"),
        product("tensor", "w", "right"),
        helper.make_node("ReduceMax", ["tensor"], ["rest"], axes=[-1]),
        helper.make_node("Add", ["left", "right"], ["both"]),
        helper.make_node("Add", ["both", "rest"], ["y"]),
    ]
    weights = {"scale": SCALE, "offset": OFFSET, "w": FIRST}
    return models.save_model(path, nodes, weights, *ENDS)


def after_gelu(path: Path) -> Path:
    """Write a product whose input comes from what cannot be divided by changing weights."""
    nodes = [NORM, helper.make_node("Erf", ["tensor"], ["bent"]), product("bent", "w", "y")]
    return models.save_model(path, nodes, {"scale": SCALE, "offset": OFFSET, "w": FIRST}, *ENDS)


def turned_gemms(path: Path) -> Path:
    """Write Gemm, Relu, Gemm on rows, the weights as [out, in]."""
    ends: list[dict[str, Any]] = [{"x": ["n", WIDTH]}, {"y": ["n", HIDDEN]}]
    wide = FIRST.T * np.where(np.arange(HIDDEN) == 1, OUTLIER_SIZE, 1.0)[:, None]
    nodes = [
        product("x", "w", "b", "sum", kind="Gemm", transB=1),
        helper.make_node("Relu", ["sum"], ["tensor"]),
        product("tensor", "v", "y", kind="Gemm", transB=1),
    ]
    return models.save_model(path, nodes, {"w": wide, "b": BIAS, "v": SECOND.T}, *ends)


DIVIDED: dict[Callable[[Path], Path], set[str]] = {
    norm_before: set(),
    parts_of_a_norm: set(),
    two_layers: {"x"},
    two_readers: {"tensor"},
    after_gelu: {"bent"},
    turned_gemms: {"x"},
}
"""Model -> tensors that are divided in the graph, as no weights before them could be."""


def material(model: Path) -> Material:
    """Return items, as many as fill a batch."""
    shape = [axis.dim_value for axis in onnx.load(model).graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(1).normal(size=(ITEMS, *shape[1:])).astype(np.float32)
    folder = model.parent / "items"
    return Material(calibrate=write_store(folder, {"x": x}, {"x": "float32"}, None, np.arange(64)))


def smoothed(model: Path, given: Material, **parameters: Any) -> Path:
    return applied(Smooth(**parameters), model, given, "smoothed")


def applied(step: Smooth | StaticInt8, model: Path, given: Material, name: str) -> Path:
    folder = model.parent / name
    folder.mkdir()
    assert step.apply(model, given, folder) == ("model.onnx",)
    return folder / "model.onnx"


def answers(model: Path, given: Material, name: str | None = None) -> Array:
    """Return what a graph, or one of its tensors, is on the items; as written, not rearranged."""
    graph = onnx.load(model)
    if name is not None:
        graph.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
    found: Array = session.run(name and [name], given.calibrate.batch(0, ITEMS))[0]
    return found


def error(model: Path, original: Path, given: Material) -> float:
    """Return the relative error of a model's answers."""
    wanted = answers(original, given)
    return float(np.linalg.norm(answers(model, given) - wanted) / np.linalg.norm(wanted))


def weights(path: Path, like: str) -> Array:
    """Return the initializer whose name begins so."""
    found = [x for x in onnx.load(path).graph.initializer if x.name.startswith(like)]
    (tensor,) = found
    value: Array = numpy_helper.to_array(tensor)
    return value


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("make", DIVIDED)
def test_the_function_stays(tmp_path: Path, make: Callable[[Path], Path], alpha: float) -> None:
    model = make(tmp_path / "m.onnx")
    given = material(model)
    made = smoothed(model, given, alpha=alpha)
    assert error(made, model, given) < 1e-5
    divisions = [x for x in onnx.load(made).graph.node if x.input[-1].endswith("_factors")]
    assert [node.input[0] for node in divisions] == sorted(DIVIDED[make])


def test_factors_are_those_of_the_equations(tmp_path: Path) -> None:
    """Equation 4 gives the factors by hand, equation 3 what becomes of both sides."""
    model = norm_before(tmp_path / "m.onnx")
    given = material(model)
    made = smoothed(model, given, alpha=0.7)
    activations = np.abs(answers(model, given, "tensor")).max(axis=(0, 1))
    rows = np.abs(FIRST).max(axis=1)
    by = activations**0.7 / rows**0.3
    np.testing.assert_allclose(weights(made, "w"), by[:, None] * FIRST, rtol=1e-4)
    np.testing.assert_allclose(weights(made, "scale"), SCALE / by, rtol=1e-4)
    np.testing.assert_allclose(weights(made, "offset"), OFFSET / by, rtol=1e-4)
    divided = np.abs(answers(made, given, "tensor")).max(axis=(0, 1))
    np.testing.assert_allclose(divided, activations / by, rtol=1e-4)


@pytest.mark.parametrize(("alpha", "place"), [(0.0, 1), (1.0, 0)])
def test_at_the_ends_one_side_is_level(alpha: float, place: int) -> None:
    activations, rows = np.array([1.0, 50.0, 3.0]), np.array([0.1, 2.0, 5.0])
    by = factors(activations, rows, alpha)
    np.testing.assert_allclose((activations / by, rows * by)[place], 1, rtol=1e-6)


def test_dead_channels_stay_as_they_are() -> None:
    by = factors(np.array([0.0, 4.0, 4.0]), np.array([1.0, 0.0, 4.0]), 0.5)
    np.testing.assert_allclose(by, [1, 1, 1])


@pytest.mark.parametrize("make", [norm_before, two_layers])
def test_a_planted_outlier_does_far_less_harm(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """What int8 loses with it and without it, on a net where one channel is 200 times larger.

    The channel must matter less than its size says, or losing the others would not matter.
    """
    model = make(tmp_path / "m.onnx")
    graph = onnx.load(model)
    for tensor in graph.graph.initializer:
        if (make, tensor.name) in ((norm_before, "w"), (two_layers, "v")):
            value = numpy_helper.to_array(tensor).copy()
            value[OUTLIER if make is norm_before else 1] /= OUTLIER_SIZE
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(graph, model)
    given, step = material(model), StaticInt8(operators="transformer")
    plain = error(applied(step, model, given, "plain"), model, given)
    ready = smoothed(model, given)
    assert error(applied(step, ready, given, "better"), model, given) < plain / 5


def test_a_graph_without_products_is_refused(tmp_path: Path) -> None:
    model = models.pointwise(tmp_path / "m.onnx")
    given = Material(calibrate=models.vector_store(tmp_path / "items", 8))
    with pytest.raises(PassError, match="no matrix product of weights to smooth"):
        smoothed(model, given)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_is_checked(alpha: float) -> None:
    with pytest.raises(PassError, match="alpha must be between 0 and 1"):
        check_step(Step(name="smooth", parameters={"alpha": alpha}))
