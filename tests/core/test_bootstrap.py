"""Bounds of a mean are known in closed form; of other statistics, how often they hold is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from joulewise.core.bootstrap import Bounds, Statistic, bootstrap
from joulewise.workload.measures import likelihood, macro_f1

Floats = NDArray[np.float64]


def mean_of(values: Floats) -> Statistic:
    return lambda weights: np.asarray(weights @ values / weights.sum(axis=1))


@pytest.mark.parametrize("items", [30, 500])
def test_bounds_of_a_mean_are_those_of_students_t(items: int) -> None:
    values = np.random.default_rng(items).normal(0.3, 2.0, items)
    found = bootstrap(mean_of(values), items, 0.95)
    error = values.std(ddof=1) / np.sqrt(items)
    exact = stats.t.interval(0.9, items - 1, loc=values.mean(), scale=error)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(error, rel=0.05)
    half = exact[1] - values.mean()
    assert found.lower == pytest.approx(exact[0], abs=0.12 * half)
    assert found.upper == pytest.approx(exact[1], abs=0.12 * half)


def test_bounds_follow_the_statistic_when_it_is_transformed() -> None:
    values = np.random.default_rng(3).exponential(1.0, 400)
    mean = mean_of(values)
    plain = bootstrap(mean, 400, 0.95)
    curved = bootstrap(lambda weights: np.log(mean(weights)), 400, 0.95)
    assert curved.lower == pytest.approx(np.log(plain.lower), abs=0.01)
    assert curved.upper == pytest.approx(np.log(plain.upper), abs=0.01)


def test_a_skewed_mean_reaches_further_to_the_side_of_the_tail() -> None:
    """An exponential's mean of 40 lies below its upper bound as 2 n times it is chi-squared."""
    values = -np.log(1 - (np.arange(40) + 0.5) / 40)  # its quantiles
    found = bootstrap(mean_of(values), 40, 0.95)
    exact = 80 * values.mean() / stats.chi2.ppf([0.95, 0.05], 80)
    assert found.upper - found.value > 1.2 * (found.value - found.lower)
    assert found.lower == pytest.approx(exact[0], abs=0.05)
    assert found.upper == pytest.approx(exact[1], abs=0.08)


def test_what_no_draw_moves_has_no_width() -> None:
    found = bootstrap(lambda weights: np.zeros(len(weights)), 50, 0.95)
    assert found == Bounds(value=0.0, lower=0.0, upper=0.0, error=0.0)


def test_the_same_items_give_the_same_bounds() -> None:
    values = np.random.default_rng(1).normal(size=60)
    assert bootstrap(mean_of(values), 60, 0.95) == bootstrap(mean_of(values), 60, 0.95)
    assert bootstrap(mean_of(values), 60, 0.95, seed=1) != bootstrap(mean_of(values), 60, 0.95)


def test_more_confidence_is_wider() -> None:
    values = np.random.default_rng(1).normal(size=60)
    narrow, wide = (bootstrap(mean_of(values), 60, level) for level in (0.9, 0.99))
    assert wide.lower < narrow.lower < narrow.value < narrow.upper < wide.upper


def test_one_cluster_tells_nothing() -> None:
    with pytest.raises(ValueError, match="two or more"):
        bootstrap(mean_of(np.ones(1)), 1, 0.95)


def covered(
    make: Callable[[np.random.Generator, int], Statistic], items: int, times: int
) -> tuple[float, float]:
    """Return how often the true value lies above the lower, and below the upper bound."""
    random = np.random.default_rng(0)
    whole = np.ones((1, 50_000))
    truth = float(np.mean([make(random, 50_000)(whole)[0] for _ in range(40)]))
    found = [bootstrap(make(random, items), items, 0.95) for _ in range(times)]
    return (
        float(np.mean([each.lower <= truth for each in found])),
        float(np.mean([each.upper >= truth for each in found])),
    )


def difference_of_f1(random: np.random.Generator, items: int) -> Statistic:
    """Four classes of uneven size; the candidate errs where the original does, and elsewhere."""
    labels = random.choice(4, p=[0.55, 0.25, 0.12, 0.08], size=items)
    noise = random.integers(4, size=(2, items))
    original = np.where(random.random(items) < 0.15, noise[0], labels)
    candidate = np.where(random.random(items) < 0.1, noise[1], original)
    ours, theirs = macro_f1(candidate, labels), macro_f1(original, labels)
    return lambda weights: ours(weights) - theirs(weights)


def difference_of_losses(random: np.random.Generator, items: int) -> Statistic:
    """Documents of uneven length, whose tokens share what the candidate adds to their losses."""
    tokens = random.integers(5, 60, size=items)
    losses = tokens * random.gamma(4, 0.7, size=items)
    added = tokens * random.normal(0.02, 0.1, size=items)
    ours, theirs = likelihood(losses + added, tokens), likelihood(losses, tokens)
    return lambda weights: ours(weights) - theirs(weights)


@pytest.mark.slow
@pytest.mark.parametrize("make", [difference_of_f1, difference_of_losses])
def test_bounds_hold_as_often_as_they_say(
    make: Callable[[np.random.Generator, int], Statistic],
) -> None:
    """The lower bound, which proves, in 94 %; the upper, which only ends a trial early, in 93 %.

    Known to 0.9 %. The rarest class has 24 of the 300 items, so F1 is known least well there.
    """
    lower, upper = covered(make, 300, 600)
    assert lower >= 0.94
    assert upper >= 0.93
    assert lower + upper - 1 <= 0.92
