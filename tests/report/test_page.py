from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from joulewise.core.energy import Interval
from joulewise.core.errors import MissingExtraError
from joulewise.report.frontier import frontier_spec, plotted
from joulewise.report.page import render_page
from joulewise.report.plots import plot_script
from joulewise.report.verdict import trial_table
from tests.report.bundles import (
    AS_FOUND,
    make_bundle,
    make_ledger,
    make_ratio,
    make_workload,
)

LOADED = re.compile(
    r"""(?:\b(?:src|href|srcset|data|action|poster)\s*=\s*["']?|@import\s*["']?|url\(\s*["']?)"""
    r"""\s*(?:https?:)?//""",
    re.IGNORECASE,
)
EVIL = "<script>alert(1)</script>"
VERDICTS = ("cheaper", "rerun", "keep")


class Tags(HTMLParser):
    """Collects start tags with their attributes, and whether all that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parse(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


@pytest.fixture
def no_altair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)


@pytest.mark.parametrize("verdict", VERDICTS)
def test_page_loads_nothing(verdict: str) -> None:
    page = render_page(make_bundle(verdict))
    assert not LOADED.search(page)
    tags = parse(page)
    assert tags.open == []
    loading = {"src", "href", "srcset", "data", "poster", "action"}
    assert not [tag for tag, attributes in tags.tags if loading & set(attributes)]
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "text", ['<img src="https://x/a.png">', "@import url(//x)", "url( http://"]
)
def test_the_offline_check_sees_what_it_should(text: str) -> None:
    assert LOADED.search(text)


@pytest.mark.parametrize(
    ("verdict", "badge"),
    [
        ("cheaper", "badge good"),
        ("rerun", "badge fair"),
        ("keep", "badge same"),
    ],
)
def test_badge(verdict: str, badge: str) -> None:
    assert f'class="{badge}"' in render_page(make_bundle(verdict))


@pytest.mark.usefixtures("no_altair")
def test_page_without_altair_says_how_to_get_the_plot() -> None:
    page = render_page(make_bundle())
    assert "altair is not installed" in page
    assert "joulewise[plots]" in page
    assert "<script" not in page
    assert "no fast kernel for dynamic int8" in page


def test_page_without_vl_convert_says_how_to_get_the_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert "vl_convert is not installed" in render_page(make_bundle())
    with pytest.raises(MissingExtraError):
        plot_script()


def test_the_script_of_the_plots_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    script = plot_script()
    (kept,) = (tmp_path / "joulewise").iterdir()
    assert "vegaEmbed" in script
    assert kept.read_text(encoding="utf-8") == script
    kept.write_text("of the next run")
    assert plot_script() == "of the next run"


def test_a_cache_that_cannot_be_written_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert "vegaEmbed" in plot_script()


@pytest.mark.usefixtures("no_altair")
def test_specification_needs_altair() -> None:
    with pytest.raises(MissingExtraError, match=r"joulewise\[plots\]"):
        frontier_spec(make_bundle())


@pytest.mark.parametrize("name", ["frontier", "ledger", "payback"])
def test_chart_is_drawn_once(name: str) -> None:
    page = render_page(make_bundle())
    assert page.count(f'vegaEmbed("#{name}"') == 1
    assert page.count(f'id="{name}"') == 1
    assert len([tag for tag, _ in parse(page).tags if tag == "script"]) == 2


def test_chart_without_points_says_so() -> None:
    page = render_page(make_bundle("keep", trials=(), claims=()))
    assert "no trial has both energy and quality" in page
    assert "nothing was tried" in page
    assert "No candidate reached the final test." in page


def test_everything_foreign_is_escaped() -> None:
    bundle = make_bundle(workload=replace(make_workload(model=EVIL, classes=(EVIL,)), data=EVIL))
    trials = tuple(replace(trial, reason=EVIL, state="measured") for trial in bundle.trials)
    claim = bundle.claims[-1]
    claim = replace(
        claim,
        difference=replace(claim.difference, worst_slice=EVIL),
        checks=tuple(replace(check, detail=EVIL) for check in claim.checks),
    )
    evil = replace(bundle, summary=EVIL, trials=trials, claims=(claim,), warnings=(EVIL,))
    page = render_page(evil)
    assert EVIL not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    tags = parse(page)
    assert tags.open == []
    assert len([tag for tag, _ in tags.tags if tag == "script"]) == 2


def test_trials_without_ratio_or_quality_stay_in_the_table_only() -> None:
    bundle = make_bundle()
    shown = [point["recipe"] for point in plotted(bundle)]
    assert len(shown) == 5
    assert not any("bf16" in recipe for recipe in shown)
    assert not any("bits 4" in recipe for recipe in shown), "83.9 pp below would flatten the plot"
    page = render_page(bundle)
    assert "2 trials only in the table below" in page
    assert "the CPU has no bf16 instructions" in page


def test_margin_line_is_below_the_original() -> None:
    values = _values(frontier_spec(make_bundle()))
    lines = [row["y"] for row in values if "text" in row]
    assert lines
    assert lines == pytest.approx([0.934] * len(lines))


def test_no_margin_line_without_the_original() -> None:
    bundle = make_bundle()
    others = tuple(t for t in bundle.trials if t.recipe not in (AS_FOUND, bundle.baseline))
    values = _values(frontier_spec(replace(bundle, trials=others)))
    assert not [row for row in values if "text" in row]
    assert any("bits 4" in row["recipe"] for row in values), "nothing says that it is far below"


@pytest.mark.parametrize(("largest", "kind"), [(1.9, "linear"), (40.0, "log")])
def test_wide_ranges_get_a_logarithmic_axis(largest: float, kind: str) -> None:
    bundle = make_bundle()
    wide = replace(bundle.trials[0], ratio=make_ratio(largest))
    spec = frontier_spec(replace(bundle, trials=(wide, *bundle.trials[1:])))
    assert spec is not None
    types = {layer["encoding"].get("x", {}).get("scale", {}).get("type") for layer in spec["layer"]}
    assert types - {None} == {kind}


def test_chosen_trial_is_marked() -> None:
    points = plotted(make_bundle())
    assert [p["label"] for p in points if p["verdict"] == "chosen"] == ["chosen"]


def test_line_of_the_front_joins_what_none_beats_in_joules_and_quality() -> None:
    """The baseline is the cheapest of the best; dynamic int8 is beaten by it, pruning by int8."""
    found = {(p["x"], p["y"]): p["front"] for p in plotted(make_bundle())}
    assert found == {
        (1.9, 0.939): False,
        (1.0, 0.939): True,
        (0.402, 0.9375): True,
        (1.21, 0.9385): False,
        (0.61, 0.921): False,
    }


def test_table_marks_the_front() -> None:
    """Size keeps none on it here, and what collapsed is the cheapest of all."""
    bundle = make_bundle()
    marked = [row.on_front for row in trial_table(bundle)]
    assert marked == [False, True, True, True, False, True, False]
    assert render_page(bundle).count('aria-label="on the front"') == sum(marked)


def test_specification_is_json() -> None:
    assert json.loads(json.dumps(frontier_spec(make_bundle())))


def test_checks_show_whether_they_hold() -> None:
    page = render_page(make_bundle("keep"))
    assert page.count("✓") == 1
    assert page.count("✗") == 1
    assert "does not hold" in page


def test_ledger_of_nothing_has_no_share() -> None:
    nothing = Interval(low=0, central=0, high=0)
    ledger = replace(make_ledger("keep"), stages_j={"baseline": nothing}, seconds={})
    page = render_page(make_bundle("keep", ledger=ledger))
    assert "width: 0.0%" in page


def test_method_names_sensor_boundary_and_source() -> None:
    page = render_page(make_bundle(grade="B"))
    assert "rapl, grade B (measured)" in page
    assert "CPU package" in page
    assert "Teads 2021" in page


def _values(spec: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the rows of every data set in a specification."""
    assert spec is not None
    parts = [spec, *spec["layer"]]
    return [row for part in parts for row in part.get("data", {}).get("values", [])]
