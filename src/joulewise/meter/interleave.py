"""Compare running programs: short blocks, interleaved in random order, each read by a meter.

Why this way: a shared or warming machine changes speed by far more than the differences looked
for. Blocks of all programs taken within a second of each other see the same machine, and pairing
them cancels what is slow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from joulewise.core.claim import Ratio
from joulewise.core.energy import Block, Measurement, Meter, Timing
from joulewise.core.errors import SensorError
from joulewise.core.statistics import paired_ratio
from joulewise.meter.noise import read_load, warnings_of

__all__ = ["Plan", "Runnable", "block_joules_per_item", "interleave", "ratio_of"]

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
        rounds: blocks per program, >= 2.
        block_s: length of a block, s.
        warm_up_s: most time spent on one program until its rate is flat, s.
        seed: of the order within each round.
    """

    rounds: int
    block_s: float
    warm_up_s: float = 1.0
    seed: int = 0


def interleave(
    programs: Mapping[str, Runnable],
    open_meter: Callable[[Sequence[int]], Meter],
    plan: Plan,
) -> dict[str, Measurement]:
    """Run every program once per round, in random order, and return a Measurement of each.

    Args:
        programs: name -> program.
        open_meter: opens a meter for process ids; readings are taken right before and after
            each block.
        plan: how much to measure.

    Raises:
        SensorError: the meter failed or gave no joules for a whole block.
    """
    with ExitStack() as stack:
        meters: dict[str, Meter] = {}
        for name, program in programs.items():
            meters[name] = open_meter([program.pid])
            stack.callback(meters[name].close)
        batches = {
            name: _warm_up(program, _block_s(plan, meters[name]), plan.warm_up_s)
            for name, program in programs.items()
        }
        order = np.random.default_rng(plan.seed)
        taken: dict[str, list[tuple[Block, Timing]]] = {name: [] for name in programs}
        before = read_load()
        for _ in range(plan.rounds):
            for name in order.permutation(sorted(programs)):
                taken[name].append(_measured(programs[name], meters[name], batches[name]))
        own_s = sum(timing.cpu_s for blocks in taken.values() for _, timing in blocks)
        warnings = warnings_of(before, read_load(), own_s)
        return {name: _measurement(meters[name], taken[name], warnings) for name in programs}


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


def _block_s(plan: Plan, meter: Meter) -> float:
    return max(plan.block_s, MIN_UPDATES_PER_BLOCK * (meter.sensor.update_period_s or 0.0))


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


def _measured(program: Runnable, meter: Meter, batches: int) -> tuple[Block, Timing]:
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


def _measurement(
    meter: Meter, taken: Sequence[tuple[Block, Timing]], warnings: tuple[str, ...]
) -> Measurement:
    return Measurement(
        sensor=meter.sensor,
        blocks=tuple(block for block, _ in taken),
        idle_w=meter.idle_w,
        latency_p50_s=float(np.median([timing.p50_s for _, timing in taken])),
        latency_p95_s=float(np.median([timing.p95_s for _, timing in taken])),
        warnings=warnings,
    )
