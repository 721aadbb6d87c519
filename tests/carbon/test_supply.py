from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.carbon.supply import supply
from joulewise.core.energy import Interval
from joulewise.core.errors import UsageError
from joulewise.core.supply import JOULES_PER_KWH, Intensity, Money, Price, Supply

FOUR_HUNDRED = Intensity(
    place="XX",
    name="a place",
    g_per_kwh=Interval(low=300, central=400, high=600),
    basis="life-cycle",
    period="2024",
    source="invented",
    licence="none",
)


def intervals(largest: float = 1e12) -> st.SearchStrategy[Interval]:
    numbers = st.lists(st.floats(0, largest), min_size=3, max_size=3).map(sorted)
    return numbers.map(lambda n: Interval(low=n[0], central=n[1], high=n[2]))


def supplies() -> st.SearchStrategy[Supply]:
    return st.builds(
        Supply,
        intensity=intervals(2000).map(lambda grams: replace(FOUR_HUNDRED, g_per_kwh=grams)),
        pue=st.none() | st.floats(1, 3),
        price=st.builds(Price, per_kwh=st.floats(0, 10), currency=st.just("EUR")),
    )


def grams(of: Supply, joules: Interval | float) -> Interval:
    carbon = of.footprint(joules).carbon
    assert carbon is not None
    return carbon.g


def money(of: Supply, joules: Interval | float) -> Money:
    found = of.footprint(joules).money
    assert found is not None
    return found


def test_one_kilowatt_hour_at_400_grams_is_400_grams() -> None:
    found = Supply(intensity=FOUR_HUNDRED).footprint(JOULES_PER_KWH)
    assert found.carbon is not None
    assert found.carbon.g == Interval(low=300, central=400, high=600)
    assert (found.pue, found.money) == (None, None)


def test_bounds_of_joules_and_intensity_multiply() -> None:
    two = Interval(low=JOULES_PER_KWH, central=2 * JOULES_PER_KWH, high=3 * JOULES_PER_KWH)
    assert grams(Supply(intensity=FOUR_HUNDRED), two) == Interval(low=300, central=800, high=1800)


def test_building_and_price() -> None:
    office = Supply(intensity=FOUR_HUNDRED, pue=1.25, price=Price(per_kwh=0.3, currency="EUR"))
    assert grams(office, JOULES_PER_KWH).central == pytest.approx(500)
    assert money(office, JOULES_PER_KWH).amount.central == pytest.approx(0.375)
    assert office.footprint(JOULES_PER_KWH).energy_j.central == JOULES_PER_KWH


@given(supplies(), intervals(), st.floats(0, 1e3))
def test_footprints_are_linear_in_joules(of: Supply, joules: Interval, factor: float) -> None:
    scaled, whole = grams(of, joules.scaled(factor)), grams(of, joules).scaled(factor)
    for bound in ("low", "central", "high"):
        assert getattr(scaled, bound) == pytest.approx(getattr(whole, bound), rel=1e-9, abs=1e-12)
    assert money(of, joules.scaled(factor)).amount.high == pytest.approx(
        money(of, joules).amount.high * factor, rel=1e-9, abs=1e-12
    )


@given(supplies(), intervals())
def test_ranges_stay_in_order(of: Supply, joules: Interval) -> None:
    for found in (grams(of, joules), money(of, joules).amount):
        assert 0 <= found.low <= found.central <= found.high


@given(st.floats(0, 2000), st.floats(0, 1e6))
def test_pounds_for_a_megawatt_hour_are_the_same_grams(lb_per_mwh: float, kwh: float) -> None:
    """An independent route: pounds for megawatt-hours, converted at the end."""
    g_per_kwh = lb_per_mwh * 453.59237 / 1000
    there = replace(
        FOUR_HUNDRED, g_per_kwh=Interval(low=g_per_kwh, central=g_per_kwh, high=g_per_kwh)
    )
    pounds = lb_per_mwh * kwh / 1000
    found = grams(Supply(intensity=there), kwh * JOULES_PER_KWH).central
    assert found == pytest.approx(pounds * 453.59237, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("pue", [0.9, 0, -1, math.nan, math.inf])
def test_pue_below_one_is_refused(pue: float) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        supply("DE", pue=pue)


@pytest.mark.parametrize(
    ("price", "currency", "told"),
    [
        (-0.1, "EUR", "cannot be meant"),
        (math.nan, "EUR", "cannot be meant"),
        (0.25, "Euro", "three capital letters"),
        (0.25, None, "--currency"),
        (None, "EUR", "--price"),
    ],
)
def test_prices_that_cannot_be_meant(price: float | None, currency: str | None, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        supply(price=price, currency=currency)


def test_currency_in_small_letters_is_understood() -> None:
    found = supply(price=0.25, currency="eur")
    assert found == Supply(price=Price(per_kwh=0.25, currency="EUR"))
    assert found.footprint(1.0).carbon is None


@pytest.mark.parametrize("joules", [-1.0, math.nan, math.inf])
def test_joules_without_a_footprint(joules: float) -> None:
    with pytest.raises(UsageError, match="0 J or more"):
        supply("DE").footprint(joules)


def test_intensity_out_of_order_is_refused() -> None:
    with pytest.raises(UsageError, match="in order"):
        replace(FOUR_HUNDRED, g_per_kwh=Interval(low=3, central=2, high=1))


def test_public_verb() -> None:
    import joulewise

    carbon = joulewise.supply("DE", pue=1.2).footprint(3.6e6).carbon
    assert carbon is not None
    assert carbon.g.central == pytest.approx(1.2 * carbon.intensity.g_per_kwh.central)
