from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.errors import InputError, UsageError
from joulewise.core.settings import Settings, Usage
from joulewise.core.statistics import fewest_items, smallest_margin
from joulewise.testing import models
from joulewise.workload.split import split
from joulewise.workload.store import Store, open_store
from joulewise.workload.task import Task
from joulewise.workload.workload import (
    Workload,
    check_certifiable,
    open_workload,
    workload_record,
)

ITEMS = 60
SETTINGS = Settings(margin=0.2, confidence=0.95)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return models.mlp_classifier(tmp_path / "model.onnx")


@pytest.fixture
def data(tmp_path: Path, model: Path) -> str:
    x, labels = models.labelled_items(model, ITEMS)
    np.savez(tmp_path / "data.npz", x=x, y=labels, classes=np.array(["a", "b", "c", "d"]))
    return str(tmp_path / "data.npz")


@pytest.fixture
def workload(tmp_path: Path, model: Path, data: str) -> Workload:
    return open_workload(model, data, Usage(batch_items=4), SETTINGS, tmp_path / "splits")


def stores(workload: Workload) -> list[Store]:
    return [workload.calibrate, workload.search, workload.hold_out]


def test_slices_that_are_not_there_are_asked_for(tmp_path: Path, model: Path, data: str) -> None:
    asked = replace(SETTINGS, slice_name="light")
    with pytest.raises(InputError, match="has no array 'light' that says which slice") as caught:
        open_workload(model, data, Usage(), asked, tmp_path / "splits")
    assert "leave --slice out" in str(caught.value)


def test_clusters_that_are_not_there_are_asked_for(tmp_path: Path, model: Path, data: str) -> None:
    asked = replace(SETTINGS, cluster_name="patient")
    with pytest.raises(InputError, match="'patient' that says which items belong together"):
        open_workload(model, data, Usage(), asked, tmp_path / "splits")


def write_patients(path: Path, model: Path, patients: list[str], seed: int = 0) -> str:
    x, labels = models.labelled_items(model, len(patients), seed=seed)
    np.savez(path, x=x, y=labels, patient=patients)
    return str(path)


def test_lessons_are_of_nobody_who_is_judged(tmp_path: Path, model: Path) -> None:
    asked = replace(SETTINGS, cluster_name="patient")
    judged = write_patients(tmp_path / "a.npz", model, [f"p{n // 3}" for n in range(120)])
    lessons = [f"p{n // 3}" for n in range(60, 240)]  # p20 to p79, of whom 40 to 79 are others
    train = write_patients(tmp_path / "b.npz", model, lessons, seed=9)
    found = open_workload(model, judged, Usage(), asked, tmp_path / "with", train)
    assert found.train is not None
    assert found.train.items == 120
    assert [store.units for store in stores(found)] == [4, 14, 22]
    assert check_certifiable(found, asked) == smallest_margin(22, 0.95)
    unnamed = models.labelled_items(model, 60, seed=9)
    np.savez(tmp_path / "c.npz", x=unnamed[0], y=unnamed[1])
    with pytest.raises(InputError, match="does not say which items belong together"):
        open_workload(model, judged, Usage(), asked, tmp_path / "c", str(tmp_path / "c.npz"))


def test_clusters_too_few_to_certify_are_counted(tmp_path: Path, model: Path) -> None:
    asked = replace(SETTINGS, cluster_name="patient", margin=0.05)
    data = write_patients(tmp_path / "a.npz", model, [f"p{n // 30}" for n in range(1200)])
    workload = open_workload(model, data, Usage(), asked, tmp_path / "splits")
    with pytest.raises(InputError, match=r"18 hold-out clusters and 18 for the search can") as told:
        check_certifiable(workload, asked)
    assert re.search(r"at least \d+ clusters in all", str(told.value))


def test_splits_hold_every_item_once(workload: Workload, data: str) -> None:
    with np.load(data) as archive:
        x, labels = archive["x"], archive["y"]
    held = np.concatenate([store.inputs["x"] for store in stores(workload)])
    held_labels = np.concatenate([np.asarray(store.labels) for store in stores(workload)])
    rows = sorted(zip(held.tolist(), held_labels.tolist(), strict=True))
    assert rows == sorted(zip(x.tolist(), labels.tolist(), strict=True))
    assert workload.classes == ("a", "b", "c", "d")
    assert workload.source == data


def test_splits_lie_in_their_folders(workload: Workload, tmp_path: Path) -> None:
    for name, store in zip(("calibrate", "search", "hold_out"), stores(workload), strict=True):
        assert store.folder == tmp_path / "splits" / name
        assert open_store(store.folder).digest() == store.digest()


def test_splits_follow_the_seed(workload: Workload, tmp_path: Path, model: Path, data: str) -> None:
    def hold_out(seed: int) -> str:
        chosen = replace(SETTINGS, seed=seed)
        folder = tmp_path / f"again-{seed}"
        return open_workload(model, data, Usage(), chosen, folder).hold_out.digest()

    assert hold_out(SETTINGS.seed) == workload.hold_out.digest()
    assert hold_out(SETTINGS.seed + 1) != workload.hold_out.digest()


def test_batches_are_what_the_model_takes(workload: Workload) -> None:
    batch = next(workload.hold_out.batches(workload.usage.batch_items))
    (scores,) = models.reference_outputs(workload.model.path, batch)
    assert scores.shape == (4, models.CLASSES)


def test_record_names_each_split_by_its_digest(workload: Workload) -> None:
    record = workload_record(workload, Task(metric="top1"))
    digests = {name: part.digest for name, part in record.splits.items()}
    assert len(set(digests.values())) == 3
    assert digests["hold-out"] == workload.hold_out.digest()
    assert sum(part.items for part in record.splits.values()) == ITEMS
    assert record.batch_items == 4
    assert record.metric == "top1"
    assert record.classes == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("arrays", "error", "text"),
    [
        ({"x": np.zeros((20, 15), np.float32)}, InputError, "16"),
        ({"x": np.zeros((20, 16), np.float32), "y": np.full(20, 9)}, InputError, "up to 9"),
        ({"x": np.zeros((5, 16), np.float32)}, InputError, "too few"),
        ({"x": np.full((20, 16), np.nan, np.float32)}, InputError, "NaN"),
    ],
)
def test_unfit_data_are_refused_before_anything_is_written(
    tmp_path: Path, model: Path, arrays: dict[str, Any], error: type[Exception], text: str
) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(error, match=text):
        open_workload(model, str(tmp_path / "bad.npz"), Usage(), SETTINGS, tmp_path / "splits")
    assert not (tmp_path / "splits").exists()


def test_fixed_batch_that_is_not_the_declared_one(tmp_path: Path, data: str) -> None:
    fixed = models.mlp_classifier(tmp_path / "fixed.onnx", batch=8)
    with pytest.raises(UsageError, match="8"):
        open_workload(fixed, data, Usage(batch_items=4), SETTINGS, tmp_path / "splits")


# ---------------------------------------------------------------- what can be certified


def of_size(workload: Workload, hold_out: int, search: int) -> Workload:
    """Return the workload as if its splits had so many items."""
    return replace(
        workload,
        hold_out=replace(workload.hold_out, items=hold_out),
        search=replace(workload.search, items=search),
    )


def refused(workload: Workload, chosen: Settings) -> str:
    with pytest.raises(InputError) as caught:
        check_certifiable(workload, chosen)
    return str(caught.value)


def test_forty_items_cannot_certify_half_a_point(workload: Workload) -> None:
    said = refused(of_size(workload, 40, 40), Settings(margin=0.005, confidence=0.95))
    best = 100 * smallest_margin(40, 0.95)
    assert said.startswith("40 hold-out items")
    assert f"{best + 0.05:.1f} points at the best, not 0.5" in said
    assert re.search(r"give at least [\d,]+ items in all, or declare --margin [\d.]+$", said)


def test_enough_items_give_the_smallest_margin(workload: Workload) -> None:
    chosen = Settings(margin=0.1, confidence=0.95)
    assert check_certifiable(of_size(workload, 50, 40), chosen) == smallest_margin(50, 0.95)


def test_too_small_a_search_split_is_refused_too(workload: Workload) -> None:
    chosen = Settings(margin=0.1, confidence=0.95)
    assert "10 for the search" in refused(of_size(workload, 500, 10), chosen)


def test_the_message_does_not_contradict_itself_when_little_is_lacking(
    workload: Workload,
) -> None:
    items = 98
    best = 100 * smallest_margin(items, 0.95)
    margin = round(best - 0.01, 2)
    said = refused(of_size(workload, items, items), Settings(margin=margin / 100))
    found = re.search(r"loss of ([\d.]+) points at the best, not ([\d.]+);", said)
    assert found is not None
    assert float(found[1]) > float(found[2])


def sized(workload: Workload, items: int, chosen: Settings) -> Workload:
    """Return the workload with splits like those that `items` items get under `chosen`."""
    needed = fewest_items(chosen.margin, chosen.confidence)
    made = split(items, seed=0, search_items=needed)
    return of_size(workload, len(made.hold_out), len(made.search))


def advice(said: str) -> tuple[int, float]:
    found = re.search(r"at least ([\d,]+) items in all, or declare --margin ([\d.]+)$", said)
    assert found is not None
    return int(found[1].replace(",", "")), float(found[2]) / 100


@given(
    items=st.integers(10, 400),
    margin=st.sampled_from([0.001, 0.002, 0.005, 0.01, 0.03]),
    confidence=st.sampled_from([0.8, 0.9, 0.95, 0.99]),
)
@settings(deadline=None, max_examples=15)
def test_the_advice_works(items: int, margin: float, confidence: float) -> None:
    chosen = Settings(margin=margin, confidence=confidence)
    workload = bare_workload()
    given_ = sized(workload, items, chosen)
    try:
        check_certifiable(given_, chosen)
    except InputError as error:
        enough, larger = advice(str(error))
        assert enough > items
        check_certifiable(sized(workload, enough, chosen), chosen)
        wider = replace(chosen, margin=larger)
        check_certifiable(sized(workload, items, wider), wider)
        best = re.search(r"loss of ([\d.]+) points at the best, not ([\d.]+);", str(error))
        assert best is not None
        assert float(best[1]) > float(best[2]), "the message contradicts itself"


def bare_workload() -> Workload:
    store = Store(folder=Path(), items=1, inputs={}, dtypes={}, labels=None)
    nothing: Any = None
    return Workload(
        model=nothing, source="", calibrate=store, search=store, hold_out=store,
        classes=(), usage=Usage(),
    )  # fmt: skip


def write_lessons(path: Path, x: Any, labels: Any, classes: tuple[str, ...] = ()) -> str:
    arrays: dict[str, Any] = {"x": x} if labels is None else {"x": x, "y": labels}
    if classes:
        arrays["classes"] = np.array(classes)
    np.savez(path, **arrays)
    return str(path)


def test_lessons_are_never_items_to_judge_with(tmp_path: Path, model: Path, data: str) -> None:
    fresh, labels = models.labelled_items(model, 100, seed=7)
    with np.load(data) as archive:
        judged, known = archive["x"], archive["y"]
    train = write_lessons(
        tmp_path / "train.npz",
        np.concatenate([judged[:5], fresh, judged[5:8]]),
        np.concatenate([known[:5], labels, known[5:8]]),
    )
    found = open_workload(model, data, Usage(), SETTINGS, tmp_path / "with", train)
    assert found.train is not None
    np.testing.assert_array_equal(found.train.inputs["x"], fresh)
    np.testing.assert_array_equal(found.train.labels, labels)
    assert found.warnings[0].startswith("8 of the 108 items to learn from are among")
    assert workload_record(found, Task(metric="top1")).splits["train"].items == 100
    for ours, theirs in zip(
        stores(found),
        stores(open_workload(model, data, Usage(), SETTINGS, tmp_path / "without")),
        strict=True,
    ):
        assert ours.digest() == theirs.digest()


def test_useless_lessons_are_one_line(tmp_path: Path, model: Path, data: str) -> None:
    fresh, labels = models.labelled_items(model, 100, seed=7)
    cases = {
        "hold no labels": write_lessons(tmp_path / "a.npz", fresh, None),
        "give at least 32": write_lessons(tmp_path / "b.npz", fresh[:31], labels[:31]),
        "classes": write_lessons(tmp_path / "c.npz", fresh, labels, ("d", "c", "b", "a")),
        "0 of the 60 items": data,
    }
    for words, train in cases.items():
        with pytest.raises(InputError, match=words.replace("hold", "holds?")) as caught:
            open_workload(model, data, Usage(), SETTINGS, tmp_path / "x", train)
        assert "\n" not in str(caught.value)


def test_a_mean_over_classes_needs_items_of_the_rarest(tmp_path: Path, model: Path) -> None:
    x, labels = models.labelled_items(model, 600)
    kept = (labels != 3) | (np.cumsum(labels == 3) <= 20)
    np.savez(tmp_path / "rare.npz", x=x[kept], y=labels[kept])
    asked = Settings(margin=0.05, metric="macro_f1")
    workload = open_workload(model, str(tmp_path / "rare.npz"), Usage(), asked, tmp_path / "splits")
    assert check_certifiable(workload, replace(asked, metric="auto")) < 0.02
    with pytest.raises(InputError, match="the rarest class is too rare for macro_f1") as caught:
        check_certifiable(workload, asked)
    assert workload.hold_out.labels is not None
    rarest = 4 * int(np.bincount(workload.hold_out.labels).min())
    assert f"{rarest} in the hold-out" in str(caught.value)
    assert check_certifiable(workload, replace(asked, margin=0.5)) == smallest_margin(rarest, 0.95)
