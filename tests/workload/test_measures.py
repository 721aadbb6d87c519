"""Metrics of all answers together, against figures by hand and slow definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from joulewise.core.bootstrap import Statistic
from joulewise.workload.distributions import Likeness, likeness, token_losses
from joulewise.workload.measures import (
    likelihood,
    macro_f1,
    mean_average_precision,
    rank_correlation,
)

Array = npt.NDArray[Any]


def once(statistic: Statistic, items: int) -> float:
    return float(statistic(np.ones((1, items)))[0])


def test_f1_by_hand() -> None:
    """Class 0: one hit of two answers and two labels; class 1: two of three and three."""
    found = macro_f1(np.array([0, 1, 1, 1, 0]), np.array([0, 0, 1, 1, 1]))
    assert once(found, 5) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_classes_without_labels_do_not_count_and_no_answer_is_wrong() -> None:
    found = macro_f1(np.array([0, 7, -1, 3]), np.array([0, 0, 3, 3]))
    assert once(found, 4) == pytest.approx((2 / 3 + 2 / 3) / 2)


def test_rank_correlation_by_the_manual_of_scipy() -> None:
    """``spearmanr([1, 2, 3, 4, 5], [5, 6, 7, 8, 7])`` is 0.82078 there."""
    found = rank_correlation(np.array([5.0, 6, 7, 8, 7]), np.arange(5.0))
    assert once(found, 5) == pytest.approx(0.8207826816681233)


def test_rank_correlation_does_not_see_a_rising_curve() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert once(rank_correlation(np.exp(3 * values), values), 50) == pytest.approx(1.0)
    assert once(rank_correlation(-values, values), 50) == pytest.approx(-1.0)


def test_equal_values_have_no_rank_and_nan_ranks_lowest() -> None:
    assert once(rank_correlation(np.ones(4), np.arange(4.0)), 4) == 0.0
    assert once(rank_correlation(np.array([1, np.nan, 3, 4]), np.array([2.0, 1, 3, 4])), 4) == 1.0


def test_average_precision_by_the_manual_of_scikit_learn() -> None:
    """``average_precision_score([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])`` is 0.83 there."""
    scores = np.array([[0.1], [0.4], [0.35], [0.8]])
    found = mean_average_precision(scores, np.array([[0], [0], [1], [1]]))
    assert once(found, 4) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_of_equal_scores_is_the_share_of_the_class() -> None:
    labels = np.array([[1, 0], [0, 0], [0, 0], [1, 0]])
    assert once(mean_average_precision(np.zeros((4, 2)), labels), 4) == pytest.approx(0.5)


def test_perplexity_of_even_scores_is_their_number() -> None:
    labels = np.array([[3, 1, -100], [0, -100, -100]])
    losses, tokens = token_losses(np.zeros((2, 3, 20), np.float32), labels)
    assert tokens.tolist() == [2, 1]
    assert math.exp(-once(likelihood(losses, tokens), 2)) == pytest.approx(20)


def test_every_token_counts_alike_in_perplexity() -> None:
    """One token of probability 1/2, three of 1/4: the mean loss is 7/4 of log 2."""
    probabilities = np.full((2, 3, 4), 0.25)
    probabilities[0, 0] = [0.5, 0.5, 0, 0]
    labels = np.array([[0, -100, -100], [0, 1, 2]])
    found = likelihood(*token_losses(probabilities, labels))
    assert math.exp(-once(found, 2)) == pytest.approx(2**1.75)


def test_scores_and_their_probabilities_lose_alike() -> None:
    scores = np.random.default_rng(1).normal(0, 4, (3, 5, 7))
    labels = np.random.default_rng(2).integers(7, size=(3, 5))
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    losses = [token_losses(x, labels)[0] for x in (scores, scores + 100, probabilities)]
    np.testing.assert_allclose(losses[1], losses[0])
    np.testing.assert_allclose(losses[2], losses[0])


@pytest.mark.parametrize("broken", [np.nan, -np.inf])
def test_a_token_that_cannot_come_costs_much_and_not_all(broken: float) -> None:
    scores = np.zeros((1, 1, 2), np.float32)
    scores[0, 0, 0] = broken
    assert token_losses(scores, np.array([[0]]))[0] == pytest.approx(87.3, abs=0.1)


def test_divergence_by_hand() -> None:
    """From (1/2, 1/2) to (1/4, 3/4): half of log 2 and half of log 2/3."""
    theirs, ours = np.array([[0.5, 0.5]]), np.array([[0.25, 0.75]])
    found = likeness(ours, theirs)
    assert found is not None
    assert found.divergence_nats == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    scores = likeness(np.log(ours) + 9, np.log(theirs) - 9)
    assert scores is not None
    assert scores.divergence_nats == pytest.approx(found.divergence_nats)


def test_the_same_distributions_are_alike() -> None:
    scores = np.random.default_rng(0).normal(size=(9, 4, 5))
    assert likeness(scores, scores) == Likeness(divergence_nats=0.0, agreement_ratio=1.0)


def test_places_without_a_token_are_not_compared() -> None:
    theirs, labels = np.eye(3)[None] * 5, np.array([[0, -100, 1]])
    ours = theirs.copy()
    ours[0, 1] = [9, 0, 0]
    assert likeness(ours, theirs, labels) == Likeness(divergence_nats=0.0, agreement_ratio=1.0)
    ours[0, 2] = [9, 0, 0]
    found = likeness(ours, theirs, labels)
    assert found is not None
    assert found.agreement_ratio == 0.5
    assert likeness(ours, theirs, np.full((1, 3), -100)) is None


def test_independent_probabilities_are_no_distribution() -> None:
    theirs = np.array([[0.9, 0.8], [0.1, 0.2]])
    assert likeness(1 - theirs, theirs) == Likeness(divergence_nats=None, agreement_ratio=0.0)


def slow_average_precision(scores: Array, positive: Array) -> float:
    """Return the mean, over positive items, of the precision among those scored as high."""
    found = [
        positive[scores >= score].mean()
        for score, is_one in zip(scores, positive, strict=True)
        if is_one
    ]
    return float(np.mean(found))


def slow_f1(chosen: Array, labels: Array) -> float:
    found = []
    for each in np.unique(labels):
        hits = np.sum((chosen == each) & (labels == each))
        found.append(2 * hits / (np.sum(chosen == each) + np.sum(labels == each)))
    return float(np.mean(found))


items = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30
)  # what is answered, the label, how often the item counts


@settings(deadline=None, max_examples=60)
@given(items)
def test_counts_are_repetitions(rows: list[tuple[int, int, int]]) -> None:
    answered, wanted, counts = np.array(rows).T
    if not counts.any():
        counts = counts + 1
    again = np.repeat(np.arange(len(rows)), counts)
    weights, values = counts[None].astype(float), answered.astype(float)
    assert macro_f1(answered, wanted)(weights)[0] == pytest.approx(
        slow_f1(answered[again], wanted[again])
    )
    found = rank_correlation(values, wanted.astype(float))(weights)[0]
    if len(set(answered[again])) > 1 and len(set(wanted[again])) > 1:
        assert found == pytest.approx(stats.spearmanr(answered[again], wanted[again]).statistic)
    else:
        assert found == 0.0
    labels = np.column_stack([wanted > 1, wanted == 0]).astype(np.int64)
    scores = np.column_stack([values, -values])
    each = [
        slow_average_precision(scores[again, k], labels[again, k])
        for k in range(2)
        if labels[again, k].any()
    ]
    precision = mean_average_precision(scores, labels)(weights)[0]
    assert precision == pytest.approx(np.mean(each) if each else 0.0)
