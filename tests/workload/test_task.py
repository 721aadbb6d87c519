from __future__ import annotations

import numpy as np
import pytest

from joulewise.core.errors import InputError, UsageError
from joulewise.workload.task import (
    Task,
    answers,
    choose_task,
    score_agreement,
    score_top1,
    worst_slice,
)

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]], np.float32)
LABELS = np.array([1, 1, 1])
VECTORS = np.array([[[3.0, 4.0]], [[0.0, 0.0]]], np.float32)


def test_top1_where_there_are_labels_and_scores() -> None:
    assert choose_task([SCORES], labels=LABELS) == Task(metric="top1")


def test_agreement_without_labels() -> None:
    assert choose_task([SCORES]) == Task(metric="agreement")


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2)])
def test_values_without_a_score_per_class(shape: tuple[int, ...]) -> None:
    assert choose_task([np.zeros(shape, np.float32)], labels=LABELS) == Task(metric="values")


def test_answers_are_the_classes_with_the_highest_score() -> None:
    np.testing.assert_array_equal(answers([SCORES], 3), [1, 0, 1])


def test_nan_is_no_answer() -> None:
    scores = np.array([[np.nan, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(answers([scores], 2), [-1, 1])


def test_top1_is_right_where_the_answer_is_the_label() -> None:
    np.testing.assert_array_equal(score_top1([SCORES], LABELS), [True, False, True])


def test_top1_refuses_outputs_without_classes() -> None:
    with pytest.raises(InputError, match=r"not \[n, classes\]"):
        score_top1([SCORES[:, :1]], LABELS)


def test_classifiers_agree_where_the_class_is_the_same() -> None:
    other = SCORES * 3 - 1
    other[2] = [1, 0]
    np.testing.assert_array_equal(score_agreement([other], [SCORES]), [True, True, False])


def test_nan_of_both_classifiers_is_no_agreement() -> None:
    scores = np.full((1, 2), np.nan)
    np.testing.assert_array_equal(score_agreement([scores], [scores]), [False])


def test_vectors_agree_within_the_tolerance() -> None:
    other = VECTORS + np.array([[[0.0, 0.2]], [[0.0, 0.0]]], np.float32)
    np.testing.assert_array_equal(score_agreement([other], [VECTORS]), [True, True])


def test_vectors_beyond_the_tolerance_disagree() -> None:
    other = VECTORS + np.array([[[0.0, 0.3]], [[0.0, 0.1]]], np.float32)
    np.testing.assert_array_equal(score_agreement([other], [VECTORS]), [False, False])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_disagree(value: float) -> None:
    np.testing.assert_array_equal(
        score_agreement([np.full_like(VECTORS, value)], [VECTORS]), [False, False]
    )


def test_infinities_agree_with_themselves() -> None:
    infinite = np.full_like(VECTORS, -np.inf)
    np.testing.assert_array_equal(score_agreement([infinite], [infinite]), [True, True])


def test_integers_agree_only_exactly() -> None:
    ours, original = np.array([100, 101]), np.array([100, 100])
    np.testing.assert_array_equal(score_agreement([ours], [original]), [True, False])


def test_every_output_must_agree() -> None:
    other = VECTORS.copy()
    other[1] = 1
    np.testing.assert_array_equal(
        score_agreement([VECTORS, other], [VECTORS, VECTORS]), [True, False]
    )


def test_outputs_of_another_shape_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        score_agreement([VECTORS[:, :, :1]], [VECTORS])


def test_outputs_of_another_number_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="cannot be compared"):
        score_agreement([VECTORS, VECTORS], [VECTORS])


def test_changed_is_the_opposite_of_agreement() -> None:
    marks = Task(metric="agreement").mark([1 - SCORES], [SCORES])
    np.testing.assert_array_equal(marks.changed, [True, True, True])


@pytest.mark.parametrize("output", [np.zeros((5, 2), np.float32), np.array(1.0)])
def test_first_axis_must_be_items(output: np.ndarray) -> None:
    with pytest.raises(InputError, match="first axis must be the items"):
        answers([output], 3)


def test_outputs_must_exist() -> None:
    with pytest.raises(InputError, match="no outputs"):
        answers([], 3)


def test_agreement_needs_an_item_axis() -> None:
    with pytest.raises(InputError, match="no item axis"):
        score_agreement([np.array(1.0)], [np.array(1.0)])


def test_task_scores_labels() -> None:
    marks = Task(metric="top1").mark([SCORES], [1 - SCORES], labels=LABELS)
    np.testing.assert_array_equal(marks.ours, [True, False, True])
    np.testing.assert_array_equal(marks.theirs, [False, True, False])


def test_task_scores_agreement() -> None:
    marks = Task(metric="agreement").mark([SCORES], [SCORES], labels=LABELS)
    assert marks.ours.all()
    assert not marks.changed.any()


def test_top1_needs_labels() -> None:
    with pytest.raises(UsageError, match="top1 needs labels"):
        Task(metric="top1").mark([SCORES], [SCORES])


def test_worst_slice_is_the_class_that_loses_most() -> None:
    labels = np.repeat([0, 1, 2], 20)
    baseline, candidate = np.ones(60, bool), np.ones(60, bool)
    candidate[[0, 20, 21]] = False
    assert worst_slice(baseline, candidate, labels, ("a", "b", "c")) == ("b", -0.1)


def test_classes_without_names_are_numbered() -> None:
    labels = np.full(20, 3)
    scores = np.ones(20, bool)
    assert worst_slice(scores, scores, labels, ()) == ("3", 0.0)


def test_small_classes_are_left_out() -> None:
    labels = np.repeat([0, 1], [20, 19])
    baseline, candidate = np.ones(39, bool), np.repeat([True, False], [20, 19])
    assert worst_slice(baseline, candidate, labels, ("a", "b")) == ("a", 0.0)


def test_no_slice_where_all_classes_are_small() -> None:
    scores = np.ones(19, bool)
    assert worst_slice(scores, scores, np.zeros(19, np.int64), ("a",)) is None
