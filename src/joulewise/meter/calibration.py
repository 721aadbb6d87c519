"""What a calibration of the estimate from CPU time is; joulewise.meter.fit says where it is from.

Whatever opens the estimate reads these, so that they need no NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from joulewise.core.energy import Interval, Sensor
from joulewise.core.host import Host

__all__ = ["SCHEMA", "Calibration", "Line", "Step"]

SCHEMA = "joulewise/calibration/1"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the staircase as it was measured.

    Args:
        mix: name of the instruction mix; also where nothing ran, so that each has its own idle.
        cpus: processes that were kept busy, 0 for idle.
        seconds: how long, s.
        cpu_s: CPU time of these processes, s.
        reference_j: what the reference counted, J.
    """

    mix: str
    cpus: int
    seconds: float
    cpu_s: float
    reference_j: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """W = a x reading + b, with confidence intervals.

    Args:
        a: the slope.
        b_w: power at a reading of 0, W.
        r2: share of the reference's variance that the line explains, at most 1; 0 where the
            reference did not vary at all.
        points: points of the fit.
        groups: groups that were left out one at a time.
        left_out_error_ratio: mean distance of a point from the line of all other groups, as a
            fraction of the point.
    """

    a: Interval
    b_w: Interval
    r2: float
    points: int
    groups: int
    left_out_error_ratio: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What makes the estimate from CPU time one of grade C on one machine.

    Args:
        created: UTC time, ISO 8601.
        host: the machine; the calibration holds for no other.
        reference: the sensor that it was calibrated against.
        table_w: watts above idle per busy CPU of the uncalibrated estimate, W.
        line: reference power over the uncalibrated estimate's.
        idle_w: mean power of the reference while nothing ran, W.
        low_ratio: true joules above idle of an unknown program are at least this times the
            calibrated estimate, the reference's own error included.
        high_ratio: they are at most this times it.
        mix_ratio: largest factor between the watts per busy CPU of two unknown programs that keep
            as many CPUs busy.
        pair_ratio: the same with the part of the reference's error that does not cancel.
        load_ratio: factor between the watts per busy CPU at the dearest and the cheapest load.
        steps: the staircase, in the order in which it was climbed.
        schema: version of this record.

    Raises:
        ValueError: a figure cannot be one of a calibration.
    """

    created: str
    host: Host
    reference: Sensor
    table_w: float
    line: Line
    idle_w: float
    low_ratio: float
    high_ratio: float
    mix_ratio: float
    pair_ratio: float
    load_ratio: float
    steps: tuple[Step, ...]
    schema: str = field(default=SCHEMA)

    def __post_init__(self) -> None:
        figures = (self.table_w, self.line.a.central, self.idle_w, self.high_ratio)
        factors = (self.high_ratio, self.mix_ratio, self.pair_ratio, self.load_ratio)
        if not (all(0 < figure < math.inf for figure in figures) and min(factors) >= 1):
            raise ValueError("its figures contradict each other")
        if not 0 < self.low_ratio <= 1:
            raise ValueError("its band does not hold its own estimate")

    @property
    def net_w(self) -> float:
        """Watts above idle per busy CPU, calibrated, W."""
        return self.line.a.central * self.table_w
