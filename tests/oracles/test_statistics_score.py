"""The score statistic against numerical maximisation of the constrained likelihood."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special

from joulewise.core.statistics import score


def oracle_score(gained: int, lost: int, items: int, difference: float) -> float:
    """Score of a difference; the rate of losses maximises the trinomial likelihood under it."""
    same = items - gained - lost

    def surprise(lost_rate: float) -> float:
        rates = np.maximum([lost_rate + difference, lost_rate, 1 - 2 * lost_rate - difference], 0.0)
        return -float(np.sum(special.xlogy([gained, lost, same], rates)))

    low, high = max(0.0, -difference), (1.0 - difference) / 2.0
    found = optimize.minimize_scalar(
        surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
    ).x
    lost_rate = min((low, float(found), high), key=surprise)
    variance = items * (2.0 * lost_rate + difference * (1.0 - difference))
    return (gained - lost - items * difference) / math.sqrt(variance)


@pytest.mark.parametrize("difference", [-0.3, -0.05, -0.005, 0.005, 0.2])
@pytest.mark.parametrize("items", [7, 60, 1000])
def test_score_is_taken_at_the_constrained_maximum_of_the_likelihood(
    items: int, difference: float
) -> None:
    random = np.random.default_rng(items)
    for _ in range(25):
        changed = int(random.integers(0, items + 1))
        gained = int(random.integers(0, changed + 1))
        expected = oracle_score(gained, changed - gained, items, difference)
        found = float(score(gained, changed - gained, items, difference))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (0, 5), (40, 0), (0, 40), (20, 20)])
def test_score_is_right_at_the_corners(gained: int, lost: int) -> None:
    expected = oracle_score(gained, lost, 40, -0.02)
    assert float(score(gained, lost, 40, -0.02)) == pytest.approx(expected, rel=1e-6)


def test_score_without_difference_is_that_of_mcnemar() -> None:
    assert float(score(12, 5, 100, 0.0)) == pytest.approx(7 / math.sqrt(17))


def test_score_of_nothing_changed_and_no_difference_is_zero() -> None:
    assert float(score(0, 0, 100, 0.0)) == 0.0


def test_score_changes_sign_when_the_programs_change_places() -> None:
    assert float(score(9, 4, 80, -0.03)) == pytest.approx(-float(score(4, 9, 80, 0.03)))


def test_score_grows_with_the_gains_among_as_many_changes() -> None:
    gains = np.arange(31, dtype=float)
    assert np.all(np.diff(score(gains, 30 - gains, 90, -0.02)) > 0)
