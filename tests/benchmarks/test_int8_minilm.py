from __future__ import annotations

from pathlib import Path

from benchmarks.int8_minilm import ORT_STATIC, Record
from joulewise.core.records import load

ROOT = Path(__file__).parents[2]
RECORD = load(Record, ROOT / "records" / "int8-minilm.json")
VARIANTS = {each.name: each for each in RECORD.variants}


def test_the_table_holds_the_figures_of_the_record() -> None:
    page = (ROOT / "docs" / "compression.md").read_text()
    for name, each in VARIANTS.items():
        joules = 1.0 if each.ratio is None else each.ratio.value
        row = f" | {each.cosine_mean:.3f} | {each.cosine_least:.3f} | {joules:.2f} |"
        assert row in page or name == "float32", name


def test_the_causes_are_those_that_the_page_tells() -> None:
    """Each step of the way out is nearer to float than the one before; all save joules."""
    ladder = (
        ORT_STATIC,
        "static_int8",
        "static_int8(operators=compute)",
        "static_int8(operators=transformer)",
        "smooth + static_int8(operators=transformer)",
    )
    cosines = [VARIANTS[name].cosine_mean for name in ladder]
    assert cosines == sorted(cosines)
    default, *ours = (VARIANTS[name].ratio for name in ladder)
    assert default is not None
    assert default.sampling_low > 1
    assert all(ratio is not None and ratio.high < 1 for ratio in ours)
