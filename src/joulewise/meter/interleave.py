"""Compare running programs: short blocks, interleaved in random order, each read by a meter.

Why this way: a shared or warming machine changes speed by far more than the differences looked
for. Blocks of all programs taken within a second of each other see the same machine, and pairing
them cancels what is slow. Idle power drifts as well, so where a meter includes it and does not know
it, every round also watches it for one block: a wrong idle power is an error of the ratio that no
number of rounds makes smaller.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from joulewise.core.claim import Ratio
from joulewise.core.energy import Block, Measurement, Meter, Reading, Sensor, Timing
from joulewise.core.errors import SensorError
from joulewise.core.statistics import net_ratio, paired_ratio
from joulewise.meter.noise import read_load, warnings_of

__all__ = [
    "Plan",
    "Runnable",
    "Subject",
    "Taken",
    "block_joules_per_item",
    "busy_cpus",
    "interleave",
    "least_block_s",
    "ratio_of",
    "take_rounds",
]

Taken = tuple[Block, Timing]
"""One block as the meter saw it and as the program itself saw it."""

MIN_UPDATES_PER_BLOCK = 100
"""Counter updates in one block at the least (design, rules of measurement, 4)."""

LONGEST_IDLE_S, LONGEST_IDLE_UPDATES = 5.0, 20
"""An idle block takes no more than the longer of both: judgements.

It needs fewer updates than other blocks, as the machine was idle before it too: how late the
counter is at its edges is then a small random error, which is in the interval.
"""

SETTLE_S = 0.02
"""Least wait before a block where idle power is watched, s: a judgement.

Threads of the program before may spin on, and the counter shows its last joules late: with no wait,
0.5 ms of one program's power would be billed to the next.
"""

SAME_LOAD_RATIO = 1.1
"""Ratio of busy CPUs up to which two programs load the machine alike: a judgement."""

WARM_UP_CHANGE = 0.05
"""The rate is flat when two warm-up blocks differ by less than this fraction."""


class Runnable(Protocol):
    """A program that is open in some process."""

    @property
    def pid(self) -> int:
        """Process id, for meters."""
        ...

    @property
    def batch_items(self) -> int:
        """Items per inference call."""
        ...

    def block(self, batches: int) -> Timing:
        """Run so many batches and return how long they took."""
        ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much to measure.

    Args:
        rounds: blocks per program at the most, >= 2.
        block_s: length of a block, s.
        warm_up_s: most time spent on one program until its rate is flat, s.
        seed: of the order within each round.
        mirrored: every second round runs in the reverse order of the one before, so that a steady
            drift cancels even where a few rounds happen to be drawn in the same order.
    """

    rounds: int
    block_s: float
    warm_up_s: float = 1.0
    seed: int = 0
    mirrored: bool = False


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What blocks are taken of: `take` runs one and reads `meter` around it."""

    meter: Meter
    take: Callable[[], Taken]


IDLE = ""
"""Stands for no program in the order of a round."""

Sleep = Callable[[float], object]
"""Waits so many seconds."""

Enough = Callable[[Mapping[str, Measurement]], bool]
"""Asked after each round with all that was measured so far: may it end here?"""


def interleave(
    programs: Mapping[str, Runnable],
    open_meter: Callable[[Sequence[int]], Meter],
    plan: Plan,
    enough: Enough | None = None,
    *,
    sleep: Sleep = time.sleep,
) -> dict[str, Measurement]:
    """Run every program once per round, in random order, and return a Measurement of each.

    Args:
        programs: name -> program.
        open_meter: opens a meter for process ids; readings are taken right before and after
            each block.
        plan: how much to measure.
        enough: ends it before the last round; None takes all rounds.
        sleep: waits so many seconds; another function in tests.

    Raises:
        SensorError: the meter failed or gave no joules for a whole block.
    """
    with ExitStack() as stack:
        meters: dict[str, Meter] = {}
        for name, program in programs.items():
            meters[name] = open_meter([program.pid])
            stack.callback(meters[name].close)
        subjects: dict[str, Subject] = {}
        for name, program in programs.items():
            batches = _warm_up(program, _block_s(plan, meters[name]), plan.warm_up_s)
            take = partial(_measured, program, meters[name], batches)
            subjects[name] = Subject(meter=meters[name], take=take)
        return take_rounds(subjects, plan, enough, sleep=sleep)


def take_rounds(
    subjects: Mapping[str, Subject],
    plan: Plan,
    enough: Enough | None = None,
    *,
    sleep: Sleep = time.sleep,
) -> dict[str, Measurement]:
    """Take one block of every subject per round, in random order; return a Measurement of each.

    Where the meters include idle power and do not know it, each round also watches it, for as long
    as the block before it took or LONGEST_IDLE_S.

    Args:
        subjects: name -> warmed-up subject.
        plan: how many rounds at the most, and the seed of the order.
        enough: ends it before the last round; None takes all rounds.
        sleep: waits so many seconds; another function in tests.
    """
    rounds = _Rounds(subjects, plan, sleep)
    before = read_load()
    for order in _orders(rounds.names, plan):
        for name in order:
            rounds.take(name)
        if enough is not None and enough(rounds.measurements(())):
            break
    return rounds.measurements(warnings_of(before, read_load(), rounds.own_s))


def ratio_of(
    baseline: Measurement, candidate: Measurement, confidence: float, objective: str = "net"
) -> Ratio:
    """Return the energy ratio of two Measurements of the same interleaved run.

    Args:
        baseline: the denominator.
        candidate: the numerator; its n-th block is paired with the baseline's n-th.
        confidence: two-sided, in (0, 1).
        objective: "net" of idle or "gross".

    Raises:
        SensorError: the two were not taken with the same sensor and grade, idle power is needed and
            unknown, or they are not above idle.
    """
    sensor, other = baseline.sensor, candidate.sensor
    if (sensor.name, sensor.grade) != (other.name, other.grade):
        raise SensorError("joules of different sensors cannot be compared in one ratio")
    if objective == "net" and baseline.idle_blocks:
        for each in (baseline, candidate):
            _check_above_idle(each, statistics.fmean(_joules_per_item(each, objective)))
        return net_ratio(
            baseline.blocks,
            candidate.blocks,
            baseline.idle_blocks,
            confidence=confidence,
            pair_ratio=_pair_ratio(baseline, candidate),
            grade=sensor.grade,
        )
    return paired_ratio(
        block_joules_per_item(baseline, objective),
        block_joules_per_item(candidate, objective),
        confidence=confidence,
        pair_ratio=_pair_ratio(baseline, candidate),
        grade=sensor.grade,
        objective="net of idle" if objective == "net" else "gross",
    )


def _pair_ratio(one: Measurement, other: Measurement) -> float:
    """Return by how much the sensor may distort the ratio of two programs, a factor >= 1."""
    busy = [busy_cpus(each) for each in (one, other)]
    known = [cpus for cpus in busy if cpus is not None]
    alike = len(known) == len(busy) and max(known) <= SAME_LOAD_RATIO * min(known)
    return one.sensor.pair_ratio * (1.0 if alike else one.sensor.load_ratio)


def busy_cpus(measurement: Measurement) -> float | None:
    """Return how many CPUs a program keeps busy on average, None where that is unknown."""
    cpu_s = [block.cpu_s for block in measurement.blocks if block.cpu_s is not None]
    if len(cpu_s) < len(measurement.blocks):
        return None
    return sum(cpu_s) / sum(block.seconds for block in measurement.blocks)


def block_joules_per_item(measurement: Measurement, objective: str) -> list[float]:
    """Return joules per item of each block, net of idle or gross.

    Raises:
        SensorError: idle power is needed and unknown, or a block is not above idle.
    """
    joules = _joules_per_item(measurement, objective)
    _check_above_idle(measurement, min(joules))
    return joules


def _joules_per_item(measurement: Measurement, objective: str) -> list[float]:
    """Return joules per item of each block, whether they are above idle or not."""
    sensor, idle_w = measurement.sensor, measurement.idle_w
    sign = {("net", True): -1.0, ("gross", False): 1.0}.get((objective, sensor.includes_idle), 0.0)
    if sign and idle_w is None:
        raise SensorError(
            f"{sensor.name}: idle power is unknown, so there is no {objective} figure"
        )
    return [
        (b.reading_j + sign * (idle_w or 0.0) * b.seconds) / b.items for b in measurement.blocks
    ]


def _check_above_idle(measurement: Measurement, joules_per_item: float) -> None:
    if joules_per_item <= 0:
        raise SensorError(
            f"{measurement.sensor.name}: a block of {measurement.blocks[0].seconds:.2f} s did not "
            "rise above idle; stop other work on this machine and measure again"
        )


class _Rounds:
    """What was taken so far of every subject, and of the machine while nothing ran."""

    def __init__(self, subjects: Mapping[str, Subject], plan: Plan, sleep: Sleep) -> None:
        self._subjects = subjects
        self._sleep = sleep
        self._taken: dict[str, list[Taken]] = {name: [] for name in subjects}
        self._idle_meter = next(
            (subject.meter for subject in subjects.values() if _lacks_idle(subject.meter)), None
        )
        self._idle_blocks: list[Block] = []
        self._last_s = max(_block_s(plan, subject.meter) for subject in subjects.values())

    @property
    def names(self) -> tuple[str, ...]:
        """What each round takes, once each."""
        return (*sorted(self._subjects), *(() if self._idle_meter is None else (IDLE,)))

    @property
    def own_s(self) -> float:
        """CPU time of the programs so far, s."""
        return sum(timing.cpu_s for taken in self._taken.values() for _, timing in taken)

    def take(self, name: str) -> None:
        """Take the next block of a subject, or of none."""
        if self._idle_meter is not None:
            self._sleep(max(SETTLE_S, self._idle_meter.sensor.update_period_s or 0.0))
        if name == IDLE and self._idle_meter is not None:
            self._idle_blocks.append(_watched(self._idle_meter, self._last_s, self._sleep))
        else:
            self._taken[name].append(self._subjects[name].take())
            self._last_s = self._taken[name][-1][0].seconds

    def measurements(self, warnings: tuple[str, ...]) -> dict[str, Measurement]:
        """Return a Measurement of every subject; the last round is over."""
        return {
            name: _measurement(subject.meter, self._taken[name], self._idle_blocks, warnings)
            for name, subject in self._subjects.items()
        }


def _lacks_idle(meter: Meter) -> bool:
    return meter.sensor.includes_idle and meter.idle_w is None


def _watched(meter: Meter, seconds: float, sleep: Sleep) -> Block:
    """Count what is drawn while nothing runs, for so many seconds at the most."""
    period_s = meter.sensor.update_period_s or 0.0
    before = meter.read()
    sleep(min(seconds, max(LONGEST_IDLE_S, LONGEST_IDLE_UPDATES * period_s)))
    return _between(before, meter.read(), items=0, cpu_s=0.0)


def _orders(names: Sequence[str], plan: Plan) -> Iterator[Sequence[str]]:
    random = np.random.default_rng(plan.seed)
    order: Sequence[str] = names
    for number in range(plan.rounds):
        mirror = plan.mirrored and number % 2 == 1
        order = order[::-1] if mirror else [str(name) for name in random.permutation(names)]
        yield order


def least_block_s(sensor: Sensor) -> float:
    """Return how long a block must be at the least for `sensor`, s."""
    return MIN_UPDATES_PER_BLOCK * (sensor.update_period_s or 0.0)


def _block_s(plan: Plan, meter: Meter) -> float:
    return max(plan.block_s, least_block_s(meter.sensor))


def _warm_up(program: Runnable, block_s: float, limit_s: float) -> int:
    """Run until the rate is flat; return the batches that fill `block_s`."""
    batches, spent_s, previous = 1, 0.0, 0.0
    while True:
        timing = program.block(batches)
        spent_s += timing.seconds
        rate = batches / timing.seconds
        flat = abs(rate - previous) < WARM_UP_CHANGE * rate
        if spent_s >= limit_s or (flat and timing.seconds >= block_s / 4):
            return max(1, round(rate * block_s))
        previous = rate
        batches = max(1, min(batches * 4, round(rate * block_s / 2)))


def _measured(program: Runnable, meter: Meter, batches: int) -> Taken:
    before = meter.read()
    timing = program.block(batches)
    return _between(before, meter.read(), items=timing.items, cpu_s=timing.cpu_s), timing


def _between(before: Reading, after: Reading, *, items: int, cpu_s: float) -> Block:
    return Block(
        items=items,
        seconds=after.time_s - before.time_s,
        reading_j=after.total_j - before.total_j,
        cpu_s=cpu_s,
    )


def _measurement(
    meter: Meter, taken: Sequence[Taken], idle_blocks: Sequence[Block], warnings: tuple[str, ...]
) -> Measurement:
    return Measurement(
        sensor=meter.sensor,
        blocks=tuple(block for block, _ in taken),
        idle_w=_mean_w(idle_blocks) if idle_blocks else meter.idle_w,
        latency_p50_s=float(np.median([timing.p50_s for _, timing in taken])),
        latency_p95_s=float(np.median([timing.p95_s for _, timing in taken])),
        warnings=warnings,
        idle_blocks=tuple(idle_blocks),
    )


def _mean_w(blocks: Sequence[Block]) -> float:
    return sum(block.reading_j for block in blocks) / sum(block.seconds for block in blocks)
