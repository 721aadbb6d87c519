"""What finding the candidate costs: joules and seconds of this process and its children."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from joulewise.core.energy import Interval, Meter

__all__ = ["Bill"]


class Bill:
    """Adds joules and seconds up by cause.

    Joules are readings of the meter: net of idle for an estimate from CPU time, with idle for a
    hardware counter, whose whole package is occupied by the search while it runs.

    Args:
        meter: reads this process and its children.
    """

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.stages_j: dict[str, Interval] = {}
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, cause: str) -> Iterator[None]:
        """Bill what is spent inside the ``with`` block to `cause`, even if it raises."""
        before, started = self.meter.read(), time.monotonic()
        try:
            yield
        finally:
            joules = max(0.0, self.meter.read().total_j - before.total_j)
            self.add(cause, self.interval(joules), time.monotonic() - started)

    def add(self, cause: str, joules: Interval, seconds: float) -> None:
        """Bill a figure that was taken before, by an interrupted run for instance."""
        old = self.stages_j.get(cause, Interval(low=0.0, central=0.0, high=0.0))
        self.stages_j[cause] = Interval(
            low=old.low + joules.low,
            central=old.central + joules.central,
            high=old.high + joules.high,
        )
        self.seconds[cause] = self.seconds.get(cause, 0.0) + seconds

    def interval(self, joules: float) -> Interval:
        """Return a reading with the sensor's band."""
        sensor = self.meter.sensor
        return Interval(
            low=joules * sensor.low_ratio, central=joules, high=joules * sensor.high_ratio
        )
