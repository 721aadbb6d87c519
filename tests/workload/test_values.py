"""Answers that are values: scored by their distance to labels, in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from joulewise.core.errors import InputError, UsageError
from joulewise.core.settings import Settings, Usage
from joulewise.workload.data import Dataset, as_asked, check_data
from joulewise.workload.judge import Judge
from joulewise.workload.model import Model
from joulewise.workload.store import open_store, write_store
from joulewise.workload.task import Task, choose_task, label_errors, task_of
from joulewise.workload.workload import open_workload

from .conftest import MakeModel

Array = npt.NDArray[Any]
Y = np.array([0.0, 1.0, 2.0, 3.0])
UNIT = np.array([[0.6, 0.8], [-1.0, 0.0], [0.8, -0.6]], np.float32)


def within(ours: Array, theirs: Array, tolerance: float) -> list[list[bool]]:
    marks = Task(metric="within", tolerance=tolerance).mark([ours], [theirs], targets=Y)
    return [x.tolist() for x in (marks.ours, marks.theirs, marks.changed)]


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 1)])
def test_values_are_right_up_to_the_tolerance(shape: tuple[int, ...]) -> None:
    ours = Y + np.array([0.5, -0.5, 0.75, np.nan])
    right, original, changed = within(ours.reshape(shape), Y.reshape(shape), 0.5)
    assert right == [True, True, False, False]
    assert original == [True] * 4
    assert changed == [True] * 4


def test_a_move_of_a_twentieth_of_the_tolerance_is_no_change() -> None:
    assert within(Y + np.array([0.04, -0.04, 0.06, 0.0]), Y, 1.0)[2] == [False, False, True, False]


def test_who_goes_over_the_edge_has_changed() -> None:
    """The original is just right, the candidate just not."""
    ours, theirs = Y + np.array([1.001, 0, 0, 0]), Y + np.array([0.999, 0, 0, 0])
    assert within(ours, theirs, 1.0) == [
        [False, True, True, True], [True] * 4, [True, False, False, False],
    ]  # fmt: skip


def test_errors_are_distances_over_all_values_of_an_item() -> None:
    targets = np.zeros((2, 2))
    values = np.array([[3.0, 4.0], [np.nan, 0.0]], np.float32)
    assert label_errors([values], targets).tolist() == [5.0, np.inf]


def test_as_many_labels_as_values() -> None:
    with pytest.raises(InputError, match=r"1 labels per item.*float32 \[n, 2\]"):
        label_errors([np.ones((4, 2), np.float32)], Y)


def test_damaged_regressor_loses_what_the_normal_law_says() -> None:
    """Errors are the 400 quantiles of a normal law; the candidate adds half a unit to each."""
    errors = stats.norm.ppf((np.arange(400) + 0.5) / 400)
    truth = np.linspace(-5, 5, 400)
    judge = Judge(
        task=choose_task([truth + errors], targets=truth),
        original=[truth + errors],
        labels=None,
        targets=truth,
        split_digest="d",
        confidence=0.95,
    )
    tolerance = judge.task.tolerance
    assert tolerance is not None
    assert tolerance == pytest.approx(stats.norm.ppf(0.75), abs=0.005)
    assert judge.quality_of_original.value == 0.5
    assert judge.quality_of_original.tolerance == tolerance
    quality, difference = judge.compare([truth + errors + 0.5])
    edges = np.array([-tolerance - 0.5, -tolerance, tolerance - 0.5, tolerance])
    cut = np.asarray(stats.norm.cdf(edges))
    assert difference.gained == pytest.approx(400 * (cut[1] - cut[0]), abs=1)
    assert difference.lost == pytest.approx(400 * (cut[3] - cut[2]), abs=1)
    assert quality.value == pytest.approx(cut[2] - cut[0], abs=0.005)
    assert difference.lower < difference.value < -0.04
    assert judge.same_answers([truth + errors + 1e-4])
    assert not judge.same_answers([truth + errors + 0.5])


def test_values_without_labels_are_compared_with_the_original() -> None:
    """Task classes would look at the largest of the three only."""
    original = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    ours = original + np.array([[0, 0, 0.1], [4, 0, 0]])
    assert Task(metric="agreement").mark([ours], [original]).ours.tolist() == [True, False]
    assert Task(metric="values").mark([ours * 2], [original]).ours.tolist() == [False, False]
    assert Task(metric="values").mark([ours], [original]).ours.tolist() == [True, False]


def test_what_is_found_out() -> None:
    scores = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 1.5]], np.float32)
    labels, targets = np.array([0, 1, 1]), scores + np.ones(2)

    def metric(*outputs: Array, **given: Any) -> str:
        return choose_task(outputs, **given).metric

    assert metric(scores) == "agreement"
    assert metric(scores, pooled=True) == "neighbour"
    assert metric(scores, pooled=True, labels=labels) == "top1"
    assert metric(scores, asked="values") == "values"
    assert metric(scores, asked="vectors", labels=labels) == "neighbour label"
    assert metric(scores, targets=targets) == "within"
    assert metric(UNIT) == "neighbour"
    assert metric(UNIT, labels=labels) == "top1"
    assert metric(np.eye(3, dtype=np.float32)) == "agreement"  # probabilities without doubt
    assert metric(UNIT[:, :1]) == "values"
    assert choose_task([scores], targets=targets, tolerance=2.5).tolerance == 2.5
    assert choose_task([scores], targets=targets - [1.0, 0.0]).tolerance == 1.0


def test_an_original_without_error_gives_no_tolerance() -> None:
    with pytest.raises(UsageError, match="say how near is right with --tolerance"):
        choose_task([Y], targets=Y)


@pytest.mark.parametrize(
    ("outputs", "given", "says"),
    [
        (UNIT, {"tolerance": 1.0}, "there are no labels that are values"),
        (UNIT[:, 0], {"asked": "classes"}, r"float32 \[n\]; use --task values"),
        (UNIT[:, 0], {"asked": "vectors"}, r"float32 \[n\]; use --task values"),
    ],
)
def test_what_does_not_fit_is_one_line(outputs: Array, given: Any, says: str) -> None:
    with pytest.raises((UsageError, InputError), match=says):
        choose_task([outputs], **given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"task": "regression"}, "choose auto, classes, values, vectors"),
        ({"task": "classes", "tolerance": 1.0}, "for values, not for classes"),
        ({"tolerance": 0.0}, "give a distance above 0"),
        ({"tolerance": float("nan")}, "give a distance above 0"),
    ],
)
def test_settings_that_cannot_be_meant(given: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Settings(**given)


def test_records_name_their_metric() -> None:
    assert task_of("within", 0.5) == Task(metric="within", tolerance=0.5)
    with pytest.raises(InputError, match="no metric 'r2'"):
        task_of("r2", None)
    for tolerance in (None, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="has no tolerance above 0"):
            task_of("within", tolerance)


# ---------------------------------------------------------------- data


@pytest.fixture
def model(make_model: MakeModel) -> Model:
    return make_model("n", 1, 2, 2, classes=3)


def data(**labels: Any) -> Dataset:
    return Dataset(inputs={"pixels": np.zeros((4, 1, 2, 2), np.uint8)}, source="s", **labels)


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        (np.full((4, 3), np.nan), "12 NaN or infinite values, the first in item 0"),
        (np.array([[1.0] * 3] * 3 + [[1, np.inf, 1]]), "1 NaN or infinite .* in item 3"),
        (Y, "labels of s are 1 per item, but the model's first output has 3"),
        (np.zeros((3, 3)), "labels: 3 for 4 items"),
    ],
)
def test_labels_that_cannot_be_values(model: Model, targets: Array, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check_data(data(targets=targets), model, 1)


def test_integers_are_values_where_that_is_said() -> None:
    ages = np.array([30, 41, -5, 60])
    found = as_asked(data(labels=ages), "values")
    assert found.labels is None
    np.testing.assert_array_equal(found.targets, ages)
    assert as_asked(data(labels=ages), "auto").labels is ages


@pytest.mark.parametrize("task", ["classes", "vectors"])
def test_floats_are_no_classes(task: str) -> None:
    with pytest.raises(InputError, match=f"are floats, but --task {task}"):
        as_asked(data(targets=Y), task)


def test_named_classes_are_no_values() -> None:
    with pytest.raises(InputError, match="names classes"):
        as_asked(data(labels=np.arange(4), classes=("a", "b", "c", "d")), "values")


def test_labels_of_vectors_need_not_fit_their_length(model: Model) -> None:
    labels = np.array([0, 3, 3, 0])
    check_data(data(labels=labels), model, 1, "vectors")
    with pytest.raises(InputError, match="for 3 classes"):
        check_data(data(labels=labels), model, 1)
    with pytest.raises(InputError, match="go up to 4"):
        check_data(data(labels=labels + 1), model, 1, "vectors")


def test_values_are_stored_to_the_last_digit(tmp_path: Path) -> None:
    x, y = {"x": np.arange(6.0)}, np.random.default_rng(0).normal(size=(6, 2))
    order = np.array([4, 1, 3])
    written = write_store(tmp_path / "s", x, {"x": "float32"}, None, order, y)
    found = open_store(tmp_path / "s")
    assert found.targets is not None
    np.testing.assert_array_equal(found.targets, y[order])
    assert found.digest() == written.digest()
    plain = write_store(tmp_path / "p", x, {"x": "float32"}, None, order)
    assert plain.targets is None
    changed = write_store(tmp_path / "c", x, {"x": "float32"}, None, order, np.nextafter(y, 9))
    assert len({each.digest() for each in (found, plain, changed)}) == 3


@pytest.mark.parametrize("name", ["labels", "targets"])
def test_labels_of_another_kind_are_damage(tmp_path: Path, name: str) -> None:
    x, labels = {"x": np.arange(3.0)}, np.arange(3)
    write_store(tmp_path, x, {"x": "float32"}, labels, np.arange(3), labels.astype(np.float64))
    np.save(tmp_path / f"{name}.npy", np.array(["a", "b", "c"]))
    with pytest.raises(InputError, match=f"'{name}' are str"):
        open_store(tmp_path)


def test_every_split_has_its_values(tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model("n", 1, 2, 2, classes=3)
    pixels = np.random.default_rng(0).integers(0, 255, (400, 1, 2, 2), dtype=np.uint8)
    y = pixels.reshape(400, 4)[:, :3] + 0.5
    np.savez(tmp_path / "d.npz", x=pixels, y=y)
    fresh = 255 - pixels[:50]
    np.savez(tmp_path / "t.npz", x=fresh, y=fresh.reshape(50, 4)[:, :3] + 0.5)
    found = open_workload(
        model.path, str(tmp_path / "d.npz"), Usage(), Settings(margin=0.05), tmp_path / "w",
        str(tmp_path / "t.npz"),
    )  # fmt: skip
    for part in (found.calibrate, found.search, found.hold_out, found.train):
        assert part is not None
        assert part.targets is not None
        (inputs,) = part.inputs.values()
        corners = np.asarray(inputs, np.float64).reshape(-1, 4)[:, :3]
        np.testing.assert_array_equal(corners + 0.5, part.targets)
    np.savez(tmp_path / "c.npz", x=fresh, y=np.zeros(50, np.int64))
    with pytest.raises(InputError, match="one has classes"):
        open_workload(
            model.path, str(tmp_path / "d.npz"), Usage(), Settings(margin=0.05), tmp_path / "v",
            str(tmp_path / "c.npz"),
        )  # fmt: skip
