from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.core.profile import OperatorTime, Profile, Work
from joulewise.core.records import Bundle, dump, load
from joulewise.report.explain import explain_lines, explain_table, subjects
from joulewise.report.page import render_page
from tests.report.bundles import AS_FOUND, BASELINE, COLLAPSED, INT8, PRUNED, make_bundle

EVIL = "<script>alert(1)</script>"
WORK = Work(mac=37_300_000, moved_bytes=5_000_000)


def profile(call_s: float, **seconds: float) -> Profile:
    return Profile(
        runtime="onnxruntime", batch_items=32, calls=9, call_s=call_s,
        operators=tuple(
            OperatorTime(kind=kind, count=3, seconds=each) for kind, each in seconds.items()
        ),
    )  # fmt: skip


PROFILES = {
    BASELINE.key: replace(profile(10e-3, Conv=8e-3, Relu=1e-3, Cast=50e-6), work=WORK),
    INT8.key: profile(4e-3, QLinearConv=2e-3, Relu=1e-3),
    COLLAPSED.key: profile(5e-3, QLinearConv=4e-3, Gather=10e-6, Concat=20e-6),
}


@pytest.fixture
def bundle() -> Bundle:
    plain = make_bundle()
    trials = (replace(x, profile=PROFILES.get(x.recipe.key)) for x in plain.trials)
    return replace(plain, trials=tuple(trials))


def test_who_is_told_of(bundle: Bundle) -> None:
    found = subjects(bundle.trials, BASELINE, INT8)
    assert {role: trial.recipe for role, trial in found.items()} == {
        "original": BASELINE, "chosen": INT8, "best rejected": COLLAPSED,
    }  # fmt: skip


def test_original_that_is_kept_is_told_of_once(bundle: Bundle) -> None:
    found = subjects(bundle.trials, AS_FOUND, AS_FOUND)
    assert [*found] == ["original", "best rejected"]
    assert found["best rejected"].recipe == COLLAPSED
    changed = [trial for trial in bundle.trials if trial.recipe in (AS_FOUND, PRUNED)]
    assert subjects(changed, AS_FOUND, AS_FOUND)["best rejected"].recipe == PRUNED


def test_without_trials_nobody_is_told_of() -> None:
    assert subjects((), AS_FOUND, AS_FOUND) == {}


def test_lines(bundle: Bundle) -> None:
    *table, original, chosen, rejected = explain_lines(bundle)
    assert table == [
        "time of a call of 32 items         original           chosen    best rejected",
        "Conv                        8.00 ms  80.0 %                –                –",
        "QLinearConv                               –  2.00 ms  50.0 %  4.00 ms  80.0 %",
        "Relu                        1.00 ms  10.0 %  1.00 ms  25.0 %                –",
        "3 other types below 1 %     50.0 µs   0.5 %                –  30.0 µs   0.6 %",
        "outside operators            950 µs   9.5 %  1.00 ms  25.0 %   970 µs  19.4 %",
        "one call                    10.0 ms 100.0 %  4.00 ms 100.0 %  5.00 ms 100.0 %",
    ]
    assert original == (
        "original: original weights, run on ONNX Runtime with 2 threads, no spinning, all graph "
        "optimisation; 37,300,000 multiply-adds per call, 7.5 for each byte of weights and values "
        "(counted)"
    )
    assert chosen == "chosen: quantize static (bits 8, per channel), run on OpenVINO with 1 thread"
    assert rejected.startswith("best rejected: quantize static (bits 4), run on ONNX Runtime")
    assert rejected.endswith("; loses 83.90 pp")


def test_every_column_adds_up(bundle: Bundle) -> None:
    table = explain_table(bundle)
    assert table is not None
    *parts, whole = table.rows.values()
    for number, total in enumerate(whole):
        cells = [cells[number] for cells in parts]
        assert total is not None
        assert sum(cell.share_ratio for cell in cells if cell) == pytest.approx(1)
        assert sum(cell.seconds for cell in cells if cell) == pytest.approx(total.seconds)


def test_page_shows_it(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)  # plots take their time
    page = render_page(bundle)
    assert "Where the time goes" in page
    assert "2.00 ms, 50.0 %" in page
    assert "Where the time goes" not in render_page(make_bundle())


def test_nothing_is_told_without_profiles() -> None:
    assert explain_lines(make_bundle()) == []


def test_names_of_operators_are_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    bundle = make_bundle()
    evil = profile(1e-3, **{f"{EVIL}\x1b[2J": 1e-3})
    trials = (replace(bundle.trials[1], profile=evil), *bundle.trials[2:])
    shown = replace(bundle, trials=trials)
    assert EVIL not in render_page(shown)
    assert all(line.isprintable() for line in explain_lines(shown))


def test_profiles_are_kept_with_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    dump(bundle, tmp_path / "joulewise.json")
    assert load(Bundle, tmp_path / "joulewise.json") == bundle
