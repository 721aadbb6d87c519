"""Compare running programs: short blocks, interleaved in random order, each read by a meter.

Why this way: a shared or warming machine changes speed by far more than the differences looked
for. Blocks of all programs taken within a second of each other see the same machine, and pairing
them cancels what is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from joulewise.core.claim import Ratio
from joulewise.core.energy import Block, Measurement, Meter, Sensor, Timing
from joulewise.core.errors import SensorError
from joulewise.core.statistics import paired_ratio
from joulewise.meter.noise import read_load, warnings_of

__all__ = [
    "Plan",
    "Runnable",
    "Subject",
    "Taken",
    "block_joules_per_item",
    "interleave",
    "least_block_s",
    "ratio_of",
    "take_rounds",
]

Taken = tuple[Block, Timing]
"""One block as the meter saw it and as the program itself saw it."""

MIN_UPDATES_PER_BLOCK = 100
"""Counter updates in one block at the least (design, rules of measurement, 4)."""

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


Enough = Callable[[Mapping[str, Measurement]], bool]
"""Asked after each round with all that was measured so far: may it end here?"""


def interleave(
    programs: Mapping[str, Runnable],
    open_meter: Callable[[Sequence[int]], Meter],
    plan: Plan,
    enough: Enough | None = None,
) -> dict[str, Measurement]:
    """Run every program once per round, in random order, and return a Measurement of each.

    Args:
        programs: name -> program.
        open_meter: opens a meter for process ids; readings are taken right before and after
            each block.
        plan: how much to measure.
        enough: ends it before the last round; None takes all rounds.

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
        return take_rounds(subjects, plan, enough)


def take_rounds(
    subjects: Mapping[str, Subject], plan: Plan, enough: Enough | None = None
) -> dict[str, Measurement]:
    """Take one block of every subject per round, in random order; return a Measurement of each.

    Args:
        subjects: name -> warmed-up subject.
        plan: how many rounds at the most, and the seed of the order.
        enough: ends it before the last round; None takes all rounds.
    """
    taken: dict[str, list[Taken]] = {name: [] for name in subjects}
    before = read_load()
    for order in _orders(sorted(subjects), plan):
        for name in order:
            taken[name].append(subjects[name].take())
        if enough is not None and enough(_measurements(subjects, taken, ())):
            break
    own_s = sum(timing.cpu_s for blocks in taken.values() for _, timing in blocks)
    return _measurements(subjects, taken, warnings_of(before, read_load(), own_s))


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
        SensorError: the two were not taken with the same sensor and grade.
    """
    sensor, other = baseline.sensor, candidate.sensor
    if (sensor.name, sensor.grade) != (other.name, other.grade):
        raise SensorError("joules of different sensors cannot be compared in one ratio")
    return paired_ratio(
        block_joules_per_item(baseline, objective),
        block_joules_per_item(candidate, objective),
        confidence=confidence,
        pair_ratio=sensor.pair_ratio,
        grade=sensor.grade,
        objective="net of idle" if objective == "net" else "gross",
    )


def block_joules_per_item(measurement: Measurement, objective: str) -> list[float]:
    """Return joules per item of each block, net of idle or gross.

    Raises:
        SensorError: idle power is needed and unknown, or a block is not above idle.
    """
    sensor, idle_w = measurement.sensor, measurement.idle_w
    sign = {("net", True): -1.0, ("gross", False): 1.0}.get((objective, sensor.includes_idle), 0.0)
    if sign and idle_w is None:
        raise SensorError(
            f"{sensor.name}: idle power is unknown, so there is no {objective} figure"
        )
    joules = [
        (b.reading_j + sign * (idle_w or 0.0) * b.seconds) / b.items for b in measurement.blocks
    ]
    if min(joules) <= 0:
        raise SensorError(
            f"{sensor.name}: a block of {measurement.blocks[0].seconds:.2f} s did not rise above "
            "idle; stop other work on this machine and measure again"
        )
    return joules


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
    after = meter.read()
    block = Block(
        items=timing.items,
        seconds=after.time_s - before.time_s,
        reading_j=after.total_j - before.total_j,
        cpu_s=timing.cpu_s,
    )
    return block, timing


def _measurements(
    subjects: Mapping[str, Subject],
    taken: Mapping[str, Sequence[Taken]],
    warnings: tuple[str, ...],
) -> dict[str, Measurement]:
    return {
        name: _measurement(subject.meter, taken[name], warnings)
        for name, subject in subjects.items()
    }


def _measurement(meter: Meter, taken: Sequence[Taken], warnings: tuple[str, ...]) -> Measurement:
    return Measurement(
        sensor=meter.sensor,
        blocks=tuple(block for block, _ in taken),
        idle_w=meter.idle_w,
        latency_p50_s=float(np.median([timing.p50_s for _, timing in taken])),
        latency_p95_s=float(np.median([timing.p95_s for _, timing in taken])),
        warnings=warnings,
    )
