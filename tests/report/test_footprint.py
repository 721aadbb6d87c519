from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]  # comes with optuna
from hypothesis import given
from hypothesis import strategies as st

from joulewise.carbon.supply import supply
from joulewise.core.records import Bundle, load, to_json
from joulewise.core.supply import Footprint
from joulewise.report.card import render_card
from joulewise.report.footprint import footprint_lines
from joulewise.report.page import render_page
from joulewise.report.text import fixed, grams, money
from joulewise.report.verdict import verdict_lines
from tests.report.bundles import make_bundle, make_sensor

HERE = supply("DE", pue=1.2, price=0.25, currency="EUR")


def footprints(bundle: Bundle) -> Mapping[str, Footprint]:
    return {
        "search": HERE.footprint(bundle.ledger.total_j),
        "million inferences": HERE.footprint(410.0),
    }


def located(verdict: str = "cheaper") -> Bundle:
    bundle = make_bundle(verdict)
    return make_bundle(verdict, footprints=footprints(bundle))


def front_matter(card: str) -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load(card.split("---")[1])
    return found


def test_card_has_the_field_of_the_hub_in_grams() -> None:
    bundle = located()
    told = front_matter(render_card(bundle))["co2_eq_emissions"]
    assert isinstance(told, dict)
    assert set(told) == {
        "emissions",
        "source",
        "training_type",
        "geographical_location",
        "hardware_used",
    }
    grams_of_search = bundle.ledger.total_j.central * 1.2 / 3.6e6 * 344.0
    assert told["emissions"] == pytest.approx(grams_of_search, rel=0.01)
    assert told["geographical_location"] == "Germany"
    assert told["hardware_used"] == bundle.host.short
    assert "grade D" in told["source"]
    assert "not counted" in told["training_type"]


def test_card_tells_a_thousand_inferences_in_words() -> None:
    card = render_card(located())
    assert "## Carbon and money" in card
    assert "- a thousand inferences, net of idle: 47.0 µg CO2e (29.3 µg to 66.5 µg)" in card
    assert "344 g/kWh (215 to 486), Germany, 2024, life-cycle, average" in card
    assert "- left out: " in card


def test_card_and_page_say_nothing_without_a_place() -> None:
    bundle = make_bundle()
    assert "Carbon" not in render_page(bundle)
    assert "co2_eq" not in render_card(bundle)


def test_card_of_a_price_alone_has_money_but_no_grams() -> None:
    bundle = make_bundle(footprints={"search": supply(price=0.25, currency="EUR").footprint(3.6e6)})
    card = render_card(bundle)
    assert "- search: 0.250 EUR" in card
    assert "co2" not in card.lower()
    assert "CO2e" not in render_page(bundle)


def test_page_shows_grams_money_place_and_what_is_left_out() -> None:
    page = render_page(located())
    for words in ("Carbon and money", "Germany, 2024", "CC-BY-4.0", "0.250 EUR/kWh", "PUE: 1.2"):
        assert words in page
    assert "the making of the hardware" in page
    assert "overhead" not in page.split("Left out")[1][:200]


def test_energy_and_its_ratio_are_the_same_with_and_without_a_place() -> None:
    assert verdict_lines(located()) == verdict_lines(make_bundle())


def test_record_keeps_footprints(tmp_path: Path) -> None:
    path = tmp_path / "joulewise.json"
    path.write_bytes(to_json(located()))
    assert load(Bundle, path) == located()


def test_lines_say_what_chips_leave_out() -> None:
    told = {"net of idle": supply("world").footprint(3.6e6)}
    chip = footprint_lines(told, [make_sensor("B")], width=9)
    assert [line.split()[0] for line in chip] == ["carbon", "without"]
    assert "rapl ends at the chip" in chip[1]
    assert "--pue" in chip[1]
    assert "ends at the chip" not in footprint_lines(told, [make_sensor("D")], width=9)[1]
    assert footprint_lines({}, [], width=9) == []


def test_lines_say_the_building_and_the_price() -> None:
    carbon, cost, without = footprint_lines({"": HERE.footprint(3.6e6)}, [], width=9)
    assert carbon.startswith(
        "carbon   413 g CO2e (258 g to 584 g); 344 g/kWh (215 to 486), Germany"
    )
    assert carbon.endswith("; PUE 1.2")
    assert cost == "money    0.300 EUR; 0.250 EUR/kWh; PUE 1.2"
    assert without == "without  the making of the hardware"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0 EUR"), (0.25, "0.250 EUR"), (1234.5, "1,230 EUR"), (1.5e-7, "1.50e-07 EUR")],
)
def test_money(value: float, shown: str) -> None:
    assert money(value, "EUR") == shown


def test_grams() -> None:
    assert [grams(x) for x in (0.00123, 12.0, 4.5e6, None)] == ["1.23 mg", "12.0 g", "4.50 Mg", "–"]


@given(st.floats(1e-12, 1e12))
def test_fixed_keeps_three_digits_and_has_no_exponent(value: float) -> None:
    text = fixed(value).replace(",", "")
    assert "e" not in text.lower()
    assert float(text) == pytest.approx(value, rel=0.006)
    assert yaml.safe_load(text) == pytest.approx(value, rel=0.006)
