"""The front is what none dominates, and it accounts for all that is not on it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.claim import Quality, Trial
from joulewise.core.energy import Block, Measurement
from joulewise.core.front import front, non_dominated
from tests.report.bundles import make_sensor
from tests.trials import AS_FOUND, failed, ratio

FEW = st.integers(0, 3)
"""So few values that ties and equal trials occur."""


def trial(
    energy: int | None, quality: int | None, p95: int | None = None, size: int | None = None
) -> Trial:
    found = Quality(metric="top1", value=(quality or 0) / 3, items=9, split_digest="")
    taken = Measurement(
        sensor=make_sensor(),
        blocks=(Block(items=1, seconds=1.0, reading_j=1.0),),
        idle_w=None,
        latency_p95_s=None if p95 is None else float(p95),
    )
    return Trial(
        recipe=AS_FOUND,
        state="measured",
        ratio=None if energy is None else ratio(1.0 + energy),
        quality=None if quality is None else found,
        measurement=taken,
        size_bytes=size,
    )


MAYBE = st.none() | FEW
TRIALS = st.lists(st.builds(trial, MAYBE, MAYBE, MAYBE, MAYBE), max_size=12)
COMPLETE = st.lists(st.builds(trial, FEW, FEW, FEW, FEW), max_size=12)


def beats(one: Trial, other: Trial) -> bool:
    """The definition once more, figure by figure."""
    assert one.ratio
    assert other.ratio
    assert one.quality
    assert other.quality
    pairs = [
        (one.ratio.value, other.ratio.value),
        (other.quality.value, one.quality.value),
        (_or_worst(_p95(one)), _or_worst(_p95(other))),
        (_or_worst(one.size_bytes), _or_worst(other.size_bytes)),
    ]
    return all(ours <= theirs for ours, theirs in pairs) and any(x < y for x, y in pairs)


def _p95(trial: Trial) -> float | None:
    return trial.measurement.latency_p95_s if trial.measurement else None


def _or_worst(value: float | None) -> float:
    return float("inf") if value is None else value


@given(TRIALS)
def test_no_trial_on_the_front_is_dominated(trials: list[Trial]) -> None:
    compared = [t for t in trials if t.ratio and t.quality]
    assert not any(beats(other, trials[place]) for place in front(trials) for other in compared)


@given(TRIALS)
def test_every_other_trial_is_dominated_by_one_on_it_or_lacks_a_figure(
    trials: list[Trial],
) -> None:
    best = front(trials)
    for place, each in enumerate(trials):
        if place not in best and each.ratio and each.quality:
            assert any(beats(trials[other], each) for other in best)


@given(COMPLETE, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(trials: list[Trial], random: object) -> None:
    shuffled = list(trials)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    on_it = [[t in (some[i] for i in front(some)) for t in trials] for some in (trials, shuffled)]
    assert on_it[0] == on_it[1]


def test_an_unknown_latency_or_size_keeps_none_off_the_front() -> None:
    known, unknown = trial(1, 1, 1, 1), trial(1, 1, None, None)
    assert front([known, unknown]) == (0,)
    assert front([known, trial(0, 1, None, None)]) == (0, 1)
    assert front([unknown, unknown]) == (0, 1)


def test_what_was_not_measured_or_failed_is_not_on_it() -> None:
    assert front([failed(AS_FOUND), trial(None, 3, 0, 0), trial(0, None, 0, 0)]) == ()


def test_a_rejected_trial_takes_part() -> None:
    cheap = replace(trial(0, 0, 0, 0), state="rejected", reason="quality")
    assert front([trial(3, 3, 3, 3), cheap]) == (0, 1)


@given(st.lists(st.tuples(FEW, FEW), max_size=20))
def test_in_two_figures_it_is_the_staircase(points: list[tuple[int, int]]) -> None:
    """An independent route: sweep from the left; what is not below all before is dominated."""
    lowest, stays = float("inf"), set()
    for x in sorted({x for x, _ in points}):
        y = min(y for other, y in points if other == x)
        if y < lowest:
            lowest = y
            stays.add((x, y))
    assert non_dominated(points) == tuple(point in stays for point in points)
