from __future__ import annotations

from pathlib import Path

from benchmarks.weight_only import FLOAT, Record, Variant
from joulewise.core.records import load

ROOT = Path(__file__).parents[2]
RECORD = load(Record, ROOT / "records" / "weight-only.json")
VARIANTS = {(each.model, each.name): each for each in RECORD.variants}
NAMES = [name for model, name in VARIANTS if model == "one row" and name != FLOAT]


def joules(variant: Variant) -> float:
    assert variant.ratio is not None
    return variant.ratio.value


def test_the_table_holds_the_figures_of_the_record() -> None:
    page = (ROOT / "docs" / "compression.md").read_text()
    for name in NAMES:
        found = [VARIANTS[model, name] for model in ("sentences", "64 rows", "one row")]
        cells = [f"{joules(each):.2f} | {100 * each.error_ratio:.1f} %" for each in found]
        assert f"| `{name}` | {' | '.join(cells)} |" in page, name


def test_it_pays_for_one_row_and_for_no_more() -> None:
    """Beside dynamic int8, which is the better choice elsewhere."""
    for bits in (8, 4):
        for model, pays in (("one row", True), ("64 rows", False), ("sentences", False)):
            ours = joules(VARIANTS[model, f"weight_only(bits={bits})"])
            assert (ours < joules(VARIANTS[model, "dynamic_int8"])) == pays
