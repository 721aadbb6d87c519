from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.core.claim import Trial
from joulewise.core.energy import Grade
from joulewise.core.errors import InputError
from joulewise.core.records import Bundle, dump, load
from joulewise.report.text import MISSING
from joulewise.report.verdict import (
    headline,
    j_per_item,
    ledger_line,
    trial_table,
    verdict_lines,
    verdict_parts,
)
from tests.report.bundles import (
    AS_FOUND,
    INT8,
    make_bundle,
    make_claim,
    make_difference,
    make_ledger,
    make_measurement,
    make_quality,
    make_workload,
)

VERDICTS = ("cheaper", "rerun", "keep")


@pytest.mark.parametrize("verdict", VERDICTS)
def test_bundle_round_trips_through_json(verdict: str, tmp_path: Path) -> None:
    bundle = make_bundle(verdict)
    dump(bundle, tmp_path / "joulewise.json")
    again = load(Bundle, tmp_path / "joulewise.json")
    assert again == bundle
    assert verdict_lines(again) == verdict_lines(bundle)


def test_cheaper() -> None:
    assert verdict_lines(make_bundle("cheaper")) == (
        (
            "result   fashion_mnist.onnx -> quantize static (bits 8, per channel), "
            "run on OpenVINO with 1 thread"
        ),
        (
            "energy   1.02 mJ -> 410 µJ per item (estimated, grade D); "
            "0.402 times the strongest lossless way (-59.8 %, 95 % interval 0.366 to 0.438, "
            "12 pairs, estimated, grade D, net of idle); 0.212 times the model as found "
            "(0.193 to 0.231, grade D)"
        ),
        (
            "quality  accuracy 93.90 % -> 93.75 %; difference -0.15 pp, "
            "lower bound -0.41 pp at 95 %, margin 0.50 pp; "
            "48 of 2,000 answers changed (20 gained, 23 lost); worst class Shirt -1.15 pp"
        ),
        (
            "cost     the search took 4.12 kJ (2.06 kJ to 8.24 kJ, estimated, grade D) and "
            "14 min 36 s; pays back after 6,750,000 inferences "
            "(3,100,000 to 15,000,000, 100,000,000 expected)"
        ),
    )


def test_rerun_says_that_answers_are_the_same() -> None:
    result, energy, quality, _ = verdict_parts(make_bundle("rerun"))
    assert "original weights, run on ONNX Runtime with 2 threads" in result
    assert "0.530 times the model as found" in energy
    assert energy.count("times the model as found") == 1
    assert quality == "the answers are the same: 0 of 2,000 items changed; accuracy 93.90 %"


def test_rerun_that_changes_an_answer_shows_the_difference() -> None:
    bundle = make_bundle("rerun")
    first = replace(bundle.claims[0], difference=make_difference(0.0, changed=3, gained=2, lost=1))
    quality = verdict_parts(replace(bundle, claims=(first,)))[2]
    assert "the same" not in quality
    assert "3 of 2,000 answers changed (2 gained, 1 lost)" in quality


def test_keep_names_the_best_failed_claim() -> None:
    result, energy, quality, cost = verdict_parts(make_bundle("keep"))
    assert result == "fashion_mnist.onnx is kept as it is: no candidate was cheaper with proof"
    assert energy.startswith("best rejected candidate: quantize static")
    assert "failed quality: lower bound -0.41 pp" in energy
    assert "failed energy" not in energy
    assert quality == (
        "the hold-out of 2,000 items can certify a margin of 0.15 pp at best; 0.50 pp was declared"
    )
    assert cost.endswith("nothing is saved that could pay it back")


def test_keep_says_whom_the_break_even_is_of() -> None:
    ledger = make_ledger("cheaper")
    cost = verdict_parts(make_bundle("keep", ledger=ledger))[3]
    assert "; the best rejected candidate would pay back after 6,750,000 inferences" in cost


def test_ledger_names_every_cause_with_joules_interval_and_time() -> None:
    assert ledger_line(make_bundle("keep")) == (
        "ledger   baseline 600 J (300 J to 1.20 kJ) in 2 min 00 s; "
        "calibration 120 J (60.0 J to 240 J) in 21.0 s; "
        "trials 3.00 kJ (1.50 kJ to 6.00 kJ) in 10 min 40 s; "
        "proof 400 J (200 J to 800 J) in 1 min 35 s (estimated, grade D)"
    )


def test_keep_without_claims_names_the_cheapest_trial() -> None:
    energy = verdict_parts(make_bundle("keep", claims=()))[1]
    assert "quantize static (bits 4)" in energy
    assert "energy ratio 0.350 (0.319 to 0.382) [D], quality 10.00 % (-83.90 pp)" in energy


def test_keep_without_trials() -> None:
    parts = verdict_parts(make_bundle("keep", claims=(), trials=()))
    assert parts[1] == "no other candidate was measured"


def test_keep_says_when_the_hold_out_is_too_small() -> None:
    quality = verdict_parts(make_bundle("keep", smallest_margin=0.012))[2]
    assert quality.endswith("0.50 pp was declared: too few items for it")


@pytest.mark.parametrize(("grade", "word"), [("B", "measured"), ("D", "estimated")])
def test_words_follow_the_grade(grade: Grade, word: str) -> None:
    bundle = make_bundle("cheaper", grade=grade)
    other = {"measured": "estimated", "estimated": "measured"}[word]
    said = headline(bundle) + " ".join(verdict_parts(bundle))
    assert f"{word}, grade {grade}" in said
    assert other not in said


def test_every_line_with_joules_names_a_grade() -> None:
    for verdict in VERDICTS:
        energy, cost = (verdict_parts(make_bundle(verdict))[i] for i in (1, 3))
        assert "grade D" in energy
        assert "grade D" in cost


def test_joules_that_were_not_kept_are_left_out() -> None:
    bundle = make_bundle("cheaper")
    claim = replace(bundle.claims[-1], measurements={})
    energy = verdict_parts(replace(bundle, claims=(claim,)))[1]
    assert "per item" not in energy
    assert energy.startswith("0.402 times")


def test_joules_without_known_idle_power_are_left_out() -> None:
    bundle = make_bundle("cheaper")
    claim = bundle.claims[-1]
    gross = replace(claim, ratio=replace(claim.ratio, objective="gross"))
    assert verdict_parts(replace(bundle, claims=(gross,)))[1].startswith("0.402 times")


def test_no_worst_class_without_labels() -> None:
    bundle = make_bundle("cheaper")
    claim = bundle.claims[-1]
    claim = replace(claim, difference=make_difference(-0.0015, worst_slice=None))
    assert "worst" not in verdict_parts(replace(bundle, claims=(claim,)))[2]


@pytest.mark.parametrize("verdict", ["cheaper", "rerun"])
def test_a_winner_without_proof_is_refused(verdict: str) -> None:
    with pytest.raises(InputError, match="no claim that proves it"):
        verdict_lines(make_bundle(verdict, claims=()))


def test_a_failed_claim_is_no_proof() -> None:
    failed = make_claim(INT8, AS_FOUND, ratio=0.4, holds=False)
    with pytest.raises(InputError):
        verdict_lines(make_bundle("cheaper", claims=(failed,)))


def test_foreign_text_cannot_break_a_line() -> None:
    bundle = make_bundle("cheaper", workload=make_workload(model="x/a\n\x1b[2Jb.onnx"))
    claim = bundle.claims[-1]
    nasty = replace(claim, difference=replace(claim.difference, worst_slice="Sh\nirt\x1b"))
    lines = verdict_lines(replace(bundle, claims=(nasty,)))
    assert all(line.isprintable() for line in lines)
    assert r"Sh\nirt\x1b" in lines[2]


def test_trial_table_keeps_order_and_reasons() -> None:
    rows = trial_table(make_bundle("cheaper"))
    verdicts = [row.verdict for row in rows]
    assert verdicts == [
        "measured", "measured", "chosen", "measured", "rejected", "rejected", "failed",
    ]  # fmt: skip
    assert rows[0].role == "as found"
    assert rows[1].role == "strongest lossless way"
    assert rows[2].reason == ""
    assert rows[2].ratio == "0.402 (0.366 to 0.438) [D]"
    assert rows[2].joules == "410 µJ [D]"
    assert rows[3].reason == "no fast kernel for dynamic int8 on this CPU"


def test_trial_table_shows_missing_as_a_dash() -> None:
    failed = trial_table(make_bundle("cheaper"))[-1]
    assert {failed.ratio, failed.joules, failed.quality, failed.size} == {MISSING}


def test_quality_without_a_difference() -> None:
    trial = Trial(recipe=INT8, state="measured", quality=make_quality(0.5))
    assert trial_table(make_bundle(trials=(trial,)))[0].quality == "50.00 %"


def test_unknown_idle_power_is_missing_not_zero() -> None:
    measurement = make_measurement(0.001)
    assert j_per_item(measurement, "gross") is None
    assert j_per_item(replace(measurement, blocks=()), "net of idle") is None
    assert j_per_item(None, "gross") is None
    gross = j_per_item(replace(measurement, idle_w=10.0), "gross")
    assert gross is not None
    assert gross.central == pytest.approx(0.001 + 0.02)


def of_all(metric: str, before: float, after: float) -> str:
    """Return the line on quality of a claim by a metric of all answers together."""
    bundle = make_bundle()
    claims = tuple(
        replace(
            claim,
            quality_baseline=replace(claim.quality_baseline, metric=metric, value=before),
            quality_candidate=replace(claim.quality_candidate, metric=metric, value=after),
            difference=replace(
                claim.difference, gained=None, lost=None, worst_slice=None, error=0.001,
                divergence_nats=0.00123, agreement_ratio=0.9876,
            ),
        )
        for claim in bundle.claims
    )  # fmt: skip
    return verdict_lines(replace(bundle, claims=claims))[2]


def test_f1_is_told_in_points_and_no_item_is_gained_or_lost() -> None:
    assert of_all("macro_f1", 0.91, 0.9085) == (
        "quality  F1 score (mean over classes) 91.00 % -> 90.85 %; difference -0.15 pp, lower "
        "bound -0.41 pp at 95 %, margin 0.50 pp; 48 of 2,000 answers changed; KL divergence from "
        "the original 0.00123 nats, 98.76 % same top-1"
    )


def test_perplexity_is_told_as_itself_and_its_change_as_a_part_of_it() -> None:
    line = of_all("perplexity", 1 / 20.0, 1 / 20.03)
    assert "perplexity 20 -> 20.03; difference -0.15 %, lower bound -0.41 % at 95 %" in line
    assert "margin 0.50 %" in line
