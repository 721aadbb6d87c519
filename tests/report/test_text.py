from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.energy import Grade, Interval
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.report import text

FACTORS = {"n": 1e-9, "µ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        (0.0, "0 J"),
        (0.00123, "1.23 mJ"),
        (0.0009996, "1.00 mJ"),
        (0.000_999_4, "999 µJ"),
        (41_000, "41.0 kJ"),
        (999.4, "999 J"),
        (-0.5, "-500 mJ"),
        (1e-13, "0.000100 nJ"),
        (2.5e13, "25000 GJ"),
    ],
)
def test_joules(value: float | None, shown: str) -> None:
    assert text.joules(value) == shown


@given(st.floats(min_value=1e-9, max_value=1e12))
def test_joules_keep_three_digits(value: float) -> None:
    match = re.fullmatch(r"([\d.]+) ([nµmkMG]?)J", text.joules(value))
    assert match is not None
    assert len(match[1].replace(".", "").lstrip("0")) >= 3
    assert float(match[1]) * FACTORS[match[2]] == pytest.approx(value, rel=0.00501)


@given(st.floats(min_value=1e-6, max_value=1e6))
def test_ratio_keeps_three_digits(value: float) -> None:
    assert float(text.ratio(value)) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0.0123, "12.3 ms"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (75, "1 min 15 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_seconds(value: float | None, shown: str) -> None:
    assert text.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0, "0 B"), (12, "12 B"), (3_740_000, "3.74 MB")]
)
def test_size(value: int | None, shown: str) -> None:
    assert text.size(value) == shown


def test_fractions_become_percent_and_points() -> None:
    assert text.percent(0.9375) == "93.75 %"
    assert text.points(-0.0015) == "-0.15 pp"
    assert text.points(0.005, signed=False) == "0.50 pp"
    assert text.change(0.402) == "-59.8 %"
    assert text.change(1.9) == "+90.0 %"


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    assert text.points(-0.00001) == "+0.00 pp"
    assert text.change(0.99999) == "+0.0 %"


@pytest.mark.parametrize(
    "render",
    [text.percent, text.points, text.change, text.ratio, text.approximate, text.seconds],
)
def test_missing_is_a_dash(render: object) -> None:
    assert callable(render)
    assert render(None) == text.MISSING
    assert render(float("nan")) == text.MISSING


def test_counts() -> None:
    assert text.count(87_000) == "87,000"
    assert text.count(None) == text.MISSING
    assert text.approximate(6_754_321.0) == "6,750,000"
    assert text.counted(1, "thread") == "1 thread"
    assert text.counted(0, "item") == "0 items"


def test_span_renders_both_bounds() -> None:
    assert text.span(Interval(low=0.5, central=1, high=2), text.joules) == "500 mJ to 2.00 J"
    assert text.span(None, text.joules) == text.MISSING


@pytest.mark.parametrize(
    ("grade", "word"),
    [
        ("A", "measured"),
        ("B", "measured"),
        ("C", "estimated"),
        ("D", "estimated"),
        ("E", "predicted"),
    ],
)
def test_only_counters_and_meters_measure(grade: Grade, word: str) -> None:
    assert text.grade_word(grade) == word


def test_joules_show_their_grade() -> None:
    assert text.graded(0.00123, "D") == "1.23 mJ [D]"
    assert text.graded(None, "D") == text.MISSING


@given(st.text())
def test_plain_text_is_one_printable_line(value: str) -> None:
    assert text.plain(value).isprintable()


def test_plain_text_shows_what_it_escapes() -> None:
    assert text.plain("a\x1b[31mb\nc é") == r"a\x1b[31mb\nc é"


def test_recipe_in_words() -> None:
    step = Step(name="quantize-static", parameters={"per_channel": False, "bits": 8})
    run = RunSettings(
        runtime="onnxruntime", threads=1, spinning=True, graph="basic", precision="bf16"
    )
    assert text.describe_recipe(Recipe(steps=(step,), run=run)) == (
        "quantize static (bits 8, not per channel), run on ONNX Runtime with 1 thread, "
        "spinning threads, basic graph optimisation, bf16 arithmetic"
    )


def test_an_unknown_runtime_keeps_its_name() -> None:
    recipe = Recipe(run=RunSettings(runtime="tvm"))
    assert text.describe_recipe(recipe) == "original weights, run on tvm"


def test_of_lines_that_differ_in_a_percentage_the_worst_is_kept() -> None:
    lines = ["others used 9% of it", "it is hot", "others used 12% of it", "others used 11% of it"]
    assert text.worst_of(lines) == [
        "others used 12% of it (the worst of 3 measurements)",
        "it is hot",
    ]
    assert text.worst_of(lines[:2] * 2) == lines[:2]
    assert text.worst_of([]) == []
