from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.claim import Difference, Trial
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.statistics import chance_of_confirming
from joulewise.search.choose import (
    MOST_TESTS,
    WORTH,
    Choice,
    best_lossless,
    best_order,
    best_runs,
    certifiable_words,
    chance,
    choose,
    with_reasons,
)
from joulewise.search.space import plain_steps
from tests.trials import AS_FOUND, ONE_THREAD, failed, int8, measured, rejected

FOUND = measured(AS_FOUND, 2.0)
ANCHOR = measured(ONE_THREAD, 1.0)
TERMS = (0.005, 0.95, 5000)
"""Margin, confidence, held-out items."""


def chosen(trials: Sequence[Trial], hold_out_items: int = 5000) -> Choice:
    return choose(trials, margin=0.005, confidence=0.95, hold_out_items=hold_out_items)


def seen(trial: Trial, gained: int, lost: int, items: int = 3000) -> Trial:
    """Return a trial with what it gained and lost on the search items."""
    return replace(
        trial,
        difference=Difference(
            value=(gained - lost) / items, lower=-1.0, upper=1.0, confidence=0.95, items=items,
            gained=gained, lost=lost, changed=gained + lost,
        ),
    )  # fmt: skip


def test_lowest_joules_among_those_that_keep_quality_win() -> None:
    good, better = measured(int8(kind="a"), 0.7), measured(int8(kind="b"), 0.6)
    choice = chosen([FOUND, ANCHOR, good, better, rejected(int8(kind="c"), 0.3)])
    assert choice.candidates == (better,)
    assert choice.baseline is ANCHOR
    assert choice.as_found is FOUND


def test_nothing_below_one_gives_no_candidate() -> None:
    choice = chosen([measured(AS_FOUND, 1.0), measured(ONE_THREAD, 1.01), measured(int8(), 1.1)])
    assert choice.candidates == ()


def test_only_the_model_as_found_gives_no_candidate() -> None:
    assert chosen([FOUND]).candidates == ()


def test_candidate_needs_its_whole_interval_below_one() -> None:
    wide = measured(int8(), 0.95, spread=1.2)
    assert chosen([measured(AS_FOUND, 1.0), wide]).candidates == ()


def test_band_of_the_sensor_counts() -> None:
    trials = [measured(AS_FOUND, 1.0, band=1.25), measured(int8(), 0.85, band=1.25)]
    assert chosen(trials).candidates == ()
    trials[1] = measured(int8(), 0.75, band=1.25)
    assert chosen(trials).candidates == (trials[1],)


def test_lossless_winner_is_the_candidate_where_no_change_pays() -> None:
    choice = chosen([FOUND, ANCHOR, measured(int8(), 1.2), rejected(int8(kind="c"), 0.3)])
    assert choice.candidates == ()
    assert choice.fallback is choice.baseline is ANCHOR


def test_lossless_winner_with_wide_interval_is_none() -> None:
    choice = chosen([measured(AS_FOUND, 1.1), measured(ONE_THREAD, 1.0, spread=1.3)])
    assert choice.baseline.recipe == ONE_THREAD
    assert choice.candidates == ()


def test_changed_model_is_held_against_the_strongest_baseline() -> None:
    beats_found_only = measured(int8(), 1.5)
    choice = chosen([FOUND, ANCHOR, beats_found_only])
    assert (choice.candidates, choice.fallback) == ((), ANCHOR)


def test_rounded_arithmetic_is_a_change_of_the_model() -> None:
    rounded = measured(Recipe(run=RunSettings(runtime="openvino", precision="bf16")), 0.4)
    choice = chosen([FOUND, ANCHOR, rounded])
    assert choice.baseline is ANCHOR
    assert choice.candidates == (rounded,)


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
        (choice.baseline.recipe.key, *(candidate.recipe.key for candidate in choice.candidates))
        for order in itertools.permutations(rest)
        for choice in [chosen([FOUND, *order])]
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
    choice = chosen(trials)
    winner = (choice.candidates or (choice.baseline,))[-1].recipe
    told = with_reasons(trials, choice, winner)
    assert [trial.recipe for trial in told] == [trial.recipe for trial in trials]
    assert [trial.recipe for trial in told if not trial.reason] == [winner]


def test_what_is_cheaper_than_the_chosen_one_was_not_tested() -> None:
    """Chances of the first three are about 0.25, 0.81 and 1; the last is none by its reason."""
    doubtful = seen(measured(int8(kind="a"), 0.3), 60, 70)
    likely = seen(measured(int8(kind="b"), 0.4), 20, 20)
    sure = seen(measured(int8(kind="d"), 0.6), 3, 4)
    hopeless = seen(measured(int8(kind="e"), 0.2), 0, 90)
    trials = [FOUND, ANCHOR, sure, likely, doubtful, hopeless]
    choice = chosen(trials)
    assert choice.candidates == (sure, likely, doubtful)
    reasons = [x.reason for x in with_reasons(trials, choice, sure.recipe, [likely.recipe])]
    assert reasons[3:] == [
        "failed the final test",
        "0.50 x the joules of the chosen one, but its turn in the final test did not come",
        "0.33 x the joules of the chosen one, but not in the final test",
    ]


def test_reasons_that_were_given_stay() -> None:
    trials = [FOUND, ANCHOR, failed(int8())]
    assert with_reasons(trials, chosen(trials), None)[2].reason == "it crashed"


def test_a_sure_candidate_is_tested_alone() -> None:
    cheap, dear = (
        seen(measured(int8(kind="a"), 0.3), 2, 3),
        seen(measured(int8(kind="b"), 0.4), 0, 0),
    )
    assert chosen([FOUND, ANCHOR, dear, cheap]).candidates == (cheap,)


def test_the_cheapest_sure_one_comes_before_a_doubtful_one() -> None:
    doubtful = seen(measured(int8(kind="a"), 0.3), 60, 68)
    sure = seen(measured(int8(kind="b"), 0.4), 3, 4)
    dearer = seen(measured(int8(kind="c"), 0.5), 0, 0)
    assert chosen([FOUND, ANCHOR, dearer, doubtful, sure]).candidates == (sure, doubtful)


def test_one_in_between_is_tested_between() -> None:
    """Chances are about 0.25, 0.81, 0.85 and 1."""
    doubtful = seen(measured(int8(kind="a"), 0.3), 60, 70)
    likely = seen(measured(int8(kind="b"), 0.4), 20, 20)
    dearer = seen(measured(int8(kind="c"), 0.45), 18, 18)
    sure = seen(measured(int8(kind="d"), 0.6), 3, 4)
    trials = [FOUND, ANCHOR, sure, dearer, doubtful, likely]
    assert chosen(trials).candidates == (sure, likely, doubtful)
    assert chosen([FOUND, ANCHOR, sure, likely]).candidates == (sure, likely)
    assert chosen([FOUND, ANCHOR, likely, doubtful]).candidates == (likely, doubtful)


@given(
    st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.0, 1.0)), max_size=6),
    st.floats(0.5, 1.5),
)
def test_the_order_of_the_tests_is_the_best_there_is(
    found: list[tuple[float, float]], baseline: float
) -> None:
    """Held against all orders of at most four, each cheaper than the one before."""
    promising = [
        (measured(int8(number=number), ratio), passes)
        for number, (ratio, passes) in enumerate(sorted(found))
    ]

    def promised(chain: Sequence[tuple[Trial, float]]) -> float:
        joules, passed, reached = 0.0, baseline, 1.0
        for trial, passes in chain:
            assert trial.ratio is not None
            joules += reached * (WORTH * passed + (1 - passes) * passed)
            passed, reached = trial.ratio.value, reached * passes
        return joules + reached * passed

    every = [
        chain[::-1]
        for length in range(MOST_TESTS + 1)
        for chain in itertools.combinations(promising, length)
    ]
    chances = {trial.recipe.key: passes for trial, passes in promising}
    best = [(trial, chances[trial.recipe.key]) for trial in best_order(promising, baseline)]
    assert len(best) <= MOST_TESTS
    assert promised(best) == pytest.approx(min(map(promised, every)))


def test_one_in_between_lowers_what_a_failure_costs() -> None:
    """ElectricDevices once kept 0.53 where 0.18 was likely, as only the cheapest came after."""
    promising = [
        (measured(int8(kind=str(ratio)), ratio), passes)
        for ratio, passes in ((0.051, 0.48), (0.065, 0.43), (0.18, 0.7), (0.27, 0.72), (0.53, 1.0))
    ]
    order = [trial.ratio.value for trial in best_order(promising, 0.98) if trial.ratio]
    assert order == [0.53, 0.18, 0.051]


def test_what_seems_better_than_the_original_is_believed_in_part() -> None:
    """The best of many looks better than it is; the more so, the fewer items have shown it."""

    def chances(items: int, changed: int) -> list[float]:
        """Return those of no gain at all, of 75 % of the changes, and of as many without doubt."""
        half, most = changed // 2, 3 * changed // 4
        as_good, better = (
            chance(seen(measured(int8(), 0.3), gained, changed - gained, items), *TERMS)
            for gained in (half, most)
        )
        sure = chance_of_confirming(
            most, changed - most, items, others=5000, margin=0.005, confidence=0.95
        )
        return [as_good, better, sure]

    as_good, better, sure = chances(3000, 80)
    assert as_good < better < sure
    few = chances(300, 8)
    assert (few[1] - few[0]) / (few[2] - few[0]) < (better - as_good) / (sure - as_good)


def test_a_loss_is_believed_as_it_is() -> None:
    found = chance(seen(measured(int8(), 0.3), 10, 30), *TERMS)
    expected = chance_of_confirming(10, 30, 3000, others=5000, margin=0.005, confidence=0.95)
    assert found == expected


def test_what_can_be_certified_follows_from_the_changes() -> None:
    def words(gained: int, lost: int, items: int) -> str | None:
        return certifiable_words(seen(measured(int8(), 0.3), gained, lost), 0.005, 0.95, items)

    assert words(15, 15, 10_000) == (
        "where 1 % of the items are right in one of the two only, 10,000 certify a loss of 0.16 "
        "points every other time"
    )
    assert "certify a loss of 0.60 points" in str(words(15, 15, 750))
    assert "; 1,724 more would make 0.5 likely" in str(words(15, 15, 750))
    assert "more would" not in str(words(0, 15, 750))  # no number of items would
    assert certifiable_words(ANCHOR, 0.005, 0.95, 750) is None


def test_the_likeliest_comes_first_where_none_is_sure() -> None:
    doubtful = seen(measured(int8(kind="a"), 0.3), 60, 70)
    likelier = seen(measured(int8(kind="b"), 0.4), 60, 62)
    less = seen(measured(int8(kind="c"), 0.2), 60, 74)
    found = [measured(AS_FOUND, 1.0), doubtful, likelier, less]
    assert chosen(found).candidates == (likelier, less)
    assert chosen(found[:2]).candidates == (doubtful,)


def test_another_way_to_run_the_original_is_what_remains_where_it_saves() -> None:
    doubtful = seen(measured(int8(), 0.3), 60, 70)
    choice = chosen([FOUND, ANCHOR, doubtful])
    assert (choice.candidates, choice.fallback) == ((doubtful,), ANCHOR)
    assert chosen([measured(AS_FOUND, 1.01), ANCHOR, doubtful]).fallback is None


def test_an_original_that_is_too_large_is_no_candidate() -> None:
    trials = [replace(trial, size_bytes=500) for trial in (FOUND, ANCHOR)]
    asked = {"margin": 0.005, "confidence": 0.95, "hold_out_items": 5000}
    assert choose(trials, **asked, largest_bytes=500).fallback is trials[1]  # type: ignore[arg-type]
    assert choose(trials, **asked, largest_bytes=499).fallback is None  # type: ignore[arg-type]


def test_what_failed_the_final_test_says_so() -> None:
    sure, doubtful = measured(int8(kind="b"), 0.4), seen(measured(int8(kind="a"), 0.3), 60, 68)
    trials = [FOUND, ANCHOR, sure, doubtful]
    told = with_reasons(trials, chosen(trials), sure.recipe, [doubtful.recipe])
    assert [trial.reason for trial in told[2:]] == [None, "failed the final test"]
    told = with_reasons(trials, chosen(trials), None, [sure.recipe])
    assert told[2].reason == "failed the final test"
    assert "not in the final test" in str(told[3].reason)


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


def test_a_conversion_tells_how_its_runtime_is_run_best() -> None:
    runs = [RunSettings(runtime="litert", threads=threads) for threads in (1, 2)]
    converted = [Recipe(steps=plain_steps("litert"), run=run) for run in runs]
    other = replace(int8("litert", int8="static"), run=runs[0])
    trials = [FOUND, ANCHOR, rejected(converted[0], 1.9), rejected(converted[1], 1.7)]
    assert best_runs([*trials, measured(other, 0.1)])["litert"] == runs[1]
    assert "litert" not in best_runs([FOUND, ANCHOR, rejected(converted[0]), failed(converted[1])])


def test_changed_models_run_with_all_graph_optimisations() -> None:
    """A quantized graph needs what the basic ones leave out, whatever the original gains."""
    basic = measured(Recipe(run=replace(ONE_THREAD.run, graph="basic")), 0.9)
    assert best_runs([FOUND, ANCHOR, basic]) == {"onnxruntime": ONE_THREAD.run}
    assert best_runs([rejected(ONE_THREAD, 1.0), basic]) == {"onnxruntime": basic.recipe.run}


def of_all(trial: Trial, value: float, error: float) -> Trial:
    """Return a trial with the difference of a metric of all answers together."""
    return replace(
        trial,
        difference=Difference(
            value=value, lower=value - 1.645 * error, upper=value + 1.645 * error, confidence=0.95,
            items=3000, gained=None, lost=None, changed=40, error=error,
        ),
    )  # fmt: skip


def test_chances_follow_from_the_standard_error_where_no_item_is_right_or_wrong() -> None:
    """With 3,000 others: sure at a difference of 0, less than even at one of -0.0025."""
    doubtful = of_all(measured(int8(kind="a"), 0.3), -0.0025, 0.002)
    sure = of_all(measured(int8(kind="b"), 0.4), 0.0, 0.0005)
    assert chosen([FOUND, ANCHOR, sure, doubtful]).candidates == (sure, doubtful)
    assert chosen([FOUND, ANCHOR, sure]).candidates == (sure,)
