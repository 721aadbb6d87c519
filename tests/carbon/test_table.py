from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.carbon.table import (
    AGE_YEARS,
    CLOUDS,
    DRIFT_HIGH,
    DRIFT_LOW,
    FIGURES,
    PLACES,
    SOURCES,
    figures,
    find_intensity,
    life_cycle_high,
    list_places,
    places,
)
from joulewise.core.errors import UsageError

G_PER_LB = 453.59237
ALL = sorted(places())


@pytest.mark.parametrize("key", ALL)
def test_every_place_has_a_range_a_year_a_source_and_a_licence(key: str) -> None:
    found = find_intensity(key)
    grams = found.g_per_kwh
    assert 0 < grams.low <= grams.central <= grams.high < 2000
    assert re.fullmatch("20(09|[12][0-9])", found.period)
    assert found.basis in {"life-cycle", "direct"}
    assert found.accounting == "average"
    assert "https://" in found.source
    assert found.licence
    assert found.place == key


def test_codes_of_countries_are_those_of_iso_3166() -> None:
    countries = [place for place in places().values() if re.fullmatch("[A-Z]{2}", place.key)]
    assert len(countries) == 211
    assert all(re.fullmatch("[A-Z]{3}", place.also[0]) for place in countries)
    assert {c.key: c.also[0] for c in countries if c.key in ["DE", "FR", "US", "CN", "ZA"]} == {
        "DE": "DEU",
        "FR": "FRA",
        "US": "USA",
        "CN": "CHN",
        "ZA": "ZAF",
    }


def test_keys_are_of_known_kinds_and_refer_to_places() -> None:
    kinds = "us:[A-Z]{4}|c[an]:[A-Z]{2}|(gcp|aws|azure):[a-z0-9-]+|[A-Z]{2}|world"
    for place in places().values():
        assert re.fullmatch(kinds, place.key)
        assert place.within is None or place.within in places()
        assert place.grid is None or places()[place.grid].grid is None
        assert (place.key in figures()) != (place.grid is not None)
    assert len({place.name for place in places().values()}) == len(places())


def test_every_figure_has_a_known_source() -> None:
    told = [figure for found in figures().values() for figure in found]
    assert {figure.source for figure in told} == set(SOURCES)
    assert all(0 < figure.g_per_kwh < 1400 and 2009 <= figure.year <= 2026 for figure in told)
    shareable = {
        "Apache-2.0",
        "CC-BY-4.0",
        "MIT (CodeCarbon's table of official figures)",
        "MIT (CodeCarbon's table of the mix)",
        "public domain (work of the US government)",
    }
    assert {publication.licence for publication in SOURCES.values()} == shareable


def test_tables_are_small() -> None:
    assert sum(path.stat().st_size for path in (PLACES, FIGURES, CLOUDS)) < 60_000


def test_licences_name_every_source() -> None:
    text = (PLACES.parent / "LICENSES").read_text()
    assert all(name in text for name in SOURCES)


@pytest.mark.parametrize(
    ("place", "co2", "ch4", "n2o"),
    [
        ("us:CAMX", 436.655, 0.025, 0.003),
        ("us:AKGD", 899.003, 0.086, 0.012),
        ("us:AZNM", 740.810, 0.041, 0.006),
    ],
)
def test_subregions_are_those_published(place: str, co2: float, ch4: float, n2o: float) -> None:
    """EPA, Emission Factors for Greenhouse Gas Inventories, January 2025, table 6, lb/MWh."""
    published = (co2 + 28 * ch4 + 265 * n2o) * G_PER_LB / 1000
    assert find_intensity(place).g_per_kwh.central == pytest.approx(published, abs=0.06)


@pytest.mark.parametrize(
    ("place", "published"),
    [("gcp:europe-west1", 122), ("gcp:us-central1", 430), ("gcp:northamerica-northeast1", 2)],
)
def test_google_regions_are_those_of_2023(place: str, published: float) -> None:
    """GoogleCloudPlatform/region-carbon-info, data/yearly/2023.csv."""
    assert find_intensity(place).g_per_kwh.central == published


def test_google_regions_of_2025_are_within_the_ranges_of_2023() -> None:
    """An independent check: region-carbon-info, data/yearly/2025.csv, all of Europe."""
    later = {
        "central2": 498.57,
        "north1": 29.84,
        "southwest1": 95.75,
        "west1": 126.43,
        "west2": 109.39,
        "west3": 275.81,
        "west4": 194.35,
        "west6": 21.2,
        "west8": 202.03,
        "west9": 15.83,
        "west10": 275.81,
        "west12": 202.03,
    }
    ranges = {name: find_intensity(f"gcp:europe-{name}").g_per_kwh for name in later}
    below = {name for name, grams in later.items() if grams < ranges[name].low}
    above = {name for name, grams in later.items() if grams > ranges[name].high}
    assert (below, above) == ({"west6", "west9"}, set())


def test_mean_of_the_world_is_what_ember_publishes() -> None:
    """Ember, Global Electricity Review 2024: 480 g/kWh in 2023."""
    world = find_intensity("world")
    assert world.g_per_kwh.central == pytest.approx(480, abs=5)
    ranges = [find_intensity(key).g_per_kwh for key in ALL if key != "world"]
    assert world.g_per_kwh.low <= min(grams.low for grams in ranges)
    assert world.g_per_kwh.high >= max(grams.central for grams in ranges)


def test_country_holds_its_parts() -> None:
    for place in places().values():
        if place.within:
            whole, part = find_intensity(place.within), find_intensity(place.key)
            assert whole.g_per_kwh.low <= part.g_per_kwh.central <= whole.g_per_kwh.high, place.key


def test_usual_change_of_a_year_is_that_of_the_table() -> None:
    pairs = [
        (old, new)
        for found in figures().values()
        for old, new in product(found, repeat=2)
        if (old.source, new.source) == ("owid-old", "owid-new") and new.year == old.year + 1
    ]
    changes = [new.g_per_kwh / old.g_per_kwh for old, new in pairs]
    assert len(changes) == 165
    assert np.percentile(changes, 5) ** AGE_YEARS == pytest.approx(DRIFT_LOW, rel=0.02)
    assert np.percentile(changes, 95) ** AGE_YEARS == pytest.approx(DRIFT_HIGH, rel=0.02)


@pytest.mark.parametrize(
    ("direct", "life_cycle"), [(0, 48), (370, 490), (760, 880), (185, 185 + 60 + 24)]
)
def test_life_cycle_of_known_mixes(direct: float, life_cycle: float) -> None:
    """All sunlight, all gas, all coal (whose median is 820), half gas and half sunlight."""
    assert life_cycle_high(direct) == pytest.approx(life_cycle)


@given(st.floats(0, 1500), st.floats(0, 1500))
def test_life_cycle_grows_with_the_direct_figure(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert low <= life_cycle_high(low) <= life_cycle_high(high)


@given(st.sampled_from(ALL), st.sampled_from([str.upper, str.lower, str.title]))
def test_case_of_a_name_does_not_matter(key: str, cased: object) -> None:
    assert find_intensity(f" {cased(key)} ").place == key  # type: ignore[operator]


@pytest.mark.parametrize(
    ("name", "key"), [("Germany", "DE"), ("DEU", "DE"), ("uk", "GB"), ("georgia", "GE")]
)
def test_names_and_other_codes_are_understood(name: str, key: str) -> None:
    assert find_intensity(name).place == key


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("germny", "DE (Germany)"),
        ("us:CAXM", "us:CAMX"),
        ("korea", "KR (South Korea)"),
        ("eu-west-1", "aws:eu-west-1"),
        ("frankfurt", "gcp:europe-west3"),
        ("XX", "joulewise carbon --list"),
        ("us:TX", "world"),
        ("", "world"),
        ("\x1b[2J\n", "world"),
    ],
)
def test_unknown_place_names_the_nearest_and_never_a_country_by_default(
    name: str, told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        find_intensity(name)
    assert told in str(caught.value)
    assert str(caught.value).isprintable()


def test_region_without_a_figure_says_whose_it_takes() -> None:
    found, grid = find_intensity("aws:us-east-1"), find_intensity("us:SRVC")
    assert found.g_per_kwh == grid.g_per_kwh
    assert "taken to be on the grid of us:SRVC" in found.source


def test_list_finds_by_key_and_by_name() -> None:
    assert [place.key for place in list_places("camx")] == ["us:CAMX"]
    assert {"DE", "azure:germanynorth"} < {place.key for place in list_places("german")}
    assert len(list_places()) == len(places())
