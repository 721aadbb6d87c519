"""Small real ONNX models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from joulewise.workload.model import Model, load_model

Shape = Sequence[int | str]
MakeModel = Callable[..., Model]


def save(path: Path, graph: Any) -> Path:
    """Write a model of opset 17 around `graph`."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.domain", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def tensor(name: str, shape: Shape, element: int = TensorProto.FLOAT) -> Any:
    """Return a graph input or output."""
    return helper.make_tensor_value_info(name, element, list(shape))


def relu_graph() -> Any:
    """Return a graph x -> Relu -> y."""
    node = helper.make_node("Relu", ["x"], ["y"])
    return helper.make_graph([node], "g", [tensor("x", ["n", 3])], [tensor("y", ["n", 3])])


def external_weight(location: str, length: int = 12) -> Any:
    """Return an initialiser of three floats kept in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("length", str(length))):
        weight.external_data.add(key=key, value=value)
    return weight


def external_graph(location: str, length: int = 12) -> Any:
    """Return a graph x + w with w in another file."""
    node = helper.make_node("Add", ["x", "w"], ["y"])
    return helper.make_graph(
        [node],
        "g",
        [tensor("x", ["n", 3])],
        [tensor("y", ["n", 3])],
        initializer=[external_weight(location, length)],
    )


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Return a maker of models, one Identity per input, and a MatMul to `classes` scores."""

    def make(
        *shape: int | str,
        element: int = TensorProto.FLOAT,
        classes: int | None = None,
        name: str = "pixels",
        second: Shape | None = None,
    ) -> Model:
        inputs = [tensor(name, shape, element)]
        nodes = [helper.make_node("Identity", [name], ["out"])]
        outputs = [tensor("out", shape, element)]
        weights = []
        if classes is not None:
            size = int(np.prod([int(x) for x in shape[1:]]))
            weights = [numpy_helper.from_array(np.ones((size, classes), np.float32), "w")]
            nodes = [
                helper.make_node("Flatten", [name], ["flat"]),
                helper.make_node("MatMul", ["flat", "w"], ["out"]),
            ]
            outputs = [tensor("out", [shape[0], classes])]
        if second is not None:
            inputs.append(tensor("mask", second))
            nodes.append(helper.make_node("Identity", ["mask"], ["mask_out"]))
            outputs.append(tensor("mask_out", second))
        graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
        return load_model(save(tmp_path / "made.onnx", graph))

    return make


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes a package look as if it were not installed."""

    def remove(package: str) -> None:
        monkeypatch.setitem(sys.modules, package, None)

    return remove
