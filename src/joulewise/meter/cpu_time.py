"""Estimate joules from the CPU time of processes and watts per busy CPU (grade D, or C).

The joules are CPU seconds times the watts that a machine of this microarchitecture draws above
idle per busy logical CPU: from a sourced table (grade D), or from the calibration of this very
machine where there is one (grade C, see joulewise.meter.calibration). Other tenants, waiting and
sleeping cost nothing here, so it works in virtual machines and on shared hosts; what it cannot see
is that some instructions draw more than others, which is the pair ratio.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Meter, Reading, Sensor
from joulewise.core.errors import InputError
from joulewise.core.host import Host, read_host
from joulewise.meter.calibration_store import Kept, kept
from joulewise.meter.power_table import INSTRUCTION_MIX_SPREAD_RATIO, PowerRow, power_of
from joulewise.meter.processes import PROC, ProcessTree, process_cpu_s

__all__ = [
    "OF_PROCESSES",
    "CpuTimeMeter",
    "Estimate",
    "GradeHere",
    "calibrated_sensor",
    "cpu_time_sensor",
    "estimate_of",
    "probe",
]

RAIL = "cpu"

OF_PROCESSES = "the process and its children"
"""Whose CPU time it is; how a boundary ends."""

CLOCK_STEP_S = 1e-9
"""Step of the process CPU clock. Source: clock_getres(2), Linux with high-resolution timers."""


def probe(*, proc: Path = PROC, platform: str = sys.platform) -> str | None:
    """Return why CPU time cannot be read here, None where it can.

    Args:
        proc: where the proc file system is; another folder in tests.
        platform: as in sys.platform.
    """
    if not platform.startswith("linux"):
        return f"exact CPU times of other processes need Linux, this is {platform}"
    if not (proc / "self" / "stat").exists():
        return f"{proc} is not mounted; mount it with: mount -t proc proc {proc}"
    try:
        kept(read_host())
    except InputError as error:
        return str(error)
    return None


class GradeHere:
    """The grade as an attribute: C where this machine is calibrated, else D."""

    def __get__(self, meter: Meter | None, kind: type) -> Grade:
        if meter is not None:
            return meter.sensor.grade
        try:
            return "D" if kept(read_host()) is None else "C"
        except InputError:  # probe() says why, and nothing is opened
            return "D"


class CpuTimeMeter:
    """Count estimated joules of processes and their children.

    Args:
        pids: the processes to bill.
        host: the machine; decides the row of the power table.
        calibration: that of the machine, None for the power table.
        proc: where the proc file system is; another folder in tests.
        clock: reads the CPU time of one process, s.
        now: monotonic time, s; another function in tests.

    Raises:
        SensorError: a process does not exist.
    """

    grade = GradeHere()
    component: ClassVar[Component] = "cpu"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        pids: Sequence[int],
        *,
        host: Host,
        calibration: Kept | None = None,
        proc: Path = PROC,
        clock: Callable[[int], float] = process_cpu_s,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._tree = ProcessTree(pids, proc=proc, clock=clock)
        self._estimate = estimate_of(host, calibration)
        self.sensor, self.idle_w = self._estimate.sensor, self._estimate.idle_w

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> CpuTimeMeter:
        """Open the meter on processes of this machine, calibrated where the machine is.

        Raises:
            InputError: the machine's calibration cannot be read.
        """
        return cls(pids, host=host, calibration=kept(host))

    def cpu_s(self) -> float:
        """Return the CPU time of the processes and their children since they started, s."""
        return self._tree.cpu_s()

    def joules_of(self, cpu_s: float) -> float:
        """Return the central estimate for `cpu_s` seconds of CPU time, J."""
        return cpu_s * self._estimate.net_w

    def read(self) -> Reading:
        """Return the estimated joules since the processes started."""
        return Reading(time_s=self._now(), rails_j={RAIL: self.joules_of(self.cpu_s())})

    def close(self) -> None:
        """Do nothing: no resource is held between readings."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What CPU time is turned into joules with.

    Args:
        net_w: watts above idle per busy logical CPU, W.
        idle_w: idle power of the machine, W.
        sensor: what the joules are, for the CPU time of processes.
    """

    net_w: float
    idle_w: float | None
    sensor: Sensor


def estimate_of(host: Host, calibration: Kept | None) -> Estimate:
    """Return how a machine's CPU time is turned into joules.

    Args:
        host: the machine; decides the row of the power table.
        calibration: that of the machine, None for the power table.
    """
    if calibration is not None:
        known = calibration.calibration
        sensor = calibrated_sensor(calibration)
        return Estimate(net_w=known.net_w, idle_w=known.idle_w, sensor=sensor)
    row = power_of(host)
    return Estimate(
        net_w=row.net_w.central,
        idle_w=row.idle_w.central * host.logical_cpus,
        sensor=cpu_time_sensor(row),
    )


def cpu_time_sensor(row: PowerRow) -> Sensor:
    """Describe the estimate that a row of the power table gives."""
    return Sensor(
        name="cpu-time",
        grade="D",
        boundary=(
            "share of the whole server's wall power above idle, by CPU time of " + OF_PROCESSES
        ),
        rails=(RAIL,),
        includes_idle=False,
        resolution_j=row.net_w.central * CLOCK_STEP_S,
        update_period_s=None,
        low_ratio=row.net_w.low / row.net_w.central,
        high_ratio=row.net_w.high / row.net_w.central,
        pair_ratio=INSTRUCTION_MIX_SPREAD_RATIO,
        source=f"{row.name}, {row.servers} servers: {row.source}",
    )


def calibrated_sensor(calibration: Kept) -> Sensor:
    """Describe the estimate that a calibration gives."""
    known, reference = calibration.calibration, calibration.calibration.reference
    covered = reference.boundary.partition(", idle included")[0]
    return Sensor(
        name="cpu-time",
        grade="C",
        boundary=(
            f"{covered}, above idle as {reference.name} counts it, by CPU time of {OF_PROCESSES}"
        ),
        rails=(RAIL,),
        includes_idle=False,
        resolution_j=known.net_w * CLOCK_STEP_S,
        update_period_s=None,
        low_ratio=known.low_ratio,
        high_ratio=known.high_ratio,
        pair_ratio=known.pair_ratio,
        load_ratio=known.load_ratio,
        source=(
            f"calibrated on {known.created[:10]} against {reference.name} (grade "
            f"{reference.grade}), record {calibration.digest[:12]}: {reference.source}"
        ),
    )
