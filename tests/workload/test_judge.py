"""Counts against a slow loop over the items."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.claim import SliceLoss
from joulewise.core.errors import UsageError
from joulewise.core.statistics import lower_bound, upper_bound
from joulewise.workload.judge import Judge
from joulewise.workload.task import Metric, Task

Array = npt.NDArray[Any]

CLASSES = 3
answers = st.lists(
    st.tuples(*[st.integers(0, CLASSES - 1)] * 3), min_size=1, max_size=80
)  # label, original, candidate


def scores(chosen: list[int]) -> list[Array]:
    """Outputs of a classifier that answers so."""
    return [np.eye(CLASSES, dtype=np.float32)[chosen]]


def judge(metric: Metric, original: list[Array], labels: list[int] | None) -> Judge:
    return Judge(
        task=Task(metric=metric),
        original=original,
        labels=None if labels is None else np.array(labels),
        slices=None if labels is None else np.array(labels),
        slice_names=("a", "b", "c"),
        split_digest="d",
        confidence=0.95,
        slice_margin=0.05,
    )


@settings(deadline=None, max_examples=20)
@given(answers)
def test_top1_counts(rows: list[tuple[int, int, int]]) -> None:
    labels, original, candidate = map(list, zip(*rows, strict=True))
    judged = judge("top1", scores(original), labels)
    quality, difference = judged.compare(scores(candidate))
    gained = sum(c == y != o for y, o, c in rows)
    lost = sum(o == y != c for y, o, c in rows)
    items = len(rows)
    assert (difference.gained, difference.lost, difference.items) == (gained, lost, items)
    assert difference.changed == sum(o != c for _, o, c in rows)
    assert difference.value == pytest.approx((gained - lost) / items)
    assert difference.lower == lower_bound(gained, lost, items, 0.95)
    assert difference.upper == upper_bound(gained, lost, items, 0.95)
    assert difference.lower <= difference.value <= difference.upper
    assert quality.value == pytest.approx(sum(c == y for y, _, c in rows) / items)
    assert quality.value - judged.quality_of_original.value == pytest.approx(difference.value)
    assert (quality.metric, quality.items, quality.split_digest) == ("top1", items, "d")
    assert judged.same_answers(scores(candidate)) == (original == candidate)


@settings(deadline=None, max_examples=20)
@given(answers)
def test_agreement_counts(rows: list[tuple[int, int, int]]) -> None:
    _, original, candidate = map(list, zip(*rows, strict=True))
    judged = judge("agreement", scores(original), None)
    quality, difference = judged.compare(scores(candidate))
    lost = sum(o != c for o, c in zip(original, candidate, strict=True))
    assert judged.quality_of_original.value == 1.0
    assert (difference.gained, difference.lost, difference.changed) == (0, lost, lost)
    assert quality.value == pytest.approx(1 - lost / len(rows))
    assert (difference.worst_slice, difference.worst_slice_value) == (None, None)


@settings(deadline=None, max_examples=20)
@given(answers, st.integers(1, 80))
def test_first_items_only(rows: list[tuple[int, int, int]], items: int) -> None:
    few = rows[:items]
    columns, first = ([list(x) for x in zip(*some, strict=True)] for some in (rows, few))
    whole = judge("top1", scores(columns[1]), columns[0]).compare(scores(first[2]))
    alone = judge("top1", scores(first[1]), first[0]).compare(scores(first[2]))
    assert whole == alone


def test_worst_slice_is_the_class_that_loses_most() -> None:
    labels = [0] * 30 + [1] * 30 + [2] * 5
    candidate = [*[1] * 3, *[0] * 27, *[0] * 6, *[1] * 24, *[0] * 5]
    _, difference = judge("top1", scores(labels), labels).compare(scores(candidate))
    assert difference.worst_slice == "b"
    assert difference.worst_slice_value == pytest.approx(-0.2)


def test_a_class_that_is_lost_is_named_though_the_average_hardly_moves() -> None:
    labels = [0] * 4000 + [1] * 3980 + [2] * 20
    candidate = [*labels[:7980], *[0] * 20]
    _, difference = judge("top1", scores(labels), labels).compare(scores(candidate))
    assert difference.value == -0.0025
    assert difference.harmed == (SliceLoss(name="c", items=20, gained=0, lost=20),)
    assert difference.harmed[0].value == -1.0


def test_slices_that_may_have_lost_by_chance_are_not_harmed() -> None:
    labels = [0] * 100 + [1] * 100 + [2] * 5
    candidate = [*[1] * 6, *[0] * 94, *[1] * 100, *[2] * 3, *[0] * 2]
    _, difference = judge("top1", scores(labels), labels).compare(scores(candidate))
    assert difference.worst_slice == "a"
    assert difference.harmed == ()


def test_nan_is_a_lost_answer() -> None:
    judged = judge("top1", scores([0, 1]), [0, 1])
    broken = scores([0, 1])
    broken[0][1] = np.nan
    _, difference = judged.compare(broken)
    assert (difference.gained, difference.lost, difference.changed) == (0, 1, 1)


def test_outputs_that_are_no_scores_agree_within_the_tolerance() -> None:
    original = [np.ones((2, 3, 3), np.float32)]
    judged = judge("agreement", original, None)
    assert judged.same_answers([original[0] * np.float32(1.01)])
    far = original[0].copy()
    far[1] *= 2
    assert judged.compare([far])[1].lost == 1


def test_top1_needs_labels() -> None:
    with pytest.raises(UsageError, match="needs labels"):
        judge("top1", scores([0, 1]), None).compare(scores([0, 1]))
