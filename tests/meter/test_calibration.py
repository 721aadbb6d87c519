from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import SensorError
from joulewise.meter.calibration import Calibration, Line, Step
from joulewise.meter.fit import fit_calibration, fit_line, predict_left_out
from tests.meter.calibrations import EXACT, HOST, STEP_S, TABLE_W, WATTS, fitted, staircase

WANTED = 0.94
RUNS = 1500

RAPL = replace(EXACT, name="rapl", grade="B", low_ratio=0.9, high_ratio=1.1, pair_ratio=1.05)

powers = st.floats(1.0, 1e3, allow_subnormal=False)
points = st.lists(st.tuples(powers, powers), min_size=3, max_size=12)


def line_of(
    pairs: list[tuple[float, float]], scale: float = 1.0, order: list[int] | None = None
) -> Line:
    """Fit pairs of reading and reference; the n-th belongs to group n modulo 3."""
    chosen = list(range(len(pairs))) if order is None else order
    return fit_line(
        [pairs[n][0] for n in chosen],
        [scale * pairs[n][1] for n in chosen],
        [str(n % 3) for n in chosen],
    )


def spread_out(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return pairs whose readings differ, whichever group is left out."""
    return [(x + 2e3 * n, y) for n, (x, y) in enumerate([*pairs, *pairs])]


@given(points)
def test_the_line_is_that_of_polyfit(pairs: list[tuple[float, float]]) -> None:
    pairs = spread_out(pairs)
    x, y = np.array(pairs).T
    slope, intercept = np.polyfit(x, y, 1)
    line = line_of(pairs)
    assert line.a.central == pytest.approx(slope, rel=1e-6, abs=1e-9)
    assert line.b_w.central == pytest.approx(intercept, rel=1e-6, abs=1e-6)


@given(points)
def test_left_out_predictions_are_those_of_polyfit(pairs: list[tuple[float, float]]) -> None:
    pairs = spread_out(pairs)
    x, y = np.array(pairs).T
    group = np.arange(len(x)) % 3
    wanted = np.empty(len(x))
    for left_out in range(3):
        others = np.polyfit(x[group != left_out], y[group != left_out], 1)
        wanted[group == left_out] = np.polyval(others, x[group == left_out])
    found = predict_left_out(list(x), list(y), [str(g) for g in group])
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)
    error = np.mean(np.abs(wanted / y - 1))
    assert line_of(pairs).left_out_error_ratio == pytest.approx(error, rel=1e-5)


@given(points, st.floats(0.01, 100.0))
def test_scaling_the_reference_scales_the_line(
    pairs: list[tuple[float, float]], scale: float
) -> None:
    pairs = spread_out(pairs)
    line, scaled = line_of(pairs), line_of(pairs, scale)
    for name in ("a", "b_w"):
        for part in ("low", "central", "high"):
            wanted = scale * getattr(getattr(line, name), part)
            found = getattr(getattr(scaled, name), part)
            assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6 * scale)
    assert scaled.r2 == pytest.approx(line.r2, abs=1e-9)


@given(points, st.randoms(use_true_random=False))
def test_the_order_of_points_is_irrelevant(
    pairs: list[tuple[float, float]], random: Random
) -> None:
    pairs = spread_out(pairs)
    order = list(range(len(pairs)))
    random.shuffle(order)
    one, other = line_of(pairs), line_of(pairs, order=order)
    assert other.a.low == pytest.approx(one.a.low, rel=1e-6, abs=1e-9)
    assert other.b_w.high == pytest.approx(one.b_w.high, rel=1e-6, abs=1e-6)


def test_interval_is_students_where_groups_are_balanced() -> None:
    """Each mix has its own slope then, and the interval is that of their mean."""
    slopes = np.array([watts / TABLE_W for watts in WATTS.values()])
    line = fitted(staircase()).line
    half = 4.302652729696 * slopes.std(ddof=1) / math.sqrt(3)  # t of 2 degrees at 97.5 %
    assert line.a.central == pytest.approx(slopes.mean())
    assert line.a.high - line.a.central == pytest.approx(half)
    assert line.b_w.central == pytest.approx(20.0)
    assert (line.points, line.groups) == (12, 3)


def test_band_of_a_calibration_in_closed_form() -> None:
    found = fitted(staircase(), RAPL)
    logs = np.log(list(WATTS.values()))
    spread = 4.302652729696 * logs.std(ddof=1)
    centre = math.exp(logs.mean()) / 5.5  # 5.5 is the mean of the watts
    assert found.net_w == pytest.approx(5.5)
    assert found.idle_w == pytest.approx(20.0)
    assert found.low_ratio == pytest.approx(0.9 * centre * math.exp(-spread * math.sqrt(4 / 3)))
    assert found.high_ratio == pytest.approx(1.1 * centre * math.exp(spread * math.sqrt(4 / 3)))
    assert found.mix_ratio == pytest.approx(math.exp(spread * math.sqrt(2)))
    assert found.pair_ratio == pytest.approx(1.05 * found.mix_ratio)
    assert found.load_ratio == pytest.approx(1.0)


def test_load_ratio_is_between_the_dearest_and_the_cheapest_load() -> None:
    found = fitted(staircase(exponent=0.8))
    assert found.load_ratio == pytest.approx(4**0.2)
    assert found.mix_ratio == pytest.approx(fitted(staircase()).mix_ratio)


def test_repeats_and_unequal_lengths_are_averaged() -> None:
    steps = staircase()
    longer = [
        replace(step, seconds=3 * STEP_S, cpu_s=3 * step.cpu_s, reference_j=3 * step.reference_j)
        for step in steps
    ]
    once, thrice = fitted(steps), fitted([*steps, *longer])
    for name in ("idle_w", "low_ratio", "high_ratio", "pair_ratio", "net_w"):
        assert getattr(thrice, name) == pytest.approx(getattr(once, name))


@given(st.floats(0.1, 50.0), st.randoms(use_true_random=False))
def test_band_depends_neither_on_the_references_unit_nor_on_order(
    scale: float, random: Random
) -> None:
    steps = staircase(exponent=0.9)
    shuffled = [replace(step, reference_j=scale * step.reference_j) for step in steps]
    random.shuffle(shuffled)
    one, other = fitted(steps), fitted(shuffled)
    assert other.net_w == pytest.approx(scale * one.net_w)
    assert other.idle_w == pytest.approx(scale * one.idle_w)
    for name in ("low_ratio", "high_ratio", "pair_ratio", "load_ratio"):
        assert getattr(other, name) == pytest.approx(getattr(one, name))


class Population:
    """Machines and programs of which mixes and programs are drawn alike.

    Args:
        seed: of everything.
        shape: distribution of the logarithm of watts per busy CPU: "normal", "uniform" or
            "two-point"; each with a standard deviation of 8 %.
    """

    SPREAD = 0.08
    IDLE_W = 40.0
    LOADS = (0, 1, 2, 4)

    def __init__(self, seed: int, shape: str) -> None:
        self.random = np.random.default_rng(seed)
        self._shape = shape

    def logs(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        if self._shape == "normal":
            return self.random.normal(0.0, self.SPREAD, count)
        if self._shape == "uniform":
            return self.random.uniform(-1.0, 1.0, count) * math.sqrt(3) * self.SPREAD
        return self.random.choice([-self.SPREAD, self.SPREAD], count)

    def machine(self, mixes: int, noise: float) -> tuple[list[Step], float, float]:
        """Return a noisy staircase, its exponent, and true joules per joule of the reference."""
        exponent = self.random.uniform(0.7, 1.1)
        gain = math.exp(self.random.uniform(math.log(RAPL.low_ratio), math.log(RAPL.high_ratio)))
        watts = {f"mix {n}": 10 * math.exp(log) for n, log in enumerate(self.logs(mixes))}
        steps = staircase(watts, idle_w=self.IDLE_W, loads=self.LOADS, exponent=exponent)
        noisy = [
            replace(step, reference_j=step.reference_j / gain * self.random.normal(1.0, noise))
            for step in steps
        ]
        return noisy, exponent, gain


@pytest.mark.parametrize(
    ("shape", "mixes"),
    [("normal", 3), ("normal", 8), ("uniform", 3), ("uniform", 8), ("two-point", 8)],
)  # of three mixes out of a two-point population, all are alike in every fourth run
def test_band_covers_unseen_programs(shape: str, mixes: int) -> None:
    """A program of a mix that was not in the staircase, at any load that was."""
    population, inside, pairs = Population(1, shape), 0, 0
    for _ in range(RUNS // 5):
        steps, exponent, _ = population.machine(mixes, noise=0.002)
        found = fitted(steps, RAPL)
        cpus = int(population.random.choice(population.LOADS[1:]))
        one, other = 10 * np.exp(population.logs(2)) * cpus**exponent
        estimate = found.net_w * cpus
        inside += found.low_ratio * estimate <= one <= found.high_ratio * estimate
        pairs += 1 / found.pair_ratio <= one / other <= found.pair_ratio
    assert inside >= WANTED * (RUNS // 5)
    assert pairs >= WANTED * (RUNS // 5)


def test_band_of_the_mixes_alone_covers_where_nothing_else_helps() -> None:
    """No error of the reference, no noise, no curve: Student's t has to do all."""
    population, inside, pairs = Population(2, "normal"), 0, 0
    for _ in range(RUNS):
        watts = {f"mix {n}": 10 * math.exp(log) for n, log in enumerate(population.logs(8))}
        found = fitted(staircase(watts, loads=(0, 1, 2)))
        one, other = 10 * np.exp(population.logs(2))
        inside += found.low_ratio * found.net_w <= one <= found.high_ratio * found.net_w
        pairs += 1 / found.pair_ratio <= one / other <= found.pair_ratio
    assert WANTED <= inside / RUNS <= 0.965
    assert WANTED <= pairs / RUNS <= 0.965


def test_intervals_cover_slope_and_idle_power() -> None:
    """Mixes that differ, and noise: the true slope is that of the mean program."""
    random, slopes, idles = np.random.default_rng(3), 0, 0
    for _ in range(RUNS):
        watts = {f"mix {n}": each for n, each in enumerate(random.normal(10.0, 1.0, 8))}
        noisy = [
            replace(step, reference_j=step.reference_j + random.normal(0.0, 0.5))
            for step in staircase(watts)
        ]
        line = fitted(noisy).line
        slopes += line.a.low <= 10.0 / TABLE_W <= line.a.high
        idles += line.b_w.low <= 20.0 <= line.b_w.high
    assert slopes >= WANTED * RUNS
    assert idles >= WANTED * RUNS


FLAT = staircase({"python": 0.01, "matmul": -0.01, "stream": 0.0})
FALLING = staircase({"python": -5.0, "matmul": -6.0, "stream": -5.5}, idle_w=60.0)
WILD = [
    replace(step, reference_j=step.reference_j + (60.0 if step.cpus == 1 else 0.0))
    for step in staircase()
]
STILL = [replace(step, reference_j=0.0) if step.cpus == 0 else step for step in staircase()]
STARVED = [replace(step, cpu_s=0.0) for step in staircase()]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        (FLAT, "did not clearly respond"),
        (FALLING, "did not clearly respond"),
        (WILD, "follows CPU time badly"),
        (STILL, "counted no joules"),
        (STARVED, "no CPU time at all"),
        (staircase(loads=(0, 1)), "idle and two loads"),
        (staircase({"python": 5.0, "matmul": 6.0}), "2 instruction mixes"),
    ],
)
def test_what_gives_no_calibration_is_refused_in_one_line(steps: list[Step], words: str) -> None:
    with pytest.raises(SensorError, match=words) as refused:
        fitted(steps)
    assert "\n" not in str(refused.value)


def test_a_load_below_idle_is_refused() -> None:
    steps = [
        replace(step, reference_j=39.0) if (step.mix, step.cpus) == ("python", 1) else step
        for step in staircase(loads=(0, 1, 2, 3, 4))
    ]
    with pytest.raises(SensorError, match="no more than idle"):
        fitted(steps)


def test_a_coarse_counter_is_refused() -> None:
    with pytest.raises(SensorError, match="too coarse: 1 busy CPU added 11 J"):
        fitted(staircase(), replace(EXACT, resolution_j=1.2))
    fitted(staircase(), replace(EXACT, resolution_j=1.0))


def test_disturbances_are_refused() -> None:
    with pytest.raises(SensorError, match="nothing was calibrated: others were busy"):
        fit_calibration(
            staircase(), reference=EXACT, host=HOST, table_w=TABLE_W, created="x",
            disturbances=["others were busy", "more"],
        )  # fmt: skip


def test_a_hole_in_the_staircase_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at every load"):
        fitted(staircase()[1:])


@pytest.mark.parametrize(
    ("readings", "groups", "words"),
    [
        ([1.0, 2.0], ["a", "b"], "as many readings as powers"),
        ([1.0, 2.0, 3.0], ["a", "a", "a"], "two groups or more"),
        ([1.0, 1.0, 1.0], ["a", "b", "c"], "all readings are alike"),
    ],
)
def test_points_without_a_line_are_a_mistake_of_the_caller(
    readings: list[float], groups: list[str], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        fit_line(readings, [1.0, 2.0, 3.0], groups)


@pytest.mark.parametrize("power_w", [7.0, 51.66712058290963])
def test_a_reference_that_stands_still_explains_nothing(power_w: float) -> None:
    """The mean of six of the second power is another number, by rounding."""
    readings_w = [1.0, 2.0, 4.0, 5.0, 7.0, 9.0]
    assert fit_line(readings_w, [power_w] * 6, list("abcabc")).r2 == 0.0


def test_figures_that_contradict_each_other_are_refused() -> None:
    good = fitted(staircase())
    for wrong in ({"pair_ratio": 0.9}, {"low_ratio": 1.2}, {"idle_w": -1.0}, {"table_w": math.inf}):
        with pytest.raises(ValueError, match="its"):
            replace(good, **wrong)  # type: ignore[arg-type]
    assert isinstance(good, Calibration)
