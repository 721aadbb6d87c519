"""How often a good candidate is certified: simulation against a closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from joulewise.core.statistics import fewest_items, items_needed
from tests.simulation.paired import CONFIDENCE, Test, Truth

RUNS = 2000
MARGIN = 0.02
APPROXIMATION = 0.035
"""By how much the normal approximation may be wrong with so many items."""


def closed_form(truth: Truth, items: int) -> float:
    """Return the power of the score test in the limit of many items.

    Source: Nam 1997, Biometrics 53, 1422-1430: the standard error of the test is that at the
    maximum of the likelihood where the loss is the margin, and the estimate varies as the truth
    has it.
    """
    lost = (truth.changes - truth.difference) / 2
    b = -truth.changes - MARGIN * (2 - truth.difference)
    c = lost * MARGIN * (1 + MARGIN)
    lost_at_margin = (math.sqrt(b * b - 8 * c) - b) / 4
    tested = math.sqrt(2 * lost_at_margin - MARGIN * (1 + MARGIN))
    true = math.sqrt(truth.changes - truth.difference**2)
    room = math.sqrt(items) * (truth.difference + MARGIN)
    return float(stats.norm.cdf((room - stats.norm.ppf(CONFIDENCE) * tested) / true))


def simulated(truth: Truth, test: Test, seed: int) -> float:
    counts = truth.draw(np.random.default_rng(seed), test.items, RUNS)
    return float(np.mean(test.certified(*counts)))


def chance_error(share: float) -> float:
    """Return how far RUNS may lie from a share; exceeded once in a thousand times."""
    return float(stats.norm.ppf(0.9995)) * math.sqrt(max(share * (1 - share), 1e-3) / RUNS)


@pytest.mark.parametrize("changes", [0.03, 0.08])
def test_power_over_the_true_difference_is_that_of_the_closed_form(changes: float) -> None:
    test = Test(items=1500, margin=MARGIN)
    curve = [Truth(difference=d, changes=changes) for d in np.linspace(-MARGIN, 0.01, 9)]
    found = [simulated(truth, test, seed) for seed, truth in enumerate(curve)]
    for truth, power in zip(curve, found, strict=True):
        expected = closed_form(truth, test.items)
        assert power == pytest.approx(expected, abs=APPROXIMATION + chance_error(expected))
    assert all(later >= power - chance_error(power) for power, later in pairwise(found))
    assert found[0] < 0.07
    assert found[-1] > 0.95


@pytest.mark.parametrize("difference", [0.0, -0.005])
def test_power_over_the_items_is_that_of_the_closed_form(difference: float) -> None:
    truth = Truth(difference=difference, changes=0.05)
    for items in (500, 1000, 2000):
        expected = closed_form(truth, items)
        power = simulated(truth, Test(items=items, margin=MARGIN), items)
        assert power == pytest.approx(expected, abs=APPROXIMATION + chance_error(expected))


@pytest.mark.parametrize(("difference", "changes"), [(0.0, 0.05), (-0.008, 0.05), (0.005, 0.08)])
def test_the_items_that_are_called_needed_certify_four_times_in_five(
    difference: float, changes: float
) -> None:
    items = items_needed(MARGIN, difference, changes, CONFIDENCE)
    truth = Truth(difference=difference, changes=changes)
    power = simulated(truth, Test(items=items, margin=MARGIN), 5)
    assert power == pytest.approx(0.8, abs=APPROXIMATION + chance_error(0.8))


def test_what_changes_nothing_is_certified_always_or_never() -> None:
    least, same = fewest_items(MARGIN, CONFIDENCE), Truth(difference=0.0, changes=0.0)
    shares = [simulated(same, Test(items=n, margin=MARGIN), 0) for n in (least - 1, least)]
    assert shares == [0.0, 1.0]
