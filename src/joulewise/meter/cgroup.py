"""Estimate joules from the CPU time of a control group (grade D, or C).

The same watts per busy CPU as in meter/cpu_time.py, for all that ran in a group and in those inside
it: a service, a container, a slice. The kernel bills every process to its group, so what ended, was
reparented to process 1 or was never waited for is counted here, which a process tree may miss. It
is named by the user, as in ``cgroup:/sys/fs/cgroup/system.slice/nginx.service``, and never chosen
by itself.

Invariant: a reading never falls. CPU time that fell is another group of the same name, made after a
service was started again; it stays an error, as what was spent in between is unknown.

Source: Linux Documentation/admin-guide/cgroup-v2.rst, cpu.stat (usage_usec, whether the controller
is enabled or not); Documentation/admin-guide/cgroup-v1/cpuacct.rst (cpuacct.usage, ns).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Reading
from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import Host
from joulewise.meter.calibration_store import Kept, kept
from joulewise.meter.cpu_time import OF_PROCESSES, GradeHere, estimate_of
from joulewise.meter.sysfs import read_line, read_number

__all__ = ["CgroupMeter", "NamedCgroup", "group_cpu_s", "probe"]

RAIL = "cpu"

EXAMPLE = "cgroup:/sys/fs/cgroup/system.slice/nginx.service"

CPU_STAT, CPU_STAT_STEP_S = "cpu.stat", 1e-6
"""Version 2: the file whose usage_usec is the CPU time, and the step in which it is told, s."""

CPU_USAGE, CPU_USAGE_STEP_S = "cpuacct.usage", 1e-9
"""Version 1: the same."""

UPDATE_PERIOD_S = 0.01
"""Longest time for which a running thread's CPU time is not yet in its group's, s: a tick.

Source: update_curr() in linux/kernel/sched/fair.c bills it at ticks and switches; a tick of the
slowest setting, CONFIG_HZ=100. differs: on CPUs without ticks (nohz_full) it may be a second.
"""


def probe() -> str | None:
    """Return why it does not work by itself: it needs a group."""
    return f"no control group is named; give its folder as in: --meter {EXAMPLE}"


def group_cpu_s(folder: Path) -> float:
    """Return the CPU time of a control group and all inside it since it was made, s.

    Args:
        folder: of the group, version 2, or version 1 under ``cpuacct``.

    Raises:
        SensorError: the folder is gone, may not be read, or tells no CPU time.
    """
    if _is_there(folder / CPU_USAGE):
        return read_number(folder / CPU_USAGE) * CPU_USAGE_STEP_S
    if not _is_there(folder / CPU_STAT):
        raise SensorError(
            f"{folder} is not, or no longer, a control group that tells its CPU time (there is "
            f"neither {CPU_STAT} nor {CPU_USAGE}); give a folder as in --meter {EXAMPLE}"
        )
    for line in read_line(folder / CPU_STAT).splitlines():
        name, _, value = line.partition(" ")
        if name == "usage_usec" and value.isdigit():
            return int(value) * CPU_STAT_STEP_S
    raise SensorError(
        f"{folder / CPU_STAT} has no usage_usec, as in version 1; give the group's folder under "
        "/sys/fs/cgroup/cpuacct instead"
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # of a folder that may not be looked into
        return False


class CgroupMeter:
    """Count estimated joules of a control group.

    Args:
        folder: of the group.
        host: the machine; decides the row of the power table.
        calibration: that of the machine, None for the power table.
        now: monotonic time, s; another function in tests.

    Raises:
        SensorError: the folder tells no CPU time.
    """

    grade = GradeHere()
    component: ClassVar[Component] = "cpu"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        folder: Path,
        *,
        host: Host,
        calibration: Kept | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        estimate = estimate_of(host, calibration)
        step_s = CPU_USAGE_STEP_S if _is_there(folder / CPU_USAGE) else CPU_STAT_STEP_S
        self._folder, self._now = folder, now
        self._net_w = estimate.net_w
        self._last_s = group_cpu_s(folder)
        self._lost: str | None = None
        self.idle_w: float | None = estimate.idle_w
        self.sensor = replace(
            estimate.sensor,
            name="cgroup",
            boundary=estimate.sensor.boundary.removesuffix(OF_PROCESSES)
            + f"the control group {folder.name} and those inside it",
            resolution_j=estimate.net_w * step_s,
            update_period_s=UPDATE_PERIOD_S,
        )

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> CgroupMeter:  # noqa: ARG003
        """Refuse: a group must be named."""
        raise SensorError(str(probe()))

    @staticmethod
    def named(argument: str) -> NamedCgroup:
        """Return the kind that reads the group whose folder ``cgroup:`` is followed by.

        Raises:
            UsageError: there is no folder's name.
        """
        if not argument:
            raise UsageError(f"cgroup: lacks the group's folder; write it as in {EXAMPLE}")
        return NamedCgroup(folder=Path(argument))

    def read(self) -> Reading:
        """Return the estimated joules of the group since it was made.

        Raises:
            SensorError: the group is gone, or was made anew, now or before.
        """
        if self._lost is not None:
            raise SensorError(self._lost)
        time_s, cpu_s = self._now(), group_cpu_s(self._folder)
        if cpu_s < self._last_s:
            self._lost = (
                f"the CPU time of {self._folder} fell from {self._last_s:.3f} to {cpu_s:.3f} s "
                "(was the service started again?); measure again"
            )
            raise SensorError(self._lost)
        self._last_s = cpu_s
        return Reading(time_s=time_s, rails_j={RAIL: cpu_s * self._net_w})

    def close(self) -> None:
        """Do nothing: no resource is held between readings."""


@dataclass(frozen=True, kw_only=True)
class NamedCgroup:
    """The kind of meter that reads one control group.

    Args:
        folder: of the group.
        platform: as in sys.platform.
    """

    folder: Path
    platform: str = sys.platform
    component: ClassVar[Component] = CgroupMeter.component

    @property
    def grade(self) -> Grade:
        """C where this machine is calibrated, else D."""
        return CgroupMeter.grade

    def probe(self) -> str | None:
        """Return why the group's CPU time cannot be read, None where it can."""
        if not self.platform.startswith("linux"):
            return f"control groups need Linux, this is {self.platform}"
        try:
            group_cpu_s(self.folder)
        except SensorError as error:
            return str(error)
        return None

    def attach(self, pids: Sequence[int], host: Host) -> CgroupMeter:  # noqa: ARG002
        """Open the meter; its joules are the group's, whatever the processes.

        Raises:
            InputError: the machine's calibration cannot be read.
        """
        return CgroupMeter(self.folder, host=host, calibration=kept(host))
