"""Counts against a slow loop over the items."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from joulewise.core.claim import SliceLoss
from joulewise.core.errors import InputError, UsageError
from joulewise.core.statistics import lower_bound, smallest_margin, upper_bound
from joulewise.workload.judge import Judge
from joulewise.workload.task import Metric, Task, choose_task

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


def test_f1_is_of_all_answers_together() -> None:
    """Two of twenty answers of the rarer class are lost: 60 hits of 60 + 62, 18 of 20 + 18."""
    labels = [0] * 60 + [1] * 20
    judged = judge("macro_f1", scores(labels), labels)
    quality, difference = judged.compare(scores([*[0] * 62, *[1] * 18]))
    f1 = (120 / 122 + 36 / 38) / 2
    assert judged.quality_of_original.value == 1.0
    assert quality.value == pytest.approx(f1)
    assert difference.value == pytest.approx(f1 - 1)
    assert (difference.gained, difference.lost, difference.counts) == (None, None, None)
    assert difference.changed == 2
    assert difference.lower < difference.value < difference.upper
    assert difference.worst_slice == "b"


def test_no_changed_answer_proves_no_more_than_the_rarest_class_shows() -> None:
    """Two classes, one of 20 items: as if there were 40, not 520."""
    labels = [0] * 500 + [1] * 20
    judged = judge("macro_f1", scores(labels), labels)
    _, difference = judged.compare(scores(labels))
    assert difference.value == 0.0
    assert difference.lower == -difference.upper == -smallest_margin(40, 0.95)
    assert difference.error == pytest.approx(1 / 40)
    assert judged.same_answers(scores(labels))


def tokens_judge(original: Array, labels: Array) -> Judge:
    return Judge(
        task=Task(metric="perplexity"), original=[original], labels=labels, split_digest="d",
        confidence=0.95,
    )  # fmt: skip


def predictions(random: np.random.Generator, documents: int, tokens: int) -> tuple[Array, Array]:
    """Return scores of a language model of 7 tokens, and the right tokens."""
    return random.normal(size=(documents, tokens, 7)), random.integers(7, size=(documents, tokens))


def raised(probabilities: Array, labels: Array, factor: Array) -> Array:
    """Return probabilities whose right tokens have `factor` times as much, [n, t]."""
    right = np.take_along_axis(probabilities, labels[..., None], -1)[..., 0]
    rest = (1 - factor * right) / (1 - right)
    changed = probabilities * rest[..., None]
    np.put_along_axis(changed, labels[..., None], (factor * right)[..., None], -1)
    return np.asarray(changed)


def test_a_difference_of_perplexity_is_relative() -> None:
    values, labels = predictions(np.random.default_rng(0), 50, 8)
    original = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
    candidate = raised(original, labels, np.full(labels.shape, 0.99))
    judged = tokens_judge(original, labels)
    quality, difference = judged.compare([candidate])
    before, after = (1 / found.value for found in (judged.quality_of_original, quality))
    assert after / before == pytest.approx(1 / 0.99)
    assert difference.value == pytest.approx(math.log(0.99))
    assert difference.divergence_nats is not None
    assert 0 < difference.divergence_nats < 0.001


def test_a_document_is_a_cluster_however_often_its_tokens_are_repeated() -> None:
    random = np.random.default_rng(4)
    values, labels = predictions(random, 400, 2)
    original = np.exp(values) / np.exp(values).sum(axis=-1, keepdims=True)
    candidate = raised(original, labels, random.uniform(0.7, 1.0, labels.shape))
    found = [
        tokens_judge(np.repeat(original, times, 1), np.repeat(labels, times, 1)).compare(
            [np.repeat(candidate, times, 1)]
        )[1]
        for times in (1, 10)
    ]
    assert found[0].value == pytest.approx(found[1].value)
    assert found[0].lower == pytest.approx(found[1].lower)
    assert found[0].error == pytest.approx(found[1].error)


def test_correlation_of_values_and_labels() -> None:
    random = np.random.default_rng(2)
    targets = random.normal(size=300)
    original = (targets + random.normal(0, 0.4, 300))[:, None]
    judged = Judge(
        task=Task(metric="correlation"), original=[original], labels=None, targets=targets,
        split_digest="d", confidence=0.95,
    )  # fmt: skip
    expected = stats.spearmanr(original[:, 0], targets).statistic
    assert judged.quality_of_original.value == pytest.approx(expected)
    _, same = judged.compare([3 * original + 2])
    assert same.value == 0.0
    assert same.changed > 290  # by their values, though no rank has moved
    worse = original + random.normal(0, 1.0, (300, 1))
    quality, difference = judged.compare([worse])
    assert difference.value == pytest.approx(quality.value - expected)
    assert difference.upper < 0


def test_average_precision_of_several_classes() -> None:
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]] * 30)
    right, wrong = labels + 0.0, 1.0 - labels
    judged = Judge(
        task=Task(metric="average_precision"), original=[right], labels=labels, split_digest="d",
        confidence=0.95,
    )  # fmt: skip
    assert judged.quality_of_original.value == 1.0
    quality, difference = judged.compare([wrong])
    assert quality.value == pytest.approx(0.5)  # all stand behind those that are of no class
    assert difference.value == pytest.approx(-0.5)


def test_alike_distributions_of_classes_are_told_whatever_the_metric() -> None:
    judged = judge("top1", scores([0, 1, 2, 2]), [0, 1, 2, 2])
    _, difference = judged.compare(scores([0, 1, 2, 1]))
    assert difference.agreement_ratio == 0.75
    assert difference.divergence_nats == pytest.approx(87.3 / 4, abs=0.1)  # 0 for what was sure


@pytest.mark.parametrize(
    ("metric", "outputs", "says"),
    [
        ("perplexity", np.zeros((4, 3)), r"floats \[n, t, v\]"),
        ("perplexity", np.zeros((4, 2, 3)), "labels go up to 3 for 3 tokens"),
        ("average_precision", np.zeros((4, 3)), r"floats \[n, k\]"),
    ],
)
def test_outputs_that_do_not_fit_the_metric(metric: str, outputs: Array, says: str) -> None:
    labels = np.array([[0, 1], [1, 0], [1, 3], [0, 0]])
    with pytest.raises(InputError, match=says):
        choose_task([outputs], labels=labels, metric=metric)


def test_correlation_needs_one_value_per_item() -> None:
    with pytest.raises(InputError, match="one value and one label"):
        choose_task([np.zeros((4, 2))], targets=np.zeros((4, 2)), metric="correlation")
    with pytest.raises(UsageError, match="needs labels that are values"):
        choose_task([np.zeros((4, 1))], metric="correlation")


def clustered(labels: list[int], original: list[int], clusters: list[int]) -> Judge:
    plain = judge("top1", scores(original), labels)
    return replace(plain, clusters=np.array(clusters))


def test_items_of_one_cluster_count_once_in_the_bounds() -> None:
    """Every item ten times over says no more than the items themselves."""
    random = np.random.default_rng(5)
    labels = random.integers(CLASSES, size=120)
    original = np.where(random.random(120) < 0.2, random.integers(CLASSES, size=120), labels)
    candidate = np.where(random.random(120) < 0.1, random.integers(CLASSES, size=120), original)
    one = clustered(list(labels), list(original), list(range(120)))
    ten = clustered(*(list(np.repeat(values, 10)) for values in (labels, original, np.arange(120))))
    quality, difference = one.compare(scores(list(candidate)))
    again, repeated = ten.compare(scores(list(np.repeat(candidate, 10))))
    assert again.value == pytest.approx(quality.value)
    assert (repeated.items, repeated.clusters, difference.clusters) == (1200, 120, 120)
    for name in ("value", "lower", "upper", "error"):
        assert getattr(repeated, name) == pytest.approx(getattr(difference, name))
    exact = judge("top1", scores(list(original)), list(labels)).compare(scores(list(candidate)))[1]
    assert difference.value == pytest.approx(exact.value)
    assert difference.lower == pytest.approx(exact.lower, abs=0.01)
    assert difference.counts is None


def test_one_cluster_certifies_nothing() -> None:
    labels = [0, 1, 2] * 50
    judged = clustered(labels, labels, [7] * 100 + [8] * 50)
    _, difference = judged.compare(scores(labels[:60]))  # all of cluster 7
    assert difference.clusters == 1
    assert difference.lower == pytest.approx(-0.95, abs=1e-3)
