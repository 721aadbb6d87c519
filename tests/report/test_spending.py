"""Plots of the ledger and of the payback; the figures are read back from the specifications."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joulewise.core.energy import Interval
from joulewise.core.records import Bundle, load
from joulewise.report.spending import ledger_spec, payback_spec
from tests.report.bundles import make_bundle, make_ledger

RECORDS = Path(__file__).parents[2] / "records"
PAID_BACK = ("demo-batch-1", "demo-batch-32", "smaller-batch-1", "text-angle", "appliances")


def rows(spec: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the rows of every data set of a specification once: layers repeat them."""
    assert spec is not None
    told: list[dict[str, Any]] = []
    for part in (spec, *spec["layer"]):
        for row in part.get("data", {}).get("values", []):
            if row not in told:
                told.append(row)
                yield row


def test_every_cause_has_a_bar_with_interval_time_and_grade() -> None:
    bundle = make_bundle(grade="B")
    bars = {row["cause"]: row for row in rows(ledger_spec(bundle))}
    assert list(bars) == list(bundle.ledger.stages_j)
    assert (bars["trials"]["low"], bars["trials"]["x"], bars["trials"]["high"]) == (
        1500,
        3000,
        6000,
    )
    assert bars["trials"]["time"] == "10 min 40 s"
    assert "measured, grade B" in json.dumps(ledger_spec(bundle))


def test_time_that_is_unknown_is_not_zero() -> None:
    ledger = replace(make_ledger("keep"), seconds={})
    assert {row["time"] for row in rows(ledger_spec(make_bundle(ledger=ledger)))} == {"–"}


def test_a_ledger_of_nothing_has_no_bars() -> None:
    nothing = Interval(low=0, central=0, high=0)
    ledger = replace(make_ledger("keep"), stages_j={"baseline": nothing})
    assert ledger_spec(make_bundle("keep", ledger=ledger)) is None


@pytest.mark.parametrize("name", PAID_BACK)
def test_lines_of_a_record_cross_at_its_break_even(name: str) -> None:
    """At each bound of the break-even the lines of that bound meet: cost = n J (1 - ratio)."""
    bundle = load(Bundle, RECORDS / f"{name}.json")
    lines = [row for row in rows(payback_spec(bundle)) if "program" in row]
    even = bundle.ledger.break_even_items
    assert even is not None
    start, end = (line for line in lines if line["program"] != "baseline")
    (_, whole) = (line for line in lines if line["program"] == "baseline")
    assert start["y"] == bundle.ledger.total_j.central
    for bound, items in (("low", even.low), ("y", even.central), ("high", even.high)):
        slope = (end[bound] - start[bound]) / end["items"]
        chosen_j = start[bound] + slope * items
        assert chosen_j == pytest.approx(whole["y"] / whole["items"] * items)


def test_a_break_even_that_is_hardly_known_does_not_flatten_the_plot() -> None:
    even = Interval(low=1e6, central=2e6, high=1e9)
    bundle = make_bundle(ledger=replace(make_ledger("cheaper"), break_even_items=even))
    drawn = list(rows(payback_spec(bundle)))
    assert max(row.get("items", 0.0) for row in drawn) == 8e6
    assert [row["high"] for row in drawn if "text" in row] == [8e6]


def test_nothing_is_paid_back_where_the_original_is_kept() -> None:
    even = Interval(low=1.0, central=2.0, high=3.0)
    ledger = replace(make_ledger("keep"), break_even_items=even)
    assert payback_spec(make_bundle("keep", ledger=ledger)) is None
