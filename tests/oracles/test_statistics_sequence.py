"""What the final test promises, when a search has chosen what it tests."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from joulewise.core.claim import Difference
from joulewise.core.statistics import chance_of_confirming, noninferiority_p_value
from joulewise.search.choose import choose
from tests.trials import ONE_THREAD, int8, measured

MARGIN, CONFIDENCE = 0.02, 0.95
SEARCH_ITEMS, HOLD_OUT_ITEMS = 600, 900


def counts(
    random: np.random.Generator, items: int, loss: np.ndarray, changes: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draw gains and losses of candidates that lose `loss` and change the share `changes`."""
    changed = random.binomial(items, changes, size=loss.shape)
    gained = random.binomial(changed, (changes - loss) / (2 * changes))
    return gained, changed - gained


def passes(gained: int, lost: int) -> bool:
    return noninferiority_p_value(gained, lost, HOLD_OUT_ITEMS, MARGIN) <= 1 - CONFIDENCE


@pytest.mark.parametrize("changes", [0.03, 0.1])
def test_the_cheapest_of_many_bad_candidates_is_seldom_certified(changes: float) -> None:
    """Thirty candidates lose the margin exactly; the search takes its pick, and up to two are
    tested in their order. Any claim would be false.
    """
    random, runs, wrong = np.random.default_rng(0), 1000, 0
    ratios = np.linspace(0.3, 0.6, 30)
    for _ in range(runs):
        found = counts(random, SEARCH_ITEMS, np.full(30, MARGIN), changes)
        trials = [
            measured(int8(kind=str(number)), ratio)
            for number, ratio in enumerate(random.permutation(ratios))
        ]
        looked_at = [
            replace(trial, difference=difference(int(gained), int(lost)))
            for trial, gained, lost in zip(trials, *found, strict=True)
            if (gained - lost) / SEARCH_ITEMS > -MARGIN
        ]
        choice = choose(
            [measured(ONE_THREAD, 1.0), *looked_at],
            margin=MARGIN, confidence=CONFIDENCE, hold_out_items=HOLD_OUT_ITEMS,
        )  # fmt: skip
        if choice.candidates:
            gained, lost = counts(random, HOLD_OUT_ITEMS, np.array([MARGIN]), changes)
            wrong += passes(int(gained[0]), int(lost[0]))  # a second is tested only after a first
    error = 1 - CONFIDENCE
    assert 0 < wrong <= stats.binom.ppf(0.999, runs, error)


def difference(gained: int, lost: int) -> Difference:
    return Difference(
        value=(gained - lost) / SEARCH_ITEMS, lower=-1.0, upper=1.0, confidence=CONFIDENCE,
        items=SEARCH_ITEMS, gained=gained, lost=lost, changed=gained + lost,
    )  # fmt: skip


@pytest.mark.parametrize(("gained", "lost"), [(20, 22), (30, 20), (10, 18), (0, 3)])
def test_chance_of_confirming_is_how_often_others_confirm(gained: int, lost: int) -> None:
    """Losses are drawn from what the search items leave open, then the hold-out is drawn."""
    random, runs = np.random.default_rng(1), 400
    value = (gained - lost) / SEARCH_ITEMS
    changes = (gained + lost + 1) / (SEARCH_ITEMS + 1)
    spread = math.sqrt((changes - value**2) / SEARCH_ITEMS)
    loss = np.clip(random.normal(-value, spread, runs), -changes, changes)
    drawn = zip(*counts(random, HOLD_OUT_ITEMS, loss, changes), strict=True)
    often = np.mean([passes(int(x), int(y)) for x, y in drawn])
    chance = chance_of_confirming(
        gained, lost, SEARCH_ITEMS, others=HOLD_OUT_ITEMS, margin=MARGIN, confidence=CONFIDENCE
    )
    assert chance == pytest.approx(often, abs=0.07)


@pytest.mark.parametrize(("gained", "lost", "chance"), [(50, 0, 1.0), (0, 50, 0.0)])
def test_a_change_of_every_item_is_no_division_by_zero(
    gained: int, lost: int, chance: float
) -> None:
    found = chance_of_confirming(gained, lost, 50, others=50, margin=MARGIN, confidence=CONFIDENCE)
    assert found == pytest.approx(chance)


def test_chance_of_confirming_grows_with_what_was_gained() -> None:
    chances = [
        chance_of_confirming(
            gained, 20, SEARCH_ITEMS, others=HOLD_OUT_ITEMS, margin=MARGIN, confidence=CONFIDENCE
        )
        for gained in range(0, 41, 5)
    ]
    assert all(0 < x < y < 1 for x, y in itertools.pairwise(chances))
