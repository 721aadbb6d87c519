from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.compress.widths import Costs, LayerCost, Stairs, gone_evenly, gone_for, measured
from joulewise.core.errors import PassError

Array = np.ndarray[Any, np.dtype[np.float64]]

CHAIN = Costs(
    layers=(
        LayerCost(cost=10.0, reads={}, writes={0: 1 / 4}),
        LayerCost(cost=40.0, reads={0: 1 / 4}, writes={1: 1 / 8}),
        LayerCost(cost=5.0, reads={1: 1 / 8}, writes={}),
    ),
)
"""Four channels, then eight."""


def test_a_layer_costs_the_product_of_what_is_left() -> None:
    assert CHAIN.at([0, 0]) == 55
    assert CHAIN.at([1, 0]) == pytest.approx(10 * 3 / 4 + 40 * 3 / 4 + 5)
    assert CHAIN.at([1, 4]) == pytest.approx(10 * 3 / 4 + 40 * 3 / 4 / 2 + 5 / 2)


def test_branches_side_by_side_add_up() -> None:
    layer = LayerCost(cost=30.0, reads={0: 1 / 10, 1: 1 / 10}, writes={})
    assert layer.at([2, 3]) == pytest.approx(15)


@pytest.mark.parametrize(
    ("units", "step", "kept"),
    [
        (4, 1, [3, 2, 1]),
        (32, 8, [24, 16, 8]),
        (30, 8, [24, 16, 8]),  # first down to a multiple
        (8, 8, []),
        (6, 8, []),
        (100, 8, [96, 88, 80, 72, 64, 56, 48, 40, 32, 24, 16]),  # not below a tenth
    ],
)
def test_stairs(units: int, step: int, kept: list[int]) -> None:
    stairs = Stairs(units=units, step=step)
    found, gone = [], stairs.down(0)
    while gone is not None:
        found.append(units - gone)
        gone = stairs.down(gone)
    assert found == kept
    assert units - stairs.foot() == [units, *kept][-1]


@given(
    units=st.integers(1, 200), step=st.integers(1, 16), ratio=st.floats(0, 0.99, exclude_max=True)
)
def test_even_shares_are_within_one_step(units: int, step: int, ratio: float) -> None:
    (gone,) = gone_evenly([Stairs(units=units, step=step)], ratio)
    kept = units - gone
    assert kept >= min(units, step)
    assert kept == units or kept % step == 0
    if units * (1 - ratio) >= step:
        assert abs(kept - units * (1 - ratio)) <= step


def test_all_groups_equal_lose_all_the_same() -> None:
    stairs = [Stairs(units=16), Stairs(units=16)]
    costs = Costs(layers=tuple(LayerCost(cost=1.0, reads={}, writes={n: 1 / 16}) for n in range(2)))
    assert gone_for(costs, stairs, [np.arange(16.0) + 1] * 2, 0.5) == [8, 8]


def test_a_chain_by_hand() -> None:
    """A channel of the first group saves 12.5 and loses 1; two of the second save 11.25, lose 4."""
    stairs = [Stairs(units=4), Stairs(units=8, step=2)]
    scores = [np.array([4.0, 1, 2, 3]), np.full(8, 2.0)]
    assert gone_for(CHAIN, stairs, scores, 0.2) == [1, 0]
    # then 2 for 12.5 against 4 for 8.75: the first again; it keeps one
    assert gone_for(CHAIN, stairs, scores, 0.4) == [2, 0]


def test_what_saves_nothing_stays() -> None:
    costs = Costs(layers=(LayerCost(cost=1.0, reads={}, writes={0: 1 / 4}),))
    stairs = [Stairs(units=4), Stairs(units=4)]
    assert gone_for(costs, stairs, [np.full(4, 9.0), np.zeros(4)], 0.5) == [2, 0]


def test_too_much_is_one_line() -> None:
    stairs = [Stairs(units=4), Stairs(units=8)]
    with pytest.raises(PassError, match="at most 92 % can be pruned away here; ask for less"):
        gone_for(CHAIN, stairs, [np.ones(4), np.ones(8)], 0.99)


small = st.integers(2, 5)


@settings(deadline=None)
@given(data=st.data(), groups=st.integers(1, 3), ratio=st.floats(0.05, 0.5))
def test_the_greedy_way_is_the_best_where_groups_are_apart(
    data: st.DataObject, groups: int, ratio: float
) -> None:
    """What is lost is convex in the width, what is saved linear: no other way to save as much loses
    less."""
    units = data.draw(st.lists(small, min_size=groups, max_size=groups))
    prices = data.draw(st.lists(st.floats(1, 9), min_size=groups, max_size=groups))
    scores = [np.array(data.draw(st.lists(st.floats(0, 9), min_size=n, max_size=n))) for n in units]
    costs = Costs(
        layers=tuple(
            LayerCost(cost=price * n, reads={}, writes={number: 1 / n})
            for number, (price, n) in enumerate(zip(prices, units, strict=True))
        )
    )
    found = gone_for(costs, [Stairs(units=n) for n in units], scores, ratio)
    full = costs.at([0] * groups)
    assert costs.at(found) <= (1 - ratio) * full * (1 + 1e-12)
    saved, lost = full - costs.at(found), _lost(scores, found)
    for other in itertools.product(*(range(n) for n in units)):
        if full - costs.at(other) >= saved * (1 - 1e-9):
            assert _lost(scores, other) >= lost - 1e-9


def _lost(scores: list[Array], gone: Any) -> float:
    pairs = zip(scores, gone, strict=True)
    return sum(float(np.sort(values)[:count].sum()) for values, count in pairs)


def test_joules_per_multiplication_of_the_layers_that_a_group_belongs_to() -> None:
    assert measured(CHAIN, [0.5, 0.0]) == pytest.approx([0.5 / 50, 0.0])
    assert measured(Costs(layers=()), [0.5]) == [0.0]


@given(rate=st.floats(1e-9, 1e-3), ratio=st.floats(0.1, 0.6))
def test_joules_in_proportion_to_multiplications_change_nothing(rate: float, ratio: float) -> None:
    stairs = [Stairs(units=4), Stairs(units=8)]
    scores = [np.array([4.0, 1, 2, 3]), np.arange(8) + 1.5]
    rates = measured(CHAIN, [50 * rate, 45 * rate])
    found = gone_for(CHAIN, stairs, scores, ratio, rates)
    assert found == gone_for(CHAIN, stairs, scores, ratio)


def test_what_costs_no_joules_goes_last() -> None:
    stairs = [Stairs(units=4), Stairs(units=8)]
    scores = [np.ones(4), np.ones(8)]
    assert gone_for(CHAIN, stairs, scores, 0.2, measured(CHAIN, [1.0, 0.0])) == [1, 0]
    assert gone_for(CHAIN, stairs, scores, 0.2, measured(CHAIN, [0.0, 1.0])) == [0, 2]
    assert gone_for(CHAIN, stairs, scores, 0.8, measured(CHAIN, [0.0, 1.0])) == [2, 7]
