"""Yearly averages of grams of CO2 equivalent for a kilowatt-hour, place by place, offline.

``figures.csv`` holds published figures, each with its year and source; ``clouds.csv`` says on which
grid a cloud region is that has no figure. Central is the newest figure, one that counts the life
cycle if the place has any. The range around it says how far the truth of *another year's average,
however counted,* may be:

1. It spans all published figures of the place, and of its parts where it is a country: who only
   says "US" may be in Hawaii.
2. Where none of them counts the life cycle, `high` is raised by the most that supplying the fuel
   and building the power stations add (`life_cycle_high`); `low` stays direct.
3. It is widened by the usual change of two years (DRIFT_LOW, DRIFT_HIGH), as every figure is older
   than the joules it is used for. Of Google's 40 figures of 2025, 38 lie inside the ranges that are
   made from those of 2023; the other two are below theirs.

What it does not hold: the hour (a grid may be at half or at twice its average), imports where only
the place's own power stations are counted (all but China's figures and Google's), losses of the
grid on the way to the plug (about 5 %), and contracts for green power: all figures are
location-based. `world` is a place like others, for those who cannot say where they are: its range
is that of all places. Nothing is ever guessed from an address.

Invariants: low <= central <= high; every figure has a year, a source and a licence; all are
averages, none is marginal.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from joulewise.core.energy import Interval
from joulewise.core.errors import UsageError
from joulewise.core.supply import Basis, Intensity

__all__ = [
    "AGE_YEARS",
    "CLOUDS",
    "DRIFT_HIGH",
    "DRIFT_LOW",
    "FIGURES",
    "PLACES",
    "SOURCES",
    "WORLD",
    "Figure",
    "Place",
    "Publication",
    "figures",
    "find_intensity",
    "life_cycle_high",
    "list_places",
    "places",
]

_FOLDER = Path(str(files("joulewise.carbon")))
PLACES, FIGURES, CLOUDS = (_FOLDER / name for name in ("places.csv", "figures.csv", "clouds.csv"))

WORLD = "world"
"""The place of those who do not know theirs."""

AGE_YEARS = 2
"""How much older figures are than the joules they are used for, years; few are older."""

DRIFT_LOW, DRIFT_HIGH = 0.79**AGE_YEARS, 1.13**AGE_YEARS
"""What a place's figure is usually multiplied with in that time.

Source: 5th and 95th percentile of the change of one year, over the 165 countries whose two figures
in ``figures.csv`` are one year apart; a test computes them again.
"""


@dataclass(frozen=True, kw_only=True)
class Publication:
    """Who published figures, what they count, and on what terms they may be passed on."""

    title: str
    basis: Basis
    licence: str
    url: str


OWID = "Our World in Data from Ember and the Energy Institute, carbon intensity of electricity"
OWID_URL = "https://ourworldindata.org/grapher/carbon-intensity-electricity"

SOURCES: Mapping[str, Publication] = {
    "owid-new": Publication(
        title=f"{OWID}, as in carbontracker 2.4.7",
        basis="life-cycle",
        licence="CC-BY-4.0",
        url=OWID_URL,
    ),
    "owid-old": Publication(
        title=f"{OWID}, as in CodeCarbon 3.3.2",
        basis="life-cycle",
        licence="CC-BY-4.0",
        url=OWID_URL,
    ),
    "owid-mean": Publication(
        title=f"mean over countries, weighted by generation, of {OWID}, as in CodeCarbon 3.3.2",
        basis="life-cycle",
        licence="CC-BY-4.0",
        url=OWID_URL,
    ),
    "egrid": Publication(
        title="US EPA, Emission Factors for Greenhouse Gas Inventories 2025, table 6: eGRID2023 "
        "total output emission rates of CO2, CH4 and N2O (100 years, AR5)",
        basis="direct",
        licence="public domain (work of the US government)",
        url="https://www.epa.gov/climateleadership/ghg-emission-factors-hub",
    ),
    "mee": Publication(
        title="Ministry of Ecology and Environment of China, announcement 2025 no. 47, average CO2 "
        "factors of provinces, as in CodeCarbon 3.3.2",
        basis="direct",
        licence="MIT (CodeCarbon's table of official figures)",
        url="https://www.mee.gov.cn/xxgk2018/xxgk/xxgk01/202512/t20251231_1139517.html",
    ),
    "cer": Publication(
        title="computed: mix of the province as in CodeCarbon 3.3.2 times medians of IPCC AR5 WG3 "
        "table A.III.2",
        basis="life-cycle",
        licence="MIT (CodeCarbon's table of the mix)",
        url="https://github.com/mlco2/codecarbon",
    ),
    "google": Publication(
        title="Google, region-carbon-info, grid carbon intensity (operational), as in CodeCarbon "
        "3.3.2",
        basis="direct",
        licence="Apache-2.0",
        url="https://github.com/GoogleCloudPlatform/region-carbon-info",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A place that can be asked for.

    Args:
        key: "DE", "us:CAMX", "gcp:europe-west1", "world".
        name: in words.
        within: key of the country whose part it is, None for others.
        also: other codes of it.
        grid: key of the place whose figures it takes, None where it has its own.
    """

    key: str
    name: str
    within: str | None = None
    also: tuple[str, ...] = ()
    grid: str | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One published figure of a yearly average, g/kWh; `source` is a key of SOURCES."""

    place: str
    source: str
    year: int
    g_per_kwh: float

    @property
    def publication(self) -> Publication:
        """Who published it."""
        return SOURCES[self.source]


def life_cycle_high(direct_g_per_kwh: float) -> float:
    """Return the most that a kWh may bring in its whole life, given what its burning brings, g.

    Gas adds most of all fuels: 490 - 370 = 120 g/kWh for a combined cycle. Of the power without
    smoke, photovoltaics add most: 48 g/kWh. So all smoke is taken as that of gas, as far as a kWh
    can hold it, and the rest as sunlight.

    Args:
        direct_g_per_kwh: grams from burning alone, g/kWh.

    Source: IPCC 2014, AR5 WG3 Annex III, table A.III.2, medians. differs: crops that are burnt
    (230 g/kWh, most of it not smoke in these tables) are left out; they are a few percent.
    """
    gas_ratio = min(1.0, direct_g_per_kwh / 370)
    return direct_g_per_kwh + 120 * gas_ratio + 48 * (1 - gas_ratio)


def find_intensity(name: str) -> Intensity:
    """Return the yearly average of a place with its range.

    Args:
        name: key, code or full name of a place, in any case; "world" where it is not known.

    Raises:
        UsageError: no place, or more than one, is called so; the line names the nearest.
    """
    place = _find(name)
    grid = places()[place.grid] if place.grid else place
    own = figures()[grid.key]
    newest = max(own, key=lambda figure: (figure.publication.basis == "life-cycle", figure.year))
    taken = f"; taken to be on the grid of {grid.key} ({grid.name})" if place.grid else ""
    return Intensity(
        place=place.key,
        name=place.name,
        g_per_kwh=_range(newest.g_per_kwh, _spanned(grid)),
        basis=newest.publication.basis,
        period=str(newest.year),
        source=f"{newest.publication.title}, {newest.publication.url}{taken}",
        licence=newest.publication.licence,
    )


def list_places(pattern: str = "") -> tuple[Place, ...]:
    """Return the places in whose key, codes or name a text occurs, in any case; all by default."""
    wanted = pattern.casefold()
    return tuple(
        place
        for place in places().values()
        if any(wanted in text.casefold() for text in (place.key, place.name, *place.also))
    )


@cache
def places() -> Mapping[str, Place]:
    """Return all places by key."""
    own = [
        Place(
            key=row["place"],
            name=row["name"],
            within=row["within"] or None,
            also=tuple(row["also"].split()),
        )
        for row in _rows(PLACES)
    ]
    clouds = [Place(key=row["place"], name=row["name"], grid=row["grid"]) for row in _rows(CLOUDS)]
    return {place.key: place for place in (*own, *clouds)}


@cache
def figures() -> Mapping[str, tuple[Figure, ...]]:
    """Return all published figures by place."""
    found: dict[str, tuple[Figure, ...]] = {}
    for row in _rows(FIGURES):
        figure = Figure(
            place=row["place"],
            source=row["source"],
            year=int(row["year"]),
            g_per_kwh=float(row["g_per_kwh"]),
        )
        found[figure.place] = (*found.get(figure.place, ()), figure)
    return found


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(line for line in stream if not line.startswith("#"))


def _spanned(grid: Place) -> Sequence[Figure]:
    """Return the figures of a place and of its parts; of the world, of all places."""
    if grid.key == WORLD:
        return [figure for found in figures().values() for figure in found]
    parts = [place.key for place in places().values() if place.within == grid.key]
    return [figure for key in (grid.key, *parts) for figure in figures()[key]]


def _range(central: float, spanned: Sequence[Figure]) -> Interval:
    grams = [figure.g_per_kwh for figure in spanned]
    counted = any(figure.publication.basis == "life-cycle" for figure in spanned)
    high = max(grams) if counted else life_cycle_high(max(grams))
    return Interval(low=min(grams) * DRIFT_LOW, central=central, high=high * DRIFT_HIGH)


def _find(name: str) -> Place:
    wanted = name.strip().casefold()
    exact = [
        place
        for place in places().values()
        if wanted in {text.casefold() for text in (place.key, place.name, *place.also)}
    ]
    if len(exact) == 1:
        return exact[0]
    near = exact or _near(wanted)
    hint = f"did you mean {' or '.join(f'{p.key} ({p.name})' for p in near)}? " if near else ""
    raise UsageError(
        f"unknown place {name!r}; {hint}see all with: joulewise carbon --list; not known at all: "
        f"{WORLD}"
    )


def _near(wanted: str) -> list[Place]:
    """Return up to three places that may be meant: by part of the name, else by likeness."""
    if len(wanted) > 2 and (inside := list_places(wanted)):
        return list(inside[:3])
    texts = {text.casefold(): p for p in places().values() for text in (p.key, p.name)}
    return [texts[text] for text in difflib.get_close_matches(wanted, texts, n=3, cutoff=0.7)]
