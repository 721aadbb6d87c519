"""The options about where electricity comes from, and the footprints that they ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from joulewise.core.energy import Interval, Measurement
from joulewise.core.errors import UsageError
from joulewise.core.supply import Footprint, Supply

__all__ = ["footprints_of", "per_million", "summed", "supply_asked"]


def supply_asked(
    place: str | None,
    service: str | None,
    pue: float | None,
    price: float | None,
    currency: str | None,
) -> Supply | None:
    """Return the supply that the options speak of; None where none was given.

    Raises:
        UsageError: a value cannot be meant, or only a PUE was given.
        InputError: the service gave no figure.
    """
    if (place, service, pue, price, currency) == (None,) * 5:
        return None
    if (place, service, price, currency) == (None,) * 4:
        raise UsageError("--pue changes grams and money only; add --place DE, or a --price")
    from joulewise.carbon.supply import supply  # late: its tables are read by whoever asks

    return supply(place, service=service, pue=pue, price=price, currency=currency)


def footprints_of(
    of: Supply | None, energies_j: Mapping[str, Interval | None]
) -> Mapping[str, Footprint]:
    """Return the footprint of each energy that is known; none without a supply."""
    if of is None:
        return {}
    return {what: of.footprint(known) for what, known in energies_j.items() if known is not None}


def per_million(of: Supply | None, measurement: Measurement) -> Mapping[str, Footprint]:
    """Return the footprints of a million items, net of idle and gross."""
    net, gross = measurement.net_j_per_item, measurement.gross_j_per_item
    return footprints_of(
        of,
        {
            "for a million items net of idle": net and net.scaled(1e6),
            "gross": gross and gross.scaled(1e6),
        },
    )


def summed(energies_j: Iterable[Interval | None]) -> Interval | None:
    """Return the sum of what components need, all erring alike; None where one is unknown."""
    known: Sequence[Interval | None] = list(energies_j)
    if None in known:
        return None
    present = [each for each in known if each is not None]
    return Interval(
        low=sum(each.low for each in present),
        central=sum(each.central for each in present),
        high=sum(each.high for each in present),
    )
