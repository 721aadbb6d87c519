"""What is foreseen of a run, held against runs that were recorded, and against closed forms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.core.claim import Trial
from joulewise.core.energy import Interval
from joulewise.core.records import Bundle, load
from joulewise.core.settings import Budget
from joulewise.pipeline import _proof_s
from joulewise.search.foresee import (
    CUT_OFF,
    TEACH_S,
    Counts,
    Sample,
    Samples,
    foresee,
    training_s,
    trainings,
)
from joulewise.search.structure import TEACHING

RECORDS = Path(__file__).parents[2] / "records"
RUNS = ("appliances", "engines", "pictures", "smaller-batch-1", "smaller-batch-32")
"""Those whose trials tell what making the model took."""

TRAININGS = Interval(low=1.0, central=3.0, high=6.0)


def exactly(value: float) -> Interval:
    return Interval(low=value, central=value, high=value)


def teaches(trial: Trial) -> bool:
    return any(step.name in TEACHING for step in trial.recipe.steps)


def making(trial: Trial) -> Sample:
    """Return what applying the steps of a trial took."""
    assert trial.made_j is not None
    seconds = trial.made_s or 0.0
    return Sample(seconds=exactly(seconds), power_w=trial.made_j.scaled(1 / seconds))


def first_made(trials: Sequence[Trial]) -> dict[str, Sample]:
    """Return what the first step of each runtime took."""
    found: dict[str, Sample] = {}
    for trial in trials:
        if trial.recipe.steps and trial.made_s:
            found.setdefault(trial.recipe.run.runtime, making(trial))
    return found


def samples_of(bundle: Bundle) -> tuple[Counts, Samples]:
    """Return what a dry run of a recorded run would have found: the first of each kind of part."""
    first, ledger = bundle.trials[0], bundle.ledger
    assert first.cost_j is not None
    assert first.measurement is not None
    lossless = [t for t in bundle.trials if t.recipe.lossless]
    taught = [t for t in bundle.trials if teaches(t)]
    changed = [t for t in bundle.trials if t not in lossless and t not in taught]
    prepared_s = ledger.seconds["preparation"]
    lesson = next((t for t in taught if t.state != "failed"), None)
    seconds = first.seconds or 0.0
    steps: dict[str, int] = {}
    for trial in changed:
        runtime = trial.recipe.run.runtime
        steps[runtime] = steps.get(runtime, 0) + len(trial.recipe.steps)
    counts = Counts(
        lossless=len(lossless),
        changed=len(changed),
        steps={runtime: exactly(number) for runtime, number in steps.items()},
        trainings=TRAININGS if taught else exactly(0),
        taught=exactly(len(taught)),
        search_items=bundle.workload.splits["search"].items,
    )
    return counts, Samples(
        sensor=first.measurement.sensor,
        preparation=Sample(
            seconds=exactly(prepared_s),
            power_w=ledger.stages_j["preparation"].scaled(1 / prepared_s),
        ),
        as_found=first,
        tried=Sample(seconds=exactly(seconds), power_w=first.cost_j.scaled(1 / seconds)),
        steps=first_made(changed),
        body=0 if taught else None,
        taught=None if lesson is None else making(lesson),
    )


@pytest.mark.parametrize("name", RUNS)
def test_recorded_runs_lie_within_what_their_first_parts_foretell(name: str) -> None:
    bundle = load(Bundle, RECORDS / f"{name}.json")
    counts, samples = samples_of(bundle)
    proof_s = _proof_s(bundle.trials[0], bundle.workload.splits["hold-out"].items)
    found = foresee(counts, samples, proof_s, Budget())
    total_s = sum(bundle.ledger.seconds.values())
    assert found.total_s.low < total_s < found.total_s.high
    assert 1 / 2 < found.total_s.central / total_s < 2
    total_j = bundle.ledger.total_j
    assert found.total_j.low < total_j.low < total_j.high < found.total_j.high
    assert 1 / 2 < found.total_j.central / total_j.central < 2
    for cause, seconds in found.seconds.items():
        taken_s = bundle.ledger.seconds.get(cause, 0.0)
        if cause == "trials":  # which then had the calibration in them
            taken_s -= sum(t.made_s or 0.0 for t in bundle.trials if not teaches(t))
        if cause != "calibration":
            assert seconds.low < taken_s < seconds.high, cause


def test_totals_are_sums_of_the_stages() -> None:
    counts, samples = samples_of(load(Bundle, RECORDS / "pictures.json"))
    found = foresee(counts, samples, 30.0, Budget())
    for bound in ("low", "central", "high"):
        for total, parts in ((found.total_s, found.seconds), (found.total_j, found.stages_j)):
            summed = sum(getattr(each, bound) for each in parts.values())
            assert getattr(total, bound) == pytest.approx(summed)


def test_a_budget_ends_it() -> None:
    counts, samples = samples_of(load(Bundle, RECORDS / "smaller-batch-1.json"))
    free = foresee(counts, samples, 30.0, Budget())
    short = foresee(counts, samples, 30.0, Budget(max_s=60.0))
    assert short.total_s == exactly(60.0)
    assert short.total_j.high < free.total_j.high
    assert short.seconds == free.seconds
    saved = foresee(counts, samples, 30.0, Budget(max_j=100.0))
    assert saved.total_j.high == pytest.approx(100.0 * samples.sensor.high_ratio)


def test_nothing_is_trained_without_items_to_learn_from() -> None:
    counts, samples = samples_of(load(Bundle, RECORDS / "pictures.json"))
    found = foresee(counts, samples, 30.0, Budget())
    assert "training" not in found.seconds
    assert any("no training" in line for line in found.basis)


def test_each_way_to_run_the_original_takes_as_long_as_the_first() -> None:
    counts, samples = samples_of(load(Bundle, RECORDS / "pictures.json"))
    found, more = (
        foresee(replace(counts, lossless=number), samples, 30.0, Budget()) for number in (5, 10)
    )
    assert more.seconds["baseline"].central == pytest.approx(2 * found.seconds["baseline"].central)
    assert more.recipes.central == found.recipes.central + 5


def test_what_is_taught_is_converted_for_each_runtime() -> None:
    counts, samples = samples_of(load(Bundle, RECORDS / "smaller-batch-1.json"))
    step = Sample(seconds=exactly(100.0), power_w=exactly(5.0))
    without, found = (
        foresee(counts, replace(samples, steps=steps), 30.0, Budget()).seconds["training"]
        for steps in ({}, {"litert": step})
    )
    assert found.low == without.low
    assert found.central == pytest.approx(without.central + 100.0 * TRAININGS.central)
    assert found.high > without.high + 2 * 100.0 * TRAININGS.high


def test_halving_seven_widths_takes_three_trainings_for_each_body() -> None:
    assert trainings(0) == TRAININGS
    assert trainings(1) == Interval(low=1.0, central=3.0, high=3.0)
    assert trainings(None) == exactly(0.0)


def test_training_goes_on_at_its_rate_after_its_start() -> None:
    """Two seconds of start, then 100 items a second: 1,000 items take 12 s."""
    reports = [(13.0, 100.0), (14.0, 200.0), (17.0, 500.0)]
    assert training_s(10.0, reports, 1000.0).central == pytest.approx(12.0)


def test_one_report_is_taken_for_all_of_the_time() -> None:
    assert training_s(10.0, [(14.0, 200.0)], 1000.0) == exactly(20.0)


def test_without_a_report_little_is_known() -> None:
    found = training_s(10.0, [], 1000.0)
    assert found.low == TEACH_S * CUT_OFF.low
    assert found.high / found.low >= 40
