"""What ``joulewise carbon`` does once its options are understood."""

from __future__ import annotations

import typer

from joulewise.carbon.supply import supply
from joulewise.carbon.table import figures, find_intensity, list_places
from joulewise.core.errors import UsageError
from joulewise.core.records import to_json
from joulewise.core.supply import JOULES_PER_KWH, Supply
from joulewise.report import text
from joulewise.report.footprint import footprint_lines, intensity_words

__all__ = ["run_carbon", "run_list"]


def run_carbon(amount: str | None, kwh: float | None, of: Supply | None, *, as_json: bool) -> None:
    """Print grams and money of some joules.

    Args:
        amount: joules as the user wrote them.
        kwh: kilowatt-hours instead.
        of: where they come from; None for anywhere in the world.
        as_json: print the record instead.
    """
    found = (of or supply("world")).footprint(_joules(amount, kwh))
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


def _joules(amount: str | None, kwh: float | None) -> float:
    if (amount is None) == (kwh is None):
        raise UsageError("give either joules, as in: joulewise carbon 3.6e6 --place DE, or --kwh 1")
    if kwh is not None:
        return kwh * JOULES_PER_KWH
    try:
        return float(str(amount))
    except ValueError:
        raise UsageError(f"{amount!r} is no number of joules; write e.g. 3.6e6") from None
