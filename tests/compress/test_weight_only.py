from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.static_int8 import StaticInt8
from joulewise.compress.weight_only import WeightOnly
from joulewise.core.errors import PassError
from joulewise.core.recipe import Step
from joulewise.testing import models


def material(model: Path) -> Material:
    return Material(calibrate=models.labelled_store(model.parent / "items", model, 64))


def made(step: WeightOnly | StaticInt8, model: Path, name: str = "made") -> Path:
    folder = model.parent / name
    folder.mkdir()
    assert step.apply(model, material(model), folder) == ("model.onnx",)
    return folder / "model.onnx"


@pytest.mark.parametrize("bits", [8, 4])
def test_weights_are_rounded_in_blocks(tmp_path: Path, bits: int) -> None:
    """The products of unit vectors are the weights, and no further off than half a step.

    A step is the largest weight of a block in parts of 2^(bits - 1); the activations' own rounding
    does nothing to a unit vector.
    """
    model = onnx.load(models.mlp_classifier(tmp_path / "m.onnx"))
    path, x = made(WeightOnly(bits=bits, block=16), tmp_path / "m.onnx"), np.eye(16)
    graph = onnx.load(path)
    graph.graph.output.append(onnx.ValueInfoProto(name="sum_MatMul"))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    (found,) = session.run(["sum_MatMul"], {"x": x.astype(np.float32)})
    weights = next(numpy_helper.to_array(x) for x in model.graph.initializer if x.name == "first")
    steps = np.abs(weights).max(axis=0) / 2 ** (bits - 1)
    assert np.all(np.abs(found - weights) <= steps * 1.05)
    assert np.abs(found - weights).max() > steps.min() / 10


def test_fewer_bits_make_smaller_files(tmp_path: Path) -> None:
    model = models.mlp_classifier(tmp_path / "m.onnx")
    sizes = [
        sum(x.ByteSize() for x in onnx.load(path).graph.initializer if "_Q" in x.name)
        for path in (made(WeightOnly(bits=bits), model, f"made{bits}") for bits in (8, 4))
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    model = made(StaticInt8(), models.mlp_classifier(tmp_path / "m.onnx"))
    given = material(tmp_path / "m.onnx")
    with pytest.raises(PassError, match="is quantized already"):
        WeightOnly().apply(model, given, tmp_path)


@pytest.mark.parametrize("parameters", [{"bits": 3}, {"block": 33}, {"bits": 16}])
def test_parameters_are_checked(parameters: dict[str, Any]) -> None:
    with pytest.raises(PassError, match="choose one of"):
        check_step(Step(name="weight_only", parameters=parameters))
