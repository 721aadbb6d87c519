"""Joules with their sensor, grade and interval: the values that meters give and reports print.

Invariants: quantities are SI without prefix; a missing quantity is ``None``, never 0; a number
never travels without the Sensor it came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = [
    "Block",
    "Component",
    "Grade",
    "Interval",
    "Measurement",
    "Meter",
    "Part",
    "Reading",
    "Sensor",
    "Timing",
]

Grade = Literal["A", "B", "C", "D", "E"]
"""A external meter, B hardware counter, C calibrated estimate, D estimate from CPU time and a
sourced power table, E predicted from operation counts."""

Component = Literal["cpu", "gpu", "machine"]
"""What a meter's joules are of: the processors, the graphics cards, or everything together."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value with its lower and upper bound, all in the unit of the field that holds it."""

    low: float
    central: float
    high: float

    def scaled(self, factor: float) -> Interval:
        """Return the interval multiplied by a non-negative `factor`."""
        return Interval(
            low=self.low * factor, central=self.central * factor, high=self.high * factor
        )

    def less(self, part: Interval) -> Interval:
        """Return what is left without a `part` of it, whose bounds move with its own."""
        return Interval(
            low=max(0.0, self.low - part.low),
            central=max(0.0, self.central - part.central),
            high=max(0.0, self.high - part.high),
        )


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """What an instrument is, and how far its joules may be from the true ones.

    Args:
        name: registry name of the meter ("rapl", "cpu-time").
        grade: see Grade.
        boundary: what the joules cover, in words.
        rails: names of the rails that add up to the total; nested rails are never among them.
        includes_idle: True where a reading counts idle power too (gross), False where it is
            net of idle by construction.
        resolution_j: smallest step of the counter, J.
        update_period_s: time between counter updates, s.
        low_ratio: true joules are at least this times the reading.
        high_ratio: true joules are at most this times the reading.
        pair_ratio: largest factor (>= 1) by which the ratio of two programs on this machine may
            be off, that is, the part of the band that does not cancel.
        load_ratio: further factor (>= 1) where they keep different numbers of CPUs busy; 1 where
            the sensor sees that, or where nothing is known of it.
        source: where the figures come from.
    """

    name: str
    grade: Grade
    boundary: str
    rails: tuple[str, ...]
    includes_idle: bool
    resolution_j: float | None
    update_period_s: float | None
    low_ratio: float
    high_ratio: float
    pair_ratio: float
    source: str
    load_ratio: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Cumulative joules per rail, and the monotonic time in seconds at which they were true."""

    time_s: float
    rails_j: Mapping[str, float]

    @property
    def total_j(self) -> float:
        """Sum of all rails, J."""
        return sum(self.rails_j.values())


class Meter(Protocol):
    """A joule counter that is open.

    `idle_w` is the power that flows while the programs under test do nothing, inside the
    sensor's boundary, W; None where it is not known.
    """

    sensor: Sensor
    idle_w: float | None

    def read(self) -> Reading: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long a block of `items` items took, as the program itself saw it.

    `p50_s` and `p95_s` are quantiles of the time of one batch.
    """

    items: int
    seconds: float
    cpu_s: float
    p50_s: float
    p95_s: float


@dataclass(frozen=True, kw_only=True)
class Block:
    """One uninterrupted stretch of work: `reading_j` joules in `seconds` for `items` items.

    `cpu_s` is the CPU time of the program and its children in the block, None if unknown.
    """

    items: int
    seconds: float
    reading_j: float
    cpu_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Repeated blocks of one program under one sensor.

    Args:
        sensor: the instrument.
        blocks: the repeats, in the order in which they ran.
        idle_w: idle power inside the boundary, W.
        latency_p50_s: median time of one batch, s.
        latency_p95_s: 95th percentile of the time of one batch, s.
        warnings: what may have spoilt it, each with its remedy.
        idle_blocks: what was counted while nothing ran, one for each of `blocks`, within the same
            round; empty where the sensor does not include idle power or it was known before.
    """

    sensor: Sensor
    blocks: tuple[Block, ...]
    idle_w: float | None
    latency_p50_s: float | None = None
    latency_p95_s: float | None = None
    warnings: tuple[str, ...] = ()
    idle_blocks: tuple[Block, ...] = ()

    @property
    def items(self) -> int:
        """Items over all blocks."""
        return sum(block.items for block in self.blocks)

    @property
    def net_j_per_item(self) -> Interval | None:
        """Joules per item above idle, with the sensor's band; None where idle is unknown."""
        reading = sum(block.reading_j for block in self.blocks)
        if self.sensor.includes_idle:
            if self.idle_w is None:
                return None
            reading -= self.idle_w * self._seconds
        return self._banded(max(reading, 0.0))

    @property
    def gross_j_per_item(self) -> Interval | None:
        """Joules per item, idle included, with the sensor's band; None where idle is unknown."""
        reading = sum(block.reading_j for block in self.blocks)
        if not self.sensor.includes_idle:
            if self.idle_w is None:
                return None
            reading += self.idle_w * self._seconds
        return self._banded(reading)

    @property
    def _seconds(self) -> float:
        return sum(block.seconds for block in self.blocks)

    def _banded(self, reading_j: float) -> Interval:
        central = reading_j / self.items
        return Interval(
            low=central * self.sensor.low_ratio,
            central=central,
            high=central * self.sensor.high_ratio,
        )


@dataclass(frozen=True, kw_only=True)
class Part(Measurement):
    """What one meter saw of a program, among the meters of its other components.

    Args:
        component: what the joules are of.
    """

    component: Component

    @property
    def net_j(self) -> Interval | None:
        """Joules of all items above idle, with the sensor's band; None where idle is unknown."""
        per_item = self.net_j_per_item
        return None if per_item is None else per_item.scaled(self.items)

    @property
    def gross_j(self) -> Interval | None:
        """Joules of all items, idle included, with the sensor's band; None if idle is unknown."""
        per_item = self.gross_j_per_item
        return None if per_item is None else per_item.scaled(self.items)

    @property
    def idle_j(self) -> float | None:
        """Joules of idle power that are in gross and left out of net; None where unknown."""
        return None if self.idle_w is None else self.idle_w * self._seconds
