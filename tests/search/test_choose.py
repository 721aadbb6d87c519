from __future__ import annotations

import itertools

import pytest

from joulewise.core.claim import Trial
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.search.choose import best_lossless, best_runs, choose, with_reasons
from tests.trials import AS_FOUND, ONE_THREAD, failed, int8, measured, rejected

FOUND = measured(AS_FOUND, 2.0)
ANCHOR = measured(ONE_THREAD, 1.0)


def recipe_of(trial: Trial | None) -> Recipe | None:
    return None if trial is None else trial.recipe


def test_lowest_joules_among_those_that_keep_quality_win() -> None:
    good, better = measured(int8(kind="a"), 0.7), measured(int8(kind="b"), 0.6)
    choice = choose([FOUND, ANCHOR, good, better, rejected(int8(kind="c"), 0.3)])
    assert choice.candidate is better
    assert choice.baseline is ANCHOR
    assert choice.as_found is FOUND


def test_nothing_below_one_gives_no_candidate() -> None:
    choice = choose([measured(AS_FOUND, 1.0), measured(ONE_THREAD, 1.01), measured(int8(), 1.1)])
    assert choice.candidate is None


def test_only_the_model_as_found_gives_no_candidate() -> None:
    assert choose([FOUND]).candidate is None


def test_candidate_needs_its_whole_interval_below_one() -> None:
    wide = measured(int8(), 0.95, spread=1.2)
    assert choose([measured(AS_FOUND, 1.0), wide]).candidate is None


def test_band_of_the_sensor_counts() -> None:
    trials = [measured(AS_FOUND, 1.0, band=1.25), measured(int8(), 0.85, band=1.25)]
    assert choose(trials).candidate is None
    trials[1] = measured(int8(), 0.75, band=1.25)
    assert recipe_of(choose(trials).candidate) == int8()


def test_lossless_winner_is_the_candidate_where_no_change_pays() -> None:
    choice = choose([FOUND, ANCHOR, measured(int8(), 1.2), rejected(int8(kind="c"), 0.3)])
    assert choice.candidate is choice.baseline is ANCHOR


def test_lossless_winner_with_wide_interval_is_none() -> None:
    choice = choose([measured(AS_FOUND, 1.1), measured(ONE_THREAD, 1.0, spread=1.3)])
    assert choice.baseline.recipe == ONE_THREAD
    assert choice.candidate is None


def test_changed_model_is_held_against_the_strongest_baseline() -> None:
    beats_found_only = measured(int8(), 1.5)
    assert choose([FOUND, ANCHOR, beats_found_only]).candidate is ANCHOR


def test_rounded_arithmetic_is_a_change_of_the_model() -> None:
    rounded = measured(Recipe(run=RunSettings(runtime="openvino", precision="bf16")), 0.4)
    choice = choose([FOUND, ANCHOR, rounded])
    assert choice.baseline is ANCHOR
    assert choice.candidate is rounded


def test_rejected_lossless_trial_is_no_baseline() -> None:
    assert best_lossless([FOUND, rejected(ONE_THREAD, 0.1)]) is FOUND


def test_order_does_not_matter() -> None:
    rest = [
        ANCHOR,
        measured(int8(kind="a"), 0.7),
        measured(int8(kind="b"), 0.6),
        rejected(int8(kind="c"), 0.2),
        failed(int8(kind="d")),
    ]
    choices = {
        (choice.baseline.recipe.key, choice.candidate.recipe.key if choice.candidate else None)
        for order in itertools.permutations(rest)
        for choice in [choose([FOUND, *order])]
    }
    assert choices == {(ONE_THREAD.key, int8(kind="b").key)}


@pytest.mark.parametrize("candidate", [0.5, 1.2, 0.99])
def test_every_loser_has_a_reason(candidate: float) -> None:
    trials = [
        FOUND,
        ANCHOR,
        measured(Recipe(run=RunSettings(runtime="onnxruntime", threads=2)), 1.4),
        measured(int8(kind="a"), candidate),
        measured(int8(kind="b"), candidate + 0.1),
        rejected(int8(kind="c"), 0.2),
        failed(int8(kind="d")),
    ]
    choice = choose(trials)
    told = with_reasons(trials, choice)
    assert [trial.recipe for trial in told] == [trial.recipe for trial in trials]
    assert all(trial.reason for trial in told if trial.recipe != recipe_of(choice.candidate)), told


def test_reasons_that_were_given_stay() -> None:
    trials = [FOUND, ANCHOR, failed(int8())]
    assert with_reasons(trials, choose(trials))[2].reason == "it crashed"


def test_best_runs_gives_the_cheapest_lossless_settings_of_each_runtime() -> None:
    openvino = [RunSettings(runtime="openvino", threads=n, precision="f32") for n in (1, 2)]
    trials = [
        FOUND,
        ANCHOR,
        measured(Recipe(run=openvino[0]), 0.9),
        measured(Recipe(run=openvino[1]), 0.8),
        measured(int8(), 0.1),
        rejected(Recipe(run=RunSettings(runtime="onnxruntime", threads=9)), 0.1),
    ]
    assert best_runs(trials) == {"openvino": openvino[1], "onnxruntime": ONE_THREAD.run}
