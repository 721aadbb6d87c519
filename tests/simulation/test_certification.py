"""A candidate that loses the margin is certified no oftener than stated, in whole paired tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from joulewise.core.bootstrap import bootstrap
from joulewise.core.claim import Difference
from joulewise.core.statistics import lower_bound
from joulewise.proof.prove import _non_inferior
from joulewise.workload.measures import accuracy
from tests.simulation.paired import CONFIDENCE, Test, Truth

RUNS = 2000
MARGIN = 0.01
SIZES = (300, 1000, 2000, 5000)
CHANGES = (0.01, 0.015, 0.03, 0.05)
"""Shares of items that only one of the two answers right; with the first, nothing is gained."""

CHANCE = 0.999
"""With which a share that is right in the long run is found right in RUNS."""


@pytest.mark.parametrize("items", SIZES)
def test_a_loss_of_the_margin_is_seldom_certified(items: int) -> None:
    """Whoever certified nothing would pass as well, so the error must be spent too."""
    random, test = np.random.default_rng(items), Test(items=items, margin=MARGIN)
    error, wrong = 1 - CONFIDENCE, list[int]()
    for changes in CHANGES:
        counts = Truth(difference=-MARGIN, changes=changes).draw(random, items, RUNS)
        wrong.append(int(np.sum(test.certified(*counts))))
    assert max(wrong) <= stats.binom.ppf(CHANCE, RUNS, error)
    assert sum(wrong) >= 0.6 * error * RUNS * len(CHANGES)


@pytest.mark.parametrize("excess", [1.25, 1.5])
def test_a_greater_loss_is_certified_still_less(excess: float) -> None:
    random, test = np.random.default_rng(7), Test(items=1000, margin=MARGIN)
    shares = []
    for loss in (MARGIN, excess * MARGIN):
        counts = Truth(difference=-loss, changes=0.03).draw(random, 1000, RUNS)
        shares.append(float(np.mean(test.certified(*counts))))
    assert shares[1] < shares[0]


@pytest.mark.slow
@pytest.mark.parametrize("harmed", [0.125, 0.25, 0.5])
def test_a_loss_that_falls_on_some_clusters_is_seldom_certified(harmed: float) -> None:
    """Of so many clusters each loses most, so that its items are hardly more than one.

    Whoever takes the items for independent certifies falsely far oftener.
    """
    random, runs, clusters, items, margin = np.random.default_rng(8), 500, 120, 10, 0.1
    cluster = np.repeat(np.arange(clusters), items)
    unaware = Test(items=clusters * items, margin=margin)
    falsely, naively = 0, 0
    for _ in range(runs):
        of_cluster = np.where(random.random(clusters) < harmed, margin / harmed, 0.0)
        lost = random.random(clusters * items) < of_cluster[cluster]
        right = accuracy(~lost)
        bounds = bootstrap(lambda x: right(x) - 1, clusters * items, CONFIDENCE, clusters=cluster)  # noqa: B023
        falsely += bounds.lower > -margin
        naively += int(unaware.certified(np.zeros(1, int), np.array([lost.sum()]))[0])
    assert falsely <= stats.binom.ppf(CHANCE, runs, 1 - CONFIDENCE)
    if harmed < 0.2:
        assert naively > 2 * stats.binom.ppf(CHANCE, runs, 1 - CONFIDENCE)


@pytest.mark.parametrize("changed", [3, 8, 20])
def test_a_proof_draws_the_line_where_it_is_drawn_here(changed: int) -> None:
    """A proof asks the bound as well as the test at the margin."""
    test = Test(items=600, margin=MARGIN)
    test.certified(np.array([changed]), np.array([0]))
    fewest = test.needed[changed]
    assert 0 < fewest <= changed
    for gained, certified in ((fewest, True), (fewest - 1, False)):
        assert _non_inferior(difference(gained, changed - gained, 600), MARGIN) is certified


def difference(gained: int, lost: int, items: int) -> Difference:
    return Difference(
        value=(gained - lost) / items,
        lower=lower_bound(gained, lost, items, CONFIDENCE),
        upper=1.0,
        confidence=CONFIDENCE,
        items=items,
        gained=gained,
        lost=lost,
        changed=gained + lost,
    )
