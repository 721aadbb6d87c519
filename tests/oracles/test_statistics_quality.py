"""The exact test and bounds against enumeration of every outcome.

The oracle shares nothing with the code under test but the grid on which the rate of changed
answers is varied: scores come from bisection of the likelihood's slope, the confined rate from
`scipy.stats.binomtest`, and probabilities from a sum over all (gained, lost).
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special, stats

from joulewise.core.statistics import (
    NUISANCE_ERROR,
    NUISANCE_POINTS,
    fewest_items,
    is_inferior,
    items_needed,
    lower_bound,
    noninferiority_p_value,
    smallest_margin,
    upper_bound,
)

Floats = NDArray[np.float64]
Outcomes = tuple[Floats, Floats]


def all_outcomes(items: int) -> Outcomes:
    gained, lost = np.mgrid[0 : items + 1, 0 : items + 1]
    possible = gained + lost <= items
    return gained[possible].astype(float), lost[possible].astype(float)


def probabilities(outcomes: Outcomes, items: int, gain_rate: float, loss_rate: float) -> Floats:
    gained, lost = outcomes
    same = items - gained - lost
    ways = special.gammaln(items + 1) - sum(special.gammaln(x + 1) for x in (gained, lost, same))
    rest = max(0.0, 1.0 - gain_rate - loss_rate)
    logs = ways + sum(
        special.xlogy(count, rate)
        for count, rate in ((gained, max(0.0, gain_rate)), (lost, loss_rate), (same, rest))
    )
    return np.asarray(np.exp(logs))


def oracle_scores(outcomes: Outcomes, items: int, margin: float) -> Floats:
    gained, lost = outcomes
    same = items - gained - lost
    low, high = np.full_like(lost, margin), np.full_like(lost, (1.0 + margin) / 2.0)
    for _ in range(70):
        middle = (low + high) / 2.0
        slope = gained * (middle * (1 - 2 * middle + margin)) + (middle - margin) * (
            lost * (1 - 2 * middle + margin) - 2 * same * middle
        )
        low, high = np.where(slope > 0, middle, low), np.where(slope > 0, high, middle)
    deviation = np.sqrt(items * (2.0 * low - margin * (1.0 + margin)))
    return np.asarray((gained - lost + items * margin) / deviation)


def oracle_p_value(gained: int, lost: int, items: int, margin: float) -> float:
    outcomes = all_outcomes(items)
    scores = oracle_scores(outcomes, items, margin)
    here = (outcomes[0] == gained) & (outcomes[1] == lost)
    as_good = scores >= scores[here] - 1e-9
    confined = stats.binomtest(gained + lost, items).proportion_ci(1 - NUISANCE_ERROR, "exact")
    worst = max(
        probabilities(outcomes, items, (rate - margin) / 2, (rate + margin) / 2)[as_good].sum()
        for rate in np.linspace(
            max(confined.low, margin), max(confined.high, margin), NUISANCE_POINTS
        )
    )
    return min(1.0, float(worst) + NUISANCE_ERROR)


@cache
def fewest_gains(items: int, margin: float, confidence: float, most_changed: int) -> Floats:
    """Fewest gains that certify `margin`, for 0, 1, ... changed answers (one more if none does)."""
    needed, gains = [], 0
    for changed in range(most_changed + 1):
        gains = max(gains - 1, 0)
        while gains <= changed:
            p_value = noninferiority_p_value(gains, changed - gains, items, margin)
            if p_value <= 1.0 - confidence:
                break
            gains += 1
        needed.append(gains)
    return np.array(needed, dtype=float)


def certification_rate(
    items: int, margin: float, confidence: float, most_changed: int, truth: tuple[float, float]
) -> float:
    """Exact probability of a certificate, for a true (difference, rate of changed answers).

    More than `most_changed` changes count as certified.
    """
    difference, rate = truth
    changed = np.arange(most_changed + 1)
    needed = fewest_gains(items, margin, confidence, most_changed)
    enough = stats.binom.sf(needed - 1, changed, (rate + difference) / (2 * rate))
    return float(
        np.sum(stats.binom.pmf(changed, items, rate) * enough)
        + stats.binom.sf(most_changed, items, rate)
    )


@pytest.mark.parametrize(("items", "margin"), [(10, 0.2), (30, 0.05), (60, 0.02), (60, 0.1)])
def test_p_value_equals_full_enumeration(items: int, margin: float) -> None:
    random = np.random.default_rng(items)
    for _ in range(12):
        changed = int(random.integers(0, items // 2))
        gained = int(random.integers(0, changed + 1))
        found = noninferiority_p_value(gained, changed - gained, items, margin)
        expected = oracle_p_value(gained, changed - gained, items, margin)
        assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (20, 0), (0, 20), (10, 10)])
def test_p_value_equals_full_enumeration_at_the_corners(gained: int, lost: int) -> None:
    expected = oracle_p_value(gained, lost, 20, 0.1)
    assert noninferiority_p_value(gained, lost, 20, 0.1) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("items", "margin", "confidence", "most_changed"),
    [
        (40, 0.05, 0.95, 40),
        (40, 0.1, 0.9, 40),
        (100, 0.05, 0.99, 50),
        (300, 0.02, 0.95, 60),
        (600, 0.01, 0.95, 45),
        (600, 0.005, 0.95, 35),
    ],
)
@pytest.mark.parametrize("excess", [1.0, 1.2])
def test_a_candidate_that_is_worse_by_the_margin_is_certified_no_oftener_than_stated(
    items: int, margin: float, confidence: float, most_changed: int, excess: float
) -> None:
    loss = excess * margin
    likely = [r for r in np.linspace(0, 1, 1001) if stats.binom.sf(most_changed, items, r) < 1e-6]
    rates = np.concatenate([np.linspace(loss, likely[-1], 500), loss + np.geomspace(1e-7, 0.01)])
    worst = max(
        certification_rate(items, margin, confidence, most_changed, (-loss, rate)) for rate in rates
    )
    assert worst <= 1.0 - confidence


SMALL = 6


@cache
def small_bounds(confidence: float) -> dict[tuple[int, int], float]:
    gained, lost = all_outcomes(SMALL)
    return {
        (int(g), int(b)): lower_bound(int(g), int(b), SMALL, confidence)
        for g, b in zip(gained, lost, strict=True)
    }


def coverage_gap(bounds: Floats, difference: float) -> float:
    """Largest probability, over the rate of changes, that the lower bounds lie above the truth."""
    outcomes = all_outcomes(SMALL)
    wrong = bounds > difference
    return max(
        float(
            probabilities(outcomes, SMALL, (rate + difference) / 2, (rate - difference) / 2)[
                wrong
            ].sum()
        )
        for rate in np.linspace(max(abs(difference), 1e-9), 1.0, 40)
    )


def test_lower_bound_lies_above_the_true_difference_no_oftener_than_stated() -> None:
    bounds = np.array(list(small_bounds(0.9).values()))
    truths = np.concatenate([np.linspace(-0.99, 0.5, 60), np.unique(bounds[bounds > -1]) - 1e-9])
    assert max(coverage_gap(bounds, truth) for truth in truths) <= 0.1 + 1e-9


def test_upper_bound_is_the_lower_bound_of_the_swapped_programs() -> None:
    assert upper_bound(1, 3, SMALL, 0.9) == -small_bounds(0.9)[3, 1]


def test_bound_of_a_program_that_loses_every_item_is_minus_one() -> None:
    assert small_bounds(0.9)[0, SMALL] == -1.0


def test_more_losses_never_raise_the_bound() -> None:
    bounds = small_bounds(0.9)
    assert all(
        bounds[gained, lost + 1] <= bound + 1e-6
        for (gained, lost), bound in bounds.items()
        if gained + lost < SMALL
    )


def test_more_losses_never_raise_the_bound_among_many_items() -> None:
    bounds = [lower_bound(3, lost, 500, 0.95) for lost in range(0, 16, 3)]
    assert bounds == sorted(bounds, reverse=True)


def test_bounds_enclose_the_estimate() -> None:
    assert lower_bound(4, 9, 400, 0.95) < -5 / 400 < upper_bound(4, 9, 400, 0.95)


def test_bound_is_certified_outside_and_not_inside() -> None:
    bound = lower_bound(5, 8, 700, 0.95)
    outside, inside = (noninferiority_p_value(5, 8, 700, -bound + step) for step in (0.0, -2e-6))
    assert outside <= 0.05 < inside


@pytest.mark.parametrize(("gained", "lost"), [(7, 9), (6, 12)])
def test_every_margin_beyond_the_bound_is_certified_though_the_p_value_has_bumps(
    gained: int, lost: int
) -> None:
    bound = lower_bound(gained, lost, 25, 0.95)
    beyond = np.linspace(-bound, 0.1 - bound, 300)
    assert max(noninferiority_p_value(gained, lost, 25, m) for m in beyond) <= 0.05


def test_a_bound_on_a_better_candidate_says_no_more_than_not_worse() -> None:
    assert lower_bound(50, 0, 100, 0.95) == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (4, 9), (12, 3)])
def test_p_value_falls_as_the_margin_grows(gained: int, lost: int) -> None:
    values = [noninferiority_p_value(gained, lost, 400, m) for m in np.linspace(0.005, 0.1, 20)]
    assert np.all(np.diff(values) <= 1e-9)


def test_higher_confidence_lowers_the_bound() -> None:
    assert lower_bound(3, 5, 300, 0.99) < lower_bound(3, 5, 300, 0.9)


@pytest.mark.parametrize(("items", "confidence"), [(50, 0.95), (400, 0.95), (900, 0.95), (50, 0.9)])
def test_without_any_change_the_margin_follows_the_closed_form(
    items: int, confidence: float
) -> None:
    left = (1.0 - smallest_margin(items, confidence)) ** items
    assert left == pytest.approx(1.0 - confidence - NUISANCE_ERROR, rel=2e-3)


def test_without_any_change_the_margin_is_never_below_the_closed_form() -> None:
    assert (1.0 - smallest_margin(2000, 0.99)) ** 2000 <= 0.01 - NUISANCE_ERROR


@pytest.mark.parametrize(("changed", "items"), [(40, 2000), (150, 1500)])
def test_smallest_margin_with_changes_is_about_the_bound_of_as_many_gains_as_losses(
    changed: int, items: int
) -> None:
    bound = lower_bound(changed // 2, changed // 2, items, 0.95)
    assert smallest_margin(items, 0.95, changed / items) == pytest.approx(-bound, rel=0.08)


def test_smallest_margin_is_the_bound_without_any_change() -> None:
    assert smallest_margin(250, 0.95) == -lower_bound(0, 0, 250, 0.95)


@pytest.mark.parametrize(("margin", "confidence"), [(0.02, 0.95), (0.005, 0.99)])
def test_fewest_items_certify_the_margin_and_one_less_does_not(
    margin: float, confidence: float
) -> None:
    items = fewest_items(margin, confidence)
    p_values = [noninferiority_p_value(0, 0, n, margin) for n in (items, items - 1)]
    assert p_values[0] <= 1.0 - confidence < p_values[1]


@pytest.mark.parametrize(
    ("gained", "lost", "items"), [(-1, 0, 10), (0, -1, 10), (6, 5, 10), (0, 0, 0)]
)
def test_impossible_counts_are_refused(gained: int, lost: int, items: int) -> None:
    with pytest.raises(ValueError, match="impossible counts"):
        lower_bound(gained, lost, items, 0.95)


@pytest.mark.parametrize(
    ("margin", "difference", "changed_ratio", "most_changed"),
    [(0.02, 0.0, 0.03, 40), (0.03, -0.01, 0.05, 60), (0.03, 0.005, 0.06, 50)],
)
def test_items_needed_give_the_power_that_they_promise(
    margin: float, difference: float, changed_ratio: float, most_changed: int
) -> None:
    items = items_needed(margin, difference, changed_ratio, 0.95)
    power = certification_rate(items, margin, 0.95, most_changed, (difference, changed_ratio))
    assert power == pytest.approx(0.8, abs=0.05)


def test_items_needed_never_fall_below_what_no_change_needs() -> None:
    assert items_needed(0.01, 0.0, 0.0, 0.95) == math.ceil(math.log(0.05) / math.log(0.99))


def test_no_number_of_items_certifies_a_candidate_that_is_worse_by_the_margin() -> None:
    with pytest.raises(ValueError, match="never certified"):
        items_needed(0.01, -0.01, 0.05, 0.95)


@pytest.mark.parametrize("changed_rate", [0.02, 0.1, 0.4, 0.9])
def test_a_loss_of_just_the_margin_is_seldom_called_inferior(changed_rate: float) -> None:
    """The probability is summed over all outcomes of 512 items."""
    items, margin = 512, 0.01
    error = 0.0
    for changed in range(items + 1):
        weight = stats.binom.pmf(changed, items, changed_rate)
        if weight > 1e-9:
            gains = np.arange(changed + 1)
            share = (changed_rate - margin) / (2 * changed_rate)
            called = [is_inferior(g, changed - g, items, margin, 0.95) for g in gains.tolist()]
            error += weight * float(np.sum(stats.binom.pmf(gains, changed, share)[called]))
    assert 0.02 < error < 0.07


def test_what_is_broken_is_called_inferior_at_once() -> None:
    assert is_inferior(10, 90, 512, 0.05, 0.95)
    assert not is_inferior(10, 12, 512, 0.05, 0.95)
    assert not is_inferior(90, 10, 512, 0.05, 0.95)
