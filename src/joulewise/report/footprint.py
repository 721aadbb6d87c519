"""Grams and money as text, each with the place, the year and what is left out.

They stand in lines of their own, never inside an energy ratio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from joulewise.core.energy import Interval, Sensor
from joulewise.core.supply import Carbon, Footprint, Intensity, Money
from joulewise.report.text import grams, money, plain, span

__all__ = ["carbon_words", "footprint_lines", "intensity_words", "left_out", "money_words"]


def footprint_lines(
    footprints: Mapping[str, Footprint], sensors: Iterable[Sensor], width: int
) -> list[str]:
    """Return a line of grams, one of money and one of what is not in them; none of nothing.

    Args:
        footprints: what each is of, in words, as in "net of idle" or ""; all of one supply.
        sensors: what the joules came from.
        width: of the column of labels, characters.
    """
    if not footprints:
        return []
    first = next(iter(footprints.values()))
    building = [] if first.pue is None else [f"PUE {first.pue:g}"]
    lines = []
    if first.carbon is not None:
        told = [_of(carbon_words(f.carbon), what) for what, f in footprints.items() if f.carbon]
        lines.append(
            ("carbon", "; ".join([*told, intensity_words(first.carbon.intensity), *building]))
        )
    if first.money is not None:
        told = [_of(money_words(f.money), what) for what, f in footprints.items() if f.money]
        price = first.money.price
        tariff = f"{money(price.per_kwh, price.currency)}/kWh"
        lines.append(("money", "; ".join([*told, tariff, *building])))
    lines.append(("without", "; ".join(left_out(first, sensors))))
    return [f"{label:<{width}}{text}" for label, text in lines]


def carbon_words(carbon: Carbon) -> str:
    """Return grams with their range: ``1.23 g CO2e (0.45 g to 3.21 g)``."""
    return f"{grams(carbon.g.central)} CO2e ({span(carbon.g, grams)})"


def money_words(cost: Money) -> str:
    """Return money with its range, if it has one: ``0.123 EUR (0.0450 EUR to 0.321 EUR)``."""
    amount, currency = cost.amount, cost.price.currency
    central = money(amount.central, currency)
    if amount.low == amount.high:
        return central
    return f"{central} ({span(amount, lambda value: money(value, currency))})"


def intensity_words(intensity: Intensity) -> str:
    """Return where, when and how much: ``344 g/kWh (213 to 487), Germany, 2024, life-cycle``."""
    return (
        f"{_rounded(intensity.g_per_kwh.central)} g/kWh ({_bounds(intensity.g_per_kwh)}), "
        f"{plain(intensity.name)}, {plain(intensity.period)}, {intensity.basis}, "
        f"{intensity.accounting}"
    )


def left_out(footprint: Footprint, sensors: Iterable[Sensor]) -> Iterator[str]:
    """Yield what grams and money do not count.

    The counters of chips (grade B, other than batteries and whole modules) end at the chip: the
    power supply's loss and the rest of the machine are not in them.
    """
    chips = [s for s in sensors if s.grade == "B" and s.name not in {"battery", "jetson"}]
    if chips:
        names = " and ".join(dict.fromkeys(sensor.name for sensor in chips))
        yield f"the power supply and the rest of the machine ({names} ends at the chip)"
    if footprint.pue is None:
        yield "the building's overhead (--pue)"
    yield "the making of the hardware"


def _of(amount: str, what: str) -> str:
    return f"{amount} {what}".rstrip()


def _bounds(g_per_kwh: Interval) -> str:
    return f"{_rounded(g_per_kwh.low)} to {_rounded(g_per_kwh.high)}"


def _rounded(g_per_kwh: float) -> str:
    return f"{g_per_kwh:.0f}" if g_per_kwh >= 10 else f"{g_per_kwh:.1f}"
