"""Paired energy ratios against closed forms and simulated runs."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.claim import Ratio
from joulewise.core.statistics import paired_ratio, quotient

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
