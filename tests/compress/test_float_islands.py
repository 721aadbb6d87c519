from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper, numpy_helper

from joulewise.compress.float_islands import Comparison, float_islands, worst_first
from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.static_int8 import StaticInt8
from joulewise.core.errors import PassError
from joulewise.core.recipe import Step
from joulewise.testing import models
from joulewise.workload.store import write_store

Array = npt.NDArray[Any]

WIDTH, LAYERS, FRAGILE = 8, 4, 2


def chain(path: Path) -> Path:
    """Write four products one after the other; one has weights that 8 bits do not hold.

    In each of its output channels one weight is far larger than all others, and the input that it
    meets is always 0 since the layer before does not feed it.
    """
    random = np.random.default_rng(0)
    weights = {f"w{i}": random.normal(size=(WIDTH, WIDTH)) / WIDTH**0.5 for i in range(LAYERS)}
    weights[f"w{FRAGILE}"][0] = 1000.0
    weights[f"w{FRAGILE - 1}"][:, 0] = 0.0
    names = ["x", *(f"h{i}" for i in range(LAYERS - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]], name=f"layer{i}")
        for i in range(LAYERS)
    ]
    return models.save_model(path, nodes, weights, {"x": ["n", WIDTH]}, {"y": ["n", WIDTH]})


def batch() -> dict[str, Array]:
    return {"x": np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32)}


def material(folder: Path) -> Material:
    x = batch()["x"]
    return Material(calibrate=write_store(folder, {"x": x}, {"x": "float32"}, None, np.arange(64)))


def scaled(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """Return a model with its last weights multiplied."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name == f"w{LAYERS - 1}":
            value = (numpy_helper.to_array(tensor) * by).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return made


@pytest.mark.parametrize("by", [1.0, 1.25, 0.5, -1.0])
def test_error_is_the_relative_length_of_the_difference(tmp_path: Path, by: float) -> None:
    model = chain(tmp_path / "m.onnx")
    found = Comparison(model, [batch()]).error(scaled(onnx.load(model), by))
    assert found == pytest.approx(abs(by - 1), rel=1e-5, abs=1e-7)


def test_an_output_that_is_no_number_is_infinitely_far(tmp_path: Path) -> None:
    model = chain(tmp_path / "m.onnx")
    found = Comparison(model, [batch()]).error(scaled(onnx.load(model), float("nan")))
    assert found == float("inf")


class Harm:
    """Quantizers and comparisons whose errors are known: those of the nodes that are quantized.

    Args:
        errors: of each node.
    """

    def __init__(self, errors: dict[str, float]) -> None:
        self.errors = errors

    def quantize(self, only: Sequence[str], left: Sequence[str]) -> onnx.ModelProto:
        """Return a graph that names what is quantized."""
        made = [name for name in only or self.errors if name not in left]
        return onnx.ModelProto(producer_name=" ".join(made))

    def error(self, model: onnx.ModelProto) -> float:
        return sum(self.errors[name] for name in model.producer_name.split())


KNOWN = {"a": 0.1, "b": 5.0, "c": 0.3, "d": 2.0}


def islands(most: int, tolerance: float) -> tuple[str, ...]:
    harm = Harm(KNOWN)
    return float_islands(harm.quantize, list(KNOWN), harm, most, tolerance)  # type: ignore[arg-type]


def test_the_worst_come_first() -> None:
    harm = Harm(KNOWN)
    ranked = worst_first(harm.quantize, list(KNOWN), harm)  # type: ignore[arg-type]
    assert ranked == (("b", 5.0), ("d", 2.0), ("c", 0.3), ("a", 0.1))


@pytest.mark.parametrize(
    ("most", "tolerance", "expected"),
    [
        (2, 0.0, "bd"),
        (4, 0.0, "bdca"),
        (4, 10.0, ""),
        (4, 2.4, "b"),
        (4, 2.39, "bd"),
        (4, 0.05, "bdca"),
        (1, 0.05, "b"),
    ],
)
def test_as_many_are_left_as_it_takes(most: int, tolerance: float, expected: str) -> None:
    assert "".join(islands(most, tolerance)) == expected


def in_float(path: Path) -> set[str]:
    """Return the products that read no dequantized weights."""
    graph = onnx.load(path).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    return {
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and makers.get(node.input[1]) != "DequantizeLinear"
    }


def made(folder: Path, **parameters: Any) -> Path:
    model, given = chain(folder / "m.onnx"), material(folder / "items")
    (folder / "out").mkdir()
    step = StaticInt8(operators="transformer", per_channel=True, **parameters)
    (name,) = step.apply(model, given, folder / "out")
    return folder / "out" / name


def test_the_fragile_node_is_the_one_that_is_left(tmp_path: Path) -> None:
    assert in_float(made(tmp_path, islands=1)) == {f"layer{FRAGILE}"}


def test_no_more_are_left_than_the_tolerance_asks_for(tmp_path: Path) -> None:
    assert in_float(made(tmp_path, islands=LAYERS, tolerance=0.1)) == {f"layer{FRAGILE}"}


def test_without_islands_all_are_quantized(tmp_path: Path) -> None:
    assert in_float(made(tmp_path)) == set()


def test_where_all_would_be_left_nothing_is_quantized(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="all would be left in float; give fewer islands"):
        made(tmp_path, islands=LAYERS, tolerance=1e-9)


@pytest.mark.parametrize("parameters", [{"islands": -1}, {"tolerance": -0.1}])
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(PassError, match="cannot be negative"):
        check_step(Step(name="static_int8", parameters=parameters))
