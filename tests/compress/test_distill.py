from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from joulewise.compress.distill import Distill, lengths_of, paired_layers
from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.trim_padding import MASK
from joulewise.core.errors import PassError, UsageError
from joulewise.core.recipe import Step
from joulewise.learn.batch_norm import insert
from joulewise.learn.network import Network
from joulewise.testing import models
from joulewise.workload.store import write_store

ITEMS = 512


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and wait for them where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def damaged(source: Path) -> Path:
    """Write the model with the channels of its first layer in another order."""
    model = onnx.load(source)
    first = next(x for x in model.graph.initializer if x.name in ("filters", "first"))
    values = np.roll(numpy_helper.to_array(first), 2, axis=1 if first.name == "first" else 0)
    first.CopyFrom(numpy_helper.from_array(values, first.name))
    target = source.with_name("damaged.onnx")
    onnx.save(model, target)
    return target


def agreement(model: Path, original: Path) -> float:
    """Return the share of fresh items to which two models give the same class."""
    x, _ = models.labelled_items(original, 400, seed=9)
    ours, theirs = (models.reference_answers(path, x) for path in (model, original))
    return float(np.mean(ours == theirs))


def kinds(model: Path) -> list[str]:
    return [node.op_type for node in onnx.load(model).graph.node]


def material(original: Path, *, labelled: bool = False, items: int = ITEMS) -> Material:
    """Return what to learn from; labels are the original's answers."""
    x, labels = models.labelled_items(original, items, flipped_ratio=0.0)
    known = labels if labelled else None
    folder = original.parent / "items"
    store = write_store(folder, {"x": x}, {"x": "float32"}, known, np.arange(items))
    return Material(calibrate=store, train=store, search=store, original=original)


def distilled(source: Path, given: Material, name: str = "made", **parameters: Any) -> Path:
    folder = source.parent / name
    folder.mkdir()
    step = Distill(**{"epochs": 4, "rate": 0.01, "batch_items": 16, **parameters})
    assert step.apply(source, given, folder) == ("model.onnx",)
    return folder / "model.onnx"


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize(
    "make", [models.conv_classifier, models.mlp_classifier, models.norm_classifier]
)
def test_a_damaged_model_learns_its_job_again(
    tmp_path: Path, make: Callable[[Path], Path], labelled: bool
) -> None:
    """It does so on items that it has not seen, and gets no operators that it had not."""
    original = make(tmp_path / "original.onnx")
    broken = damaged(original)
    assert agreement(broken, original) < 0.75
    made = distilled(broken, material(original, labelled=labelled))
    assert agreement(made, original) > 0.9
    assert kinds(made) == [kind for kind in kinds(original) if kind != "BatchNormalization"]


@pytest.mark.parametrize("parameters", [{"augment": "flip_shift"}, {"features": 1.0}])
def test_other_ways_to_learn_work_too(tmp_path: Path, parameters: dict[str, Any]) -> None:
    original = models.conv_classifier(tmp_path / "original.onnx")
    made = distilled(damaged(original), material(original), **parameters)
    assert agreement(made, original) > 0.85


@pytest.mark.parametrize("shape", [(4, 6), (4, 1, 1, 6)])
def test_lengths_are_those_of_a_mask_of_items_and_places(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    mask = np.zeros(shape, np.int64)
    mask[..., :3] = 1
    items = write_store(tmp_path, {MASK: mask}, {MASK: "int64"}, None, np.arange(4))
    found = lengths_of(items)
    assert (None if found is None else found.tolist()) == ([3] * 4 if len(shape) == 2 else None)


def test_training_ends_where_it_cannot_pay_for_itself(tmp_path: Path) -> None:
    """With a rising rate the first epoch, after which it is asked, does almost nothing yet."""
    original = models.conv_classifier(tmp_path / "original.onnx")
    broken, given = damaged(original), material(original)
    long = distilled(broken, given, epochs=8, rate=1e-3)
    worthless = distilled(broken, replace(given, training_s=0.0), "other", epochs=8, rate=1e-3)
    assert agreement(worthless, original) < agreement(long, original)
    assert not given.pays_no_more(1e9)


def test_layers_are_paired_where_they_end(tmp_path: Path) -> None:
    """The student's batch normalisation with the convolution that it was folded into before."""
    model = onnx.load(models.conv_classifier(tmp_path / "m.onnx"))
    x, _ = models.labelled_items(tmp_path / "m.onnx", 32)
    normed = insert(model, [{"x": x}])
    student, teacher = Network(normed), Network(model)
    (pair,) = paired_layers(student, normed.graph, teacher, model.graph)
    assert pair.spatial
    ours, theirs = student.get_submodule(pair.student), teacher.get_submodule(pair.teacher)
    heard = []
    for layer in (ours, theirs):
        layer.register_forward_hook(lambda _layer, _inputs, y: heard.append(y))
    with torch.no_grad():
        for network in (student.eval(), teacher.eval()):
            network(torch.from_numpy(x))
    torch.testing.assert_close(*heard, rtol=1e-4, atol=1e-4)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    original = models.conv_classifier(tmp_path / "original.onnx")
    given = replace(material(original, items=64), checkpoint=tmp_path / "kept")
    broken = damaged(original)
    first = distilled(broken, given, "first")
    (state,) = (tmp_path / "kept").rglob("training.pt")
    written = state.stat().st_mtime_ns
    second = distilled(broken, given, "second")
    assert first.read_bytes() == second.read_bytes()
    assert state.stat().st_mtime_ns == written


def fixed_to_four(path: Path) -> Path:
    """Write a model that adds a weight per place in the batch, so that it takes 4 items only."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["product"]),
        helper.make_node("Tanh", ["product"], ["active"]),
        helper.make_node("MatMul", ["active", "head"], ["raw"]),
        helper.make_node("Mul", ["raw", "ones"], ["scores"]),
    ]
    weights = {
        "first": random.normal(size=(16, 24)),
        "head": random.normal(size=(24, 4)),
        "ones": np.ones((4, 1)),
    }
    return models.save_model(path, nodes, weights, {"x": [4, 16]}, {"scores": [4, 4]})


def test_a_graph_for_four_items_learns_in_larger_steps(tmp_path: Path) -> None:
    original = fixed_to_four(tmp_path / "original.onnx")
    x = np.random.default_rng(2).normal(size=(300, 16)).astype(np.float32)
    items = write_store(tmp_path / "items", {"x": x}, {"x": "float32"}, None, np.arange(300))
    given = Material(calibrate=items, train=items, search=items, original=original)
    made = distilled(damaged(original), given, epochs=10, rate=0.03, features=0.01)
    found, wanted = (models.reference_answers(path, x) for path in (made, original))
    assert np.mean(found == wanted) > 0.85
    assert onnx.load(made).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4


def test_without_training_items_it_says_where_they_come_from(tmp_path: Path) -> None:
    original = models.conv_classifier(tmp_path / "original.onnx")
    given = replace(material(original), train=None)
    with pytest.raises(PassError, match="name training items with --train"):
        distilled(original, given)


def test_another_job_is_refused(tmp_path: Path) -> None:
    """An original with other inputs or outputs cannot be the teacher."""
    student = models.conv_classifier(tmp_path / "student.onnx")
    given = material(student, items=32)
    (tmp_path / "other").mkdir()
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"]),
    ]
    weights = {"w": np.ones((64, 3))}
    ends: list[dict[str, Any]] = [{"x": ["n", 1, 8, 8]}, {"y": ["n", 3]}]
    other = models.save_model(tmp_path / "other.onnx", nodes, weights, *ends)
    with pytest.raises(PassError, match="outputs are"):
        distilled(student, replace(given, original=other))


@pytest.mark.parametrize("parameters", [{"epochs": 0}, {"augment": "blur"}, {"rate": -1.0}])
def test_parameters_are_checked_before_anything_is_done(parameters: dict[str, Any]) -> None:
    (name,) = parameters
    with pytest.raises(UsageError, match=f"cannot be meant: training cannot have {name}="):
        check_step(Step(name="distill", parameters=parameters))
