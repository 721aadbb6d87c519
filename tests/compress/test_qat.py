from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.qat import Qat
from joulewise.compress.static_int8 import Quantizer, StaticInt8, prepare
from joulewise.core.errors import PassError, UsageError
from joulewise.core.recipe import Step
from joulewise.learn.fake_int8 import fake_int8
from joulewise.learn.network import open_network
from joulewise.testing import models
from joulewise.workload.store import Store, write_store

Array = npt.NDArray[Any]

ITEMS = 512
STEP = Qat(epochs=6, rate=0.01, batch_items=16)
MODELS = (
    models.conv_classifier,
    models.mlp_classifier,
    models.norm_classifier,
    models.residual_classifier,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and wait for them where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def answers(model: Path | onnx.ModelProto, items: Store) -> Array:
    """Return the scores that a graph gives, each node run as it stands."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    read = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(read, options)
    found: Array = session.run(None, items.batch(0, items.items))[0]
    return found


def distance(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def quantizer(model: Path, items: Store, **parameters: Any) -> Quantizer:
    prepared = model.with_name("prepared.onnx")
    prepare(model, prepared)
    return Quantizer(StaticInt8(**parameters), prepared, items)


@pytest.mark.parametrize(
    "parameters",
    [
        {"operators": "all"},
        {"operators": "compute", "per_channel": False},
        {"operators": "transformer", "reduce_range": True},
    ],
    ids=lambda parameters: parameters["operators"],
)
@pytest.mark.parametrize("make", MODELS)
def test_the_network_computes_what_the_quantized_graph_does(
    tmp_path: Path, make: Callable[[Path], Path], parameters: dict[str, Any]
) -> None:
    """Apart from numbers between two steps; what it learnt is rounded to the same integers."""
    model = make(tmp_path / "m.onnx")
    items = models.labelled_store(tmp_path / "items", model, 64)
    known = quantizer(model, items, **parameters)
    reduced = parameters.get("reduce_range", False)
    quantized = known.whole()
    network = fake_int8(quantized, known.weights(), reduce_range=reduced).eval()
    with torch.no_grad():
        (found,) = network(torch.from_numpy(items.batch(0, 64)["x"]))
    wanted = answers(quantized, items)
    assert distance(found.numpy(), wanted) < 0.004
    assert distance(found.numpy(), wanted) < distance(answers(model, items), wanted) / 3
    known.put(network.weights())
    np.testing.assert_array_equal(answers(known.whole(), items), wanted)


def test_gradients_pass_through_rounding_and_end_outside_the_range(tmp_path: Path) -> None:
    model = models.mlp_classifier(tmp_path / "m.onnx")
    items = models.labelled_store(tmp_path / "items", model, 64)
    known = quantizer(model, items, operators="transformer")
    network = fake_int8(known.whole(), known.weights(), reduce_range=False)
    for size, learns in ((1.0, True), (1e4, False)):
        x = torch.full((1, 16), size, requires_grad=True)
        network(x)[0].sum().backward()
        assert x.grad is not None
        assert bool((x.grad != 0).all()) == learns
    assert all(weight.grad is not None for weight in network.parameters())


WIDE = 150.0


def wide(path: Path) -> Path:
    """Write a classifier whose first layer has one far larger weight per channel.

    It meets an input that is always 0, but the others have only a few steps left to be told apart.
    """
    model = onnx.load(models.mlp_classifier(path))
    for tensor in model.graph.initializer:
        if tensor.name == "first":
            value = numpy_helper.to_array(tensor).copy()
            value[0] = WIDE
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(model, path)
    return path


def fresh_items(folder: Path, model: Path, count: int, seed: int) -> Store:
    """Write items whose first number is 0, without labels."""
    x, _ = models.labelled_items(model, count, seed=seed)
    x[:, 0] = 0
    return write_store(folder, {"x": x}, {"x": "float32"}, None, np.arange(count))


def material(model: Path) -> Material:
    """Return what to learn from."""
    store = fresh_items(model.parent / "items", model, ITEMS, seed=1)
    return Material(calibrate=store, train=store, search=store, original=model)


def made(step: Qat | StaticInt8, model: Path, given: Material, name: str) -> Path:
    (model.parent / name).mkdir()
    assert step.apply(model, given, model.parent / name) == ("model.onnx",)
    assert [path.name for path in (model.parent / name).iterdir()] == ["model.onnx"]
    return model.parent / name / "model.onnx"


def test_what_static_int8_loses_is_learnt_back(tmp_path: Path) -> None:
    """On items that were not trained on."""
    model = wide(tmp_path / "m.onnx")
    given = material(model)
    paths = (made(StaticInt8(), model, given, "static"), made(STEP, model, given, "trained"))
    fresh = fresh_items(tmp_path / "fresh", model, 400, seed=9)
    wanted = answers(model, fresh)
    static, trained = (distance(answers(path, fresh), wanted) for path in paths)
    assert static > 0.5
    assert trained < static / 3
    assert operators(paths[0]) == operators(paths[1])


def operators(path: Path) -> list[str]:
    return sorted(node.op_type for node in onnx.load(path).graph.node)


def test_the_same_items_give_the_same_bytes(tmp_path: Path) -> None:
    model = models.mlp_classifier(tmp_path / "m.onnx")
    given, step = material(model), Qat(epochs=1, operators="compute")
    first, second = (made(step, model, given, name) for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


def test_without_training_items_it_says_where_they_come_from(tmp_path: Path) -> None:
    model = models.mlp_classifier(tmp_path / "m.onnx")
    with pytest.raises(PassError, match="name training items with --train"):
        made(Qat(), model, replace(material(model), train=None), "out")


def test_quantized_graphs_are_not_taken_for_ones_that_learn(tmp_path: Path) -> None:
    """The operators of the fake network do not open what another pass quantized."""
    model = models.mlp_classifier(tmp_path / "m.onnx")
    given = material(model)
    static = made(StaticInt8(), model, given, "static")
    with pytest.raises(PassError, match="no gradient is known here"):
        open_network(static)
    with pytest.raises(PassError, match="is quantized already"):
        made(Qat(), static, given, "again")


@pytest.mark.parametrize("parameters", [{"epochs": 0}, {"operators": "some"}, {"range": "max"}])
def test_parameters_are_checked_before_anything_is_done(parameters: dict[str, Any]) -> None:
    with pytest.raises((UsageError, PassError), match=r"cannot|choose"):
        check_step(Step(name="qat", parameters=parameters))
