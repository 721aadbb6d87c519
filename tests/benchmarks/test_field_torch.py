"""PyTorch in the side-by-side: what is handed over answers like the ONNX file it was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from field_runtimes.torch_program import Eager
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from benchmarks.field.contract import Asked
from benchmarks.field.network import flattened
from benchmarks.field.peers import torch_eager
from joulewise.core.recipe import RunSettings
from joulewise.testing.models import (
    conv_classifier,
    labelled_store,
    masked_pooling,
    masked_store,
    reference_outputs,
    residual_classifier,
)
from joulewise.workload.store import Store

ONE = RunSettings(runtime="torch", threads=1)


def asked(model: Path, items: Store, output: Path) -> Asked:
    return Asked(
        model=str(model), calibrate=str(items.folder), validate=str(items.folder),
        output=str(output), batch_items=1, metric="top1", margin=0.01,
    )  # fmt: skip


@pytest.mark.parametrize("make", [conv_classifier, residual_classifier, masked_pooling])
def test_a_saved_program_answers_like_the_original(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    model = make(tmp_path / "model.onnx")
    masked = make is masked_pooling
    items = (
        masked_store(tmp_path / "items", 8)
        if masked
        else labelled_store(tmp_path / "items", model, 8)
    )
    path = torch_eager.optimize(asked(model, items, tmp_path))
    program = Eager().open(path, ONE, {})
    for row in range(items.items):
        inputs = items.batch(row, 1)
        swapped = dict(reversed(inputs.items()))  # inputs go by their names
        found = [np.asarray(x, np.float32) for x in program.run(swapped)]
        expected = reference_outputs(model, inputs)
        assert len(found) == len(expected)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("item", "wanted", "expected"),
    [([6, 1], 6, "Flatten"), ([2, 3], 6, "Flatten"), ([4, 6], 6, "Reshape")],
)
def test_a_reshape_to_all_values_of_an_item_goes_by_them(
    item: list[int], wanted: int, expected: str
) -> None:
    """A user's module flattens; the last of these takes rows apart, and stays."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", ["n", *item]), ("y", ["m", wanted]))
    ]
    node = helper.make_node("Reshape", ["x", "to"], ["y"])
    to = numpy_helper.from_array(np.array([-1, wanted]), "to")
    model = helper.make_model(helper.make_graph([node], "test", ends[:1], ends[1:], [to]))
    x = np.random.default_rng(0).normal(size=(3, *item)).astype(np.float32)
    (before,) = ReferenceEvaluator(model).run(None, {"x": x})
    found = flattened(model)
    assert [node.op_type for node in found.graph.node] == [expected]
    np.testing.assert_array_equal(ReferenceEvaluator(found).run(None, {"x": x})[0], before)
