"""Grams and money on the command line: the command ``carbon`` and the options of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import typer

from joulewise.carbon.supply import supply
from joulewise.carbon.table import figures, find_intensity, list_places
from joulewise.core.energy import Interval, Measurement
from joulewise.core.errors import UsageError
from joulewise.core.records import to_json
from joulewise.core.supply import JOULES_PER_KWH, Footprint, Supply
from joulewise.report import text
from joulewise.report.footprint import footprint_lines, intensity_words

__all__ = ["footprints_of", "per_million", "run_carbon", "run_list", "summed", "supply_asked"]


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
    return supply(place, service=service, pue=pue, price=price, currency=currency)


def run_carbon(amount: str | None, kwh: float | None, of: Supply | None, *, as_json: bool) -> None:
    """Print grams and money of some joules.

    Args:
        amount: joules as the user wrote them.
        kwh: kilowatt-hours instead.
        of: where they come from.
        as_json: print the record instead.
    """
    if of is None:
        raise UsageError("say where the electricity comes from: --place DE, or --place world")
    found = of.footprint(_joules(amount, kwh))
    if as_json:
        typer.echo(to_json(found))
        return
    joules = found.energy_j.central
    typer.echo(f"energy   {text.joules(joules)}, {text.fixed(joules / JOULES_PER_KWH)} kWh")
    for line in footprint_lines({"": found}, (), width=9):
        typer.echo(line)
    if found.carbon is not None:
        intensity = found.carbon.intensity
        typer.echo(f"source   {intensity.source} ({intensity.licence})")


def run_list(pattern: str, *, as_json: bool) -> None:
    """Print the places in whose key or name a text occurs, one a line."""
    places = list_places(pattern)
    if not places:
        raise UsageError(f"no place has {pattern!r} in it; see all with: joulewise carbon --list")
    if as_json:
        found = [(find_intensity(p.key), figures()[p.grid or p.key]) for p in places]
        typer.echo(to_json([{"intensity": one, "figures": told} for one, told in found]))
        return
    width = max(len(place.key) for place in places)
    for place in places:
        typer.echo(f"{place.key:<{width}}  {intensity_words(find_intensity(place.key))}")


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


def _joules(amount: str | None, kwh: float | None) -> float:
    if (amount is None) == (kwh is None):
        raise UsageError("give either joules, as in: joulewise carbon 3.6e6 --place DE, or --kwh 1")
    if kwh is not None:
        return kwh * JOULES_PER_KWH
    try:
        return float(str(amount))
    except ValueError:
        raise UsageError(f"{amount!r} is no number of joules; write e.g. 3.6e6") from None
