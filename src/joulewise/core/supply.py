"""What a kilowatt-hour of electricity brings with it: grams of CO2 equivalent, and money.

Neither is ever part of an energy ratio: joules are what a program needs, grams and money are what
one place and one contract make of them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from joulewise.core.energy import Interval
from joulewise.core.errors import UsageError

__all__ = [
    "JOULES_PER_KWH",
    "Accounting",
    "Basis",
    "Carbon",
    "Footprint",
    "Intensity",
    "Money",
    "Price",
    "Supply",
]

JOULES_PER_KWH = 3.6e6
"""Exact: 1000 W times 3600 s."""

Basis = Literal["life-cycle", "direct"]
"""What the grams count: all from the mine to the scrap yard, or the smoke of power stations."""

Accounting = Literal["average", "marginal"]
"""Of all power that flows in the grid, or of the power stations that would serve a little more."""


@dataclass(frozen=True, kw_only=True)
class Intensity:
    """Grams of CO2 equivalent for each kilowatt-hour in one place, g/kWh.

    Args:
        place: its name in the tables or at the service, as in "DE" or "us:CAMX".
        name: the same in words.
        g_per_kwh: central figure as published, with its range.
        basis: what the central figure counts.
        period: the year of the central figure, or the time of a live one.
        source: who published it, and how the range was made.
        licence: of the figures.
        accounting: average or marginal.
    """

    place: str
    name: str
    g_per_kwh: Interval
    basis: Basis
    period: str
    source: str
    licence: str
    accounting: Accounting = "average"

    def __post_init__(self) -> None:
        grams = self.g_per_kwh
        if not 0 <= grams.low <= grams.central <= grams.high < math.inf:
            raise UsageError(f"{self.place} has no range of g/kWh that is in order; give another")


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a kilowatt-hour costs.

    Args:
        per_kwh: units of the currency for each kWh, 0 or more.
        currency: three capital letters as in ISO 4217, "EUR".

    Raises:
        UsageError: a value cannot be meant.
    """

    per_kwh: float
    currency: str

    def __post_init__(self) -> None:
        if not 0 <= self.per_kwh < math.inf:
            raise UsageError(f"a price of {self.per_kwh:g} per kWh cannot be meant; use e.g. 0.25")
        if not re.fullmatch("[A-Z]{3}", self.currency):
            raise UsageError(
                f"{self.currency!r} is no currency of three capital letters; use e.g. EUR"
            )


@dataclass(frozen=True, kw_only=True)
class Carbon:
    """Grams of CO2 equivalent of some joules.

    Args:
        g: the joules' interval times the intensity's range, g.
        intensity: the row they were made with.
    """

    g: Interval
    intensity: Intensity


@dataclass(frozen=True, kw_only=True)
class Money:
    """What some joules cost.

    Args:
        amount: in units of the currency.
        price: what it was made with.
    """

    amount: Interval
    price: Price


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """What some joules bring with them in one place.

    Args:
        energy_j: the joules themselves, without the building's overhead, J.
        pue: energy of the whole building for each joule of the computers in it; None where
            nobody said, and nothing is added.
        carbon: None where no place was given.
        money: None where no price was given.
    """

    energy_j: Interval
    pue: float | None
    carbon: Carbon | None
    money: Money | None

    def scaled(self, factor: float) -> Footprint:
        """Return the footprint of `factor` times the joules; the factor is not negative."""
        carbon, money = self.carbon, self.money
        return Footprint(
            energy_j=self.energy_j.scaled(factor),
            pue=self.pue,
            carbon=carbon and replace(carbon, g=carbon.g.scaled(factor)),
            money=money and replace(money, amount=money.amount.scaled(factor)),
        )


@dataclass(frozen=True, kw_only=True)
class Supply:
    """Where electricity comes from, and on what terms.

    Args:
        intensity: of the place; None counts no grams.
        pue: power usage effectiveness of the building, 1 or more (ISO/IEC 30134-2: energy of the
            whole data centre over energy of its computers); None adds no overhead.
        price: None counts no money.

    Raises:
        UsageError: the PUE cannot be meant.
    """

    intensity: Intensity | None = None
    pue: float | None = None
    price: Price | None = None

    def __post_init__(self) -> None:
        if self.pue is not None and not 1 <= self.pue < math.inf:
            raise UsageError(
                f"a PUE of {self.pue:g} cannot be meant: the computers are part of the building; "
                "use 1 or more, e.g. 1.2"
            )

    def footprint(self, energy_j: Interval | float) -> Footprint:
        """Return the grams and the money of some joules.

        Args:
            energy_j: joules of the computers, J; 0 or more.

        Raises:
            UsageError: the joules are negative or not a number.
        """
        if not isinstance(energy_j, Interval):
            energy_j = Interval(low=energy_j, central=energy_j, high=energy_j)
        if not 0 <= energy_j.low <= energy_j.central <= energy_j.high < math.inf:
            raise UsageError(f"{energy_j.central:g} J has no footprint; give 0 J or more")
        kwh = _kwh(energy_j.scaled(self.pue or 1.0))
        return Footprint(
            energy_j=energy_j, pue=self.pue, carbon=self._carbon(kwh), money=self._money(kwh)
        )

    def _carbon(self, kwh: Interval) -> Carbon | None:
        if self.intensity is None:
            return None
        return Carbon(g=_product(kwh, self.intensity.g_per_kwh), intensity=self.intensity)

    def _money(self, kwh: Interval) -> Money | None:
        if self.price is None:
            return None
        return Money(amount=kwh.scaled(self.price.per_kwh), price=self.price)


def _kwh(energy_j: Interval) -> Interval:
    return Interval(
        low=energy_j.low / JOULES_PER_KWH,
        central=energy_j.central / JOULES_PER_KWH,
        high=energy_j.high / JOULES_PER_KWH,
    )


def _product(one: Interval, other: Interval) -> Interval:
    """Return the product of two intervals of non-negative numbers: the bounds multiply."""
    return Interval(
        low=one.low * other.low,
        central=one.central * other.central,
        high=one.high * other.high,
    )
