"""What finding the candidate costs: joules and seconds of this process and its children."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from joulewise.core.energy import Interval, Meter, Reading

__all__ = ["Bill"]

EDGES = 2
"""Updates by which a stage may be off: each of its readings may be late by one."""


class Bill:
    """Adds joules and seconds up by cause.

    Joules are readings of the meter: net of idle for an estimate from CPU time, with idle for a
    hardware counter, whose whole package is occupied by the search while it runs.

    Stages are as long as the work takes, so a slow meter may update less than 100 times in one.
    What a late reading leaves out of a stage is in the next, so the sum does not suffer; the
    interval of each stage is widened by what may be drawn between updates at its two edges, at the
    mean power since the bill was opened.

    Args:
        meter: reads this process and its children.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self._opened = meter.read()
        self.stages_j: dict[str, Interval] = {}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, cause: str) -> Iterator[None]:
        """Bill what is spent inside the ``with`` block to `cause`, even if it raises."""
        before, started = self.meter.read(), time.monotonic()
        try:
            yield
        finally:
            spent = self.interval(before, self.meter.read())
            self.add(cause, spent, time.monotonic() - started)

    def add(self, cause: str, joules: Interval, seconds: float) -> None:
        """Bill a figure that was taken before, by an interrupted run for instance."""
        old = self.stages_j.get(cause, Interval(low=0.0, central=0.0, high=0.0))
        self.stages_j[cause] = Interval(
            low=old.low + joules.low,
            central=old.central + joules.central,
            high=old.high + joules.high,
        )
        self.seconds[cause] = self.seconds.get(cause, 0.0) + seconds

    def interval(self, before: Reading, after: Reading) -> Interval:
        """Return what was spent between two readings, with the sensor's band and its edges."""
        sensor, joules = self.meter.sensor, max(0.0, after.total_j - before.total_j)
        edge_j = EDGES * (sensor.update_period_s or 0.0) * self._mean_w(after)
        edge_j += sensor.resolution_j or 0.0
        return Interval(
            low=max(0.0, joules * sensor.low_ratio - edge_j),
            central=joules,
            high=joules * sensor.high_ratio + edge_j,
        )

    @property
    def spent_j(self) -> float:
        """What was billed so far, J."""
        return sum(each.central for each in self.stages_j.values())

    @property
    def mean_w(self) -> float:
        """Mean power of what was billed so far, W; 0 where nothing was."""
        seconds = sum(self.seconds.values())
        return self.spent_j / seconds if seconds > 0 else 0.0

    def _mean_w(self, now: Reading) -> float:
        """Return the mean power since the bill was opened, W; 0 where no time has passed."""
        seconds = now.time_s - self._opened.time_s
        return max(0.0, now.total_j - self._opened.total_j) / seconds if seconds > 0 else 0.0
