from __future__ import annotations

from dataclasses import replace

import pytest

from joulewise.core.claim import Check, Claim, Difference, Ledger, Quality, Ratio
from joulewise.core.energy import Interval
from joulewise.core.recipe import Recipe, RunSettings

RATIO = Ratio(
    value=0.5,
    low=0.4,
    high=0.6,
    sampling_low=0.45,
    sampling_high=0.55,
    confidence=0.95,
    pairs=12,
    grade="D",
    objective="net of idle",
)
QUALITY = Quality(metric="top1", value=0.9, items=1000, split_digest="0")
GOOD = Check(name="energy", holds=True, detail="")
BAD = Check(name="quality", holds=False, detail="")
CLAIM = Claim(
    candidate=Recipe(run=RunSettings(runtime="openvino")),
    baseline=Recipe(run=RunSettings(runtime="onnxruntime")),
    ratio=RATIO,
    ratio_as_found=RATIO,
    quality_baseline=QUALITY,
    quality_candidate=QUALITY,
    difference=Difference(
        value=0.0,
        lower=-0.003,
        upper=0.003,
        confidence=0.95,
        items=1000,
        gained=0,
        lost=0,
        changed=0,
    ),
    margin=0.005,
    checks=(GOOD, GOOD),
)


def test_a_claim_holds_when_all_checks_hold() -> None:
    assert CLAIM.holds


@pytest.mark.parametrize("checks", [(BAD,), (GOOD, BAD), (BAD, GOOD)])
def test_one_failed_check_fails_the_claim(checks: tuple[Check, ...]) -> None:
    assert not replace(CLAIM, checks=checks).holds


def test_a_claim_that_nobody_checked_does_not_hold() -> None:
    assert not replace(CLAIM, checks=()).holds


def test_the_ledger_adds_up_all_causes() -> None:
    ledger = Ledger(
        stages_j={
            "baseline": Interval(low=1.0, central=2.0, high=4.0),
            "trials": Interval(low=10.0, central=20.0, high=40.0),
        },
        seconds={"baseline": 1.0, "trials": 9.0},
        grade="D",
    )
    assert ledger.total_j == Interval(low=11.0, central=22.0, high=44.0)


def test_an_empty_ledger_adds_up_to_nothing() -> None:
    ledger = Ledger(stages_j={}, seconds={}, grade="D")
    assert ledger.total_j == Interval(low=0.0, central=0.0, high=0.0)
