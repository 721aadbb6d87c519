"""Paired energy ratios against closed forms and simulated runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from joulewise.core.claim import Ratio
from joulewise.core.energy import Block
from joulewise.core.statistics import net_ratio, paired_ratio, quotient

JOULES = st.floats(1e-6, 1e6)
PAIRS = st.lists(st.tuples(JOULES, JOULES), min_size=2, max_size=20)


def ratio_of(
    baseline: list[float], candidate: list[float], confidence: float = 0.95, band: float = 1.0
) -> Ratio:
    return paired_ratio(
        baseline,
        candidate,
        confidence=confidence,
        pair_ratio=band,
        grade="D",
        objective="net of idle",
    )


def columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_interval_of_equal_programs_covers_one_as_often_as_stated() -> None:
    random = np.random.default_rng(20)
    drift = random.normal(0, 0.3, (2000, 8))
    baseline, candidate = np.exp(drift + random.normal(0, 0.05, (2, 2000, 8)))
    covered = sum(
        ratio.low <= 1.0 <= ratio.high
        for ratio in map(ratio_of, baseline.tolist(), candidate.tolist())
    )
    assert 0.935 <= covered / 2000 <= 0.965


def test_interval_covers_the_true_ratio_as_often_as_stated() -> None:
    random = np.random.default_rng(21)
    baseline = np.exp(random.normal(0, 0.1, (1000, 5)))
    candidate = 0.7 * np.exp(random.normal(0, 0.1, (1000, 5)))
    covered = sum(
        ratio.low <= 0.7 <= ratio.high
        for ratio in (
            ratio_of(a, b, confidence=0.8)
            for a, b in zip(baseline.tolist(), candidate.tolist(), strict=True)
        )
    )
    assert covered / 1000 == pytest.approx(0.8, abs=0.04)


def test_two_pairs_follow_the_closed_form_of_one_degree_of_freedom() -> None:
    ratio = ratio_of([1.0, 1.0], [0.5, 0.6], confidence=0.9)
    half = math.tan(math.pi * 0.45) * abs(math.log(0.6 / 0.5)) / 2
    centre = math.sqrt(0.5 * 0.6)
    expected = (centre, centre * math.exp(-half), centre * math.exp(half))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx(expected)


def test_drift_that_both_programs_share_cancels() -> None:
    ratio = ratio_of([1.0, 2.0, 4.0], [0.5, 1.0, 2.0])
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((0.5, 0.5, 0.5))


def test_a_wild_spread_at_high_confidence_gives_a_finite_interval() -> None:
    ratio = ratio_of([1.0, 1.0], [1.0, 1.5], confidence=0.99999)
    assert 0 < ratio.low < 1e-100
    assert 1e100 < ratio.high < math.inf


def test_the_band_of_the_sensor_widens_both_sides() -> None:
    plain, banded = (ratio_of([1.0, 1.1, 0.9], [0.8, 0.8, 0.7], band=b) for b in (1.0, 1.25))
    assert (banded.low, banded.high) == pytest.approx((plain.low / 1.25, plain.high * 1.25))


def test_the_band_of_the_sensor_leaves_the_sampling_interval_alone() -> None:
    plain, banded = (ratio_of([1.0, 1.1, 0.9], [0.8, 0.8, 0.7], band=b) for b in (1.0, 1.25))
    assert (banded.sampling_low, banded.sampling_high) == (plain.low, plain.high)


def test_higher_confidence_widens_the_interval() -> None:
    narrow, wide = (ratio_of([1.0, 1.1, 0.9], [0.8, 0.8, 0.7], confidence=c) for c in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_ratio_carries_what_it_was_made_of() -> None:
    ratio = ratio_of([1.0, 1.1, 0.9], [0.8, 0.8, 0.7])
    made_of = (ratio.pairs, ratio.confidence, ratio.grade, ratio.objective)
    assert made_of == (3, 0.95, "D", "net of idle")


@given(PAIRS)
def test_swapping_the_programs_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    there, back = ratio_of(*columns(pairs)), ratio_of(*columns(pairs)[::-1])
    inverse = (1 / back.high, 1 / back.value, 1 / back.low)
    assert (there.low, there.value, there.high) == pytest.approx(inverse)


@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_pairs_does_not_matter(
    pairs: list[tuple[float, float]], random: np.random.Generator
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)
    there, again = ratio_of(*columns(pairs)), ratio_of(*columns(shuffled))
    assert (there.low, there.high) == pytest.approx((again.low, again.high))


@pytest.mark.parametrize(
    ("baseline", "candidate"), [([1.0], [1.0]), ([], []), ([1.0, 1.0], [1.0]), ([1.0], [1.0, 1.0])]
)
def test_fewer_than_two_pairs_are_refused(baseline: list[float], candidate: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two pairs"):
        ratio_of(baseline, candidate)


@pytest.mark.parametrize("joules", [0.0, -1.0, math.nan])
def test_joules_that_are_not_positive_are_refused(joules: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        ratio_of([1.0, 1.0], [joules, 1.0])


A = ratio_of([1.0, 1.1, 0.9], [0.8, 0.8, 0.7], band=1.1)
B = ratio_of([1.0, 1.1, 0.9, 1.0], [0.6, 0.8, 0.7, 0.6], band=1.1)


def test_quotient_of_a_ratio_with_itself_is_one() -> None:
    assert quotient(A, A).value == 1.0


def test_quotient_divides_the_values() -> None:
    assert quotient(A, B).value == pytest.approx(A.value / B.value)


def test_quotient_adds_log_widths_in_quadrature() -> None:
    widths = [math.log(r.sampling_high / r.value) for r in (A, B, quotient(A, B))]
    assert widths[2] == pytest.approx(math.hypot(widths[0], widths[1]))


def test_quotient_applies_the_band_once() -> None:
    both = quotient(A, B)
    bands = (both.high / both.sampling_high, both.sampling_low / both.low)
    assert bands == pytest.approx((1.1, 1.1))


def test_quotient_of_swapped_ratios_is_the_inverse() -> None:
    there, back = quotient(A, B), quotient(B, A)
    inverse = (1 / back.high, 1 / back.value, 1 / back.low)
    assert (there.low, there.value, there.high) == pytest.approx(inverse)


def test_quotient_by_an_exact_anchor_leaves_the_ratio_unchanged() -> None:
    one = replace(A, value=1.0, low=1.0, high=1.0, sampling_low=1.0, sampling_high=1.0)
    found = quotient(A, one)
    assert (found.low, found.value, found.high) == pytest.approx((A.low, A.value, A.high))


def test_quotient_counts_the_pairs_of_the_weaker_side() -> None:
    assert quotient(A, B).pairs == 3


# ---------------------------------------------------------------- above idle power

ROUND = st.tuples(
    *[st.floats(0.5, 2.0)] * 3,  # seconds of baseline, candidate and idle block
    *[st.floats(5.0, 50.0)] * 2,  # watts above idle
    st.floats(1.0, 30.0),  # idle watts
)
ROUNDS = st.lists(ROUND, min_size=2, max_size=12)
Round = tuple[float, float, float, float, float, float]


def blocks_of(rounds: list[Round]) -> list[list[Block]]:
    """Return baseline, candidate and idle blocks; the candidate does two items at a time."""
    return [
        [Block(items=1, seconds=r[0], reading_j=r[0] * (r[3] + r[5])) for r in rounds],
        [Block(items=2, seconds=r[1], reading_j=r[1] * (r[4] + r[5])) for r in rounds],
        [Block(items=0, seconds=r[2], reading_j=r[2] * r[5]) for r in rounds],
    ]


def above_idle(blocks: list[list[Block]], confidence: float = 0.95, band: float = 1.0) -> Ratio:
    return net_ratio(*blocks, confidence=confidence, pair_ratio=band, grade="B")


def weighted_log_ratio(blocks: list[list[Block]], weights: list[float]) -> float:
    """Return the logarithm of the ratio with rounds that count more or less than once."""

    def mean(values: list[float]) -> float:
        return float(np.average(values, weights=weights))

    baseline, candidate, idle = blocks
    idle_w = mean([b.reading_j for b in idle]) / mean([b.seconds for b in idle])
    nets = [
        mean([(b.reading_j - idle_w * b.seconds) / b.items for b in side])
        for side in (baseline, candidate)
    ]
    return math.log(nets[1] / nets[0])


def all_above_idle(blocks: list[list[Block]]) -> bool:
    idle_w = sum(b.reading_j for b in blocks[2]) / sum(b.seconds for b in blocks[2])
    return all(
        sum(b.reading_j - idle_w * b.seconds for b in side) > 0.05 * sum(b.reading_j for b in side)
        for side in blocks[:2]
    )


@given(rounds=ROUNDS)
def test_above_idle_the_interval_is_that_of_an_infinitesimal_jackknife(rounds: list[Round]) -> None:
    """An independent route: what a little more weight of each round does to the ratio."""
    blocks, count, step = blocks_of(rounds), len(rounds), 1e-6
    assume(all_above_idle(blocks))
    ratio, center = above_idle(blocks), weighted_log_ratio(blocks, [1.0] * count)
    slopes = [
        (
            weighted_log_ratio(blocks, [1.0 + step * (i == j) for j in range(count)])
            - weighted_log_ratio(blocks, [1.0 - step * (i == j) for j in range(count)])
        )
        / (2 * step)
        for i in range(count)
    ]
    error = math.sqrt(sum(slope**2 for slope in slopes) * count / (count - 1))
    half = float(stats.t.ppf(0.975, count - 1)) * error
    assert math.log(ratio.value) == pytest.approx(center, abs=1e-9)
    assert math.log(ratio.sampling_high) == pytest.approx(center + half, abs=1e-5 * (1 + half))
    assert math.log(ratio.sampling_low) == pytest.approx(center - half, abs=1e-5 * (1 + half))


@given(rounds=ROUNDS)
def test_above_idle_swapping_the_programs_inverts_the_ratio(rounds: list[Round]) -> None:
    baseline, candidate, idle = blocks = blocks_of(rounds)
    assume(all_above_idle(blocks))
    ratio, swapped = above_idle(blocks), above_idle([candidate, baseline, idle])
    assert swapped.value == pytest.approx(1 / ratio.value)
    assert (swapped.low, swapped.high) == pytest.approx((1 / ratio.high, 1 / ratio.low))


@given(powers_w=st.lists(st.floats(0.0, 500.0), min_size=2, max_size=12))
def test_what_a_neighbour_draws_in_all_blocks_of_a_round_cancels(powers_w: list[float]) -> None:
    rounds = [(1.0, 1.0, 1.0, 20.0, 10.0, 5.0 + power_w) for power_w in powers_w]
    ratio = above_idle(blocks_of(rounds), band=1.1)
    assert (ratio.value, ratio.sampling_low) == pytest.approx((0.25, 0.25))
    assert (ratio.low, ratio.high) == pytest.approx((0.25 / 1.1, 0.25 * 1.1))


def test_above_idle_the_interval_covers_the_true_ratio_as_often_as_stated() -> None:
    random, covered = np.random.default_rng(22), 0
    for _ in range(1000):
        noise = random.normal(0.0, 3.0, (3, 10))  # W, another for each block
        rounds = [(1.0, 1.0, 1.0, 30.0, 8.0, 20.0)] * 10
        blocks = [
            [replace(b, reading_j=b.reading_j + w) for b, w in zip(side, row, strict=True)]
            for side, row in zip(blocks_of(rounds), noise, strict=True)
        ]
        ratio = above_idle(blocks)
        covered += ratio.low <= 8.0 / 30.0 / 2 <= ratio.high
    assert 0.935 <= covered / 1000 <= 0.965


def test_above_idle_takes_whole_rounds_whose_means_are_above_idle() -> None:
    baseline, candidate, idle = blocks_of([(1.0, 1.0, 1.0, 20.0, 10.0, 5.0)] * 3)
    for blocks in (
        [baseline[:1], candidate[:1], idle[:1]],
        [baseline, candidate, idle[:2]],
        [baseline[:2], candidate, idle],
    ):
        with pytest.raises(ValueError, match="at least two rounds"):
            above_idle(blocks)
    with pytest.raises(ValueError, match="above idle"):
        above_idle([baseline, candidate, baseline])
