"""Energy ratios of machines that drift, and whose neighbours come and go: do intervals cover?

Blocks are taken in the orders of real plans, and evaluated by what evaluates real ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from joulewise.comparison import verdict_of
from joulewise.core.statistics import paired_ratio
from joulewise.meter.interleave import Plan, Taken, _orders
from joulewise.pipeline import PROOF_PLAN
from joulewise.search.bench import FULL_PLAN
from tests import test_comparison as comparisons
from tests.properties.test_coverage import Case, estimate, paired_run, random_case

Floats = NDArray[np.float64]
Random = np.random.Generator

RUNS, REPEATS = 2000, 400
WANTED, CONFIDENCE = 0.94, 0.95
TRUE_RATIO = 0.8
ROUNDING = 1e-9
GRID_S = 0.05
"""Within which a machine's pace does not change, s."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How the pace of a machine changes while programs take turns on it.

    Args:
        drift: within ten seconds by up to this fraction, as heat does.
        wander: standard deviation of a random walk's steps over the root of a second.
        slowdown: by up to this fraction while a neighbour is busy.
        share: part of the time in which it is.
        cycle_s: mean time from one burst of its work to the next, s.
        jitter: standard deviation of what each block has of its own, as a fraction.
    """

    drift: float = 0.2
    wander: float = 0.0
    slowdown: float = 0.0
    share: float = 0.3
    cycle_s: float = 1.0
    jitter: float = 0.02

    def joules(self, random: Random, runs: int, blocks: int, block_s: float) -> Floats:
        """Return what the same block costs now, and now, and now: float64 [runs, blocks]."""
        steps = round(block_s / GRID_S)
        grid = GRID_S * np.arange(blocks * steps)
        pace = 1 + random.uniform(-self.drift, self.drift, (runs, 1)) * grid / 10.0
        walk = random.normal(0.0, self.wander * np.sqrt(GRID_S), (runs, len(grid)))
        pace = pace * np.exp(np.cumsum(walk, axis=1))
        slowed = random.uniform(0.0, self.slowdown, (runs, 1))
        pace *= 1 + slowed * self._neighbour(random, runs, len(grid))
        whole = pace.reshape(runs, blocks, steps).mean(axis=2)
        return np.asarray(whole * np.exp(random.normal(0.0, self.jitter, whole.shape)))

    def _neighbour(self, random: Random, runs: int, steps: int) -> Floats:
        """Return when the neighbour is busy: a chain of two states, float64 [runs, steps]."""
        begins = GRID_S / (self.cycle_s * (1 - self.share))
        ends = GRID_S / (self.cycle_s * self.share)
        busy = np.empty((runs, steps), dtype=bool)
        now = random.random(runs) < self.share
        for step in range(steps):
            chance = random.random(runs)
            now = np.where(now, chance >= ends, chance < begins)
            busy[:, step] = now
        return busy.astype(float)


def coverage(machine: Machine, plan: Plan, random: Random) -> float:
    """Return how often the interval holds the true ratio."""
    names, blocks = ("baseline", "candidate"), 2 * plan.rounds
    costs = machine.joules(random, RUNS, blocks, plan.block_s)
    held = 0
    for seed, cost in enumerate(costs):
        order = [name for names_ in _orders(names, replace(plan, seed=seed)) for name in names_]
        first = np.array([name == "baseline" for name in order])
        found = paired_ratio(
            cost[first].tolist(),
            (TRUE_RATIO * cost[~first]).tolist(),
            confidence=CONFIDENCE,
            pair_ratio=1.0,
            grade="D",
            objective="gross",
        )
        held += found.low <= TRUE_RATIO <= found.high
    return held / RUNS


BURSTS = Machine(wander=0.02, slowdown=1.0)
MACHINES = {
    "a quiet one": Machine(drift=0.0),
    "one that drifts": Machine(),
    "one that wanders": Machine(wander=0.05),
    "short bursts": replace(BURSTS, cycle_s=0.4),
    "bursts as long as a round": replace(BURSTS, cycle_s=1.0),
    "long bursts": replace(BURSTS, cycle_s=5.0),
    "seldom a burst": replace(BURSTS, share=0.1, cycle_s=5.0),
}
PLANS = {"in a proof": PROOF_PLAN, "in a trial": FULL_PLAN}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_the_interval_covers_the_true_ratio(machine: Machine, plan: Plan) -> None:
    assert coverage(machine, plan, np.random.default_rng(11)) >= WANTED


@pytest.mark.slow
def test_the_interval_of_an_estimate_covers_the_true_ratio_on_any_machine() -> None:
    """The twin of the test of a counter, which watches idle power: this one pairs blocks."""
    random = np.random.default_rng(6)
    runs = [paired_run(random, estimated(random)) for _ in range(RUNS)]
    errors = [abs(math.log(found.value / truth)) for found, truth in runs]
    known = [math.log(found.sampling_high / found.value) for found, _ in runs]
    covered = np.array(errors) <= np.array(known) + ROUNDING  # some are disturbed by nothing at all
    assert np.mean(covered) >= WANTED


def estimated(random: Random) -> Case:
    return replace(random_case(random), open_meter=estimate, watts_ratio=1.0)


@dataclass
class Visited(comparisons.Machine):
    """A machine on which a neighbour's bursts slow the programs down; equal blocks take 1 s."""

    slowdown: float = 1.0
    share: float = 0.3
    cycle_s: float = 2.0
    busy: bool = False
    changes_s: float = 0.0

    def run(self, joules: float) -> Taken:
        """Run one block, slower while the neighbour is busy."""
        begun_s, ends_s = self.now_s, self.now_s
        while joules > 0:
            if ends_s >= self.changes_s:
                self.busy = not self.busy
                share = self.share if self.busy else 1 - self.share
                self.changes_s = ends_s + self.random.exponential(self.cycle_s * share)
            pace = 1 + self.slowdown * self.busy
            done_s = min(joules * pace, self.changes_s - ends_s)
            joules, ends_s = joules - done_s / pace, ends_s + done_s
            joules = 0.0 if joules < 1e-9 else joules
        return super().run(ends_s - begun_s)


@pytest.mark.parametrize("cycle_s", [1.0, 2.0, 4.0, 16.0])
def test_a_comparison_calls_a_winner_among_equals_no_oftener_than_stated(cycle_s: float) -> None:
    """Its rounds are mirrored, so that a burst can lie on the same program twice."""
    called = 0
    for seed in range(REPEATS):
        machine = Visited(seed, 0.01, cycle_s=cycle_s)
        called += any(
            verdict_of(ratio) != "no difference"
            for ratio in comparisons.ratios(machine, (1.0, 1.0))
        )
    error = 1 - CONFIDENCE
    assert called / REPEATS <= error + 2 * math.sqrt(error * (1 - error) / REPEATS)
