"""A machine on a virtual clock whose true joules are known, and what its kernel shows of them.

Power is a function of time for each rail, and running processes add to it. ``advance`` integrates
it (exactly where it is piecewise constant) and moves the counters and clocks of a fake powercap
and a fake proc folder, and of fake perf events once they are asked for, as a kernel does: in steps
of 61 uJ, at updates that come about every millisecond, over the end of the counter's range, with an
error of the counter.

Invariants: ``true_j`` holds the joules of every zone without any error of a counter; a counter is
right at the last update of it that lies in the past; nothing waits for real time.
"""

from __future__ import annotations

import errno
import math
import zlib
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from scipy.integrate import quad

from joulewise.testing.perf import FakePerf
from joulewise.testing.powercap import FakePowercap
from joulewise.testing.procfs import FakeProc

__all__ = ["STEP_J", "FakeMachine", "Power", "Steps", "Updates", "Zone", "range_uj"]

Power = Callable[[float], float]
"""Watts at a time of the machine's monotonic clock, s."""

STEP_J = 2.0**-14
"""Energy unit of the counter. Source: Intel SDM vol. 3B section 14.10.1, MSR_RAPL_POWER_UNIT."""

UNIT_NJ = 61_035
"""The same as the kernel has it, nJ, cut to an integer. Source: linux/drivers/powercap/
intel_rapl_common.c, rapl_check_unit_core."""


EVENT_OF = {
    "package": "energy-pkg",
    "dram": "energy-ram",
    "core": "energy-cores",
    "uncore": "energy-gpu",
    "psys": "energy-psys",
}
"""Powercap's name of a zone, up to its number -> the perf event of the same counter."""


def range_uj(steps: int) -> int:
    """Return ``max_energy_range_uj`` of a counter that holds so many steps (2**32 in hardware)."""
    return (steps - 1) * UNIT_NJ // 1000


class Steps:
    """Power that is constant between given times.

    Args:
        until_s: end of each stretch, s, rising; the first begins at minus infinity.
        watts: power in each stretch and, last, after them: one more than `until_s`.

    Raises:
        ValueError: the numbers of stretches and powers do not fit.
    """

    def __init__(self, until_s: tuple[float, ...], watts: tuple[float, ...]) -> None:
        if len(watts) != len(until_s) + 1:
            raise ValueError(f"{len(until_s)} ends need {len(until_s) + 1} powers")
        self.until_s, self.watts = until_s, watts

    def __call__(self, time_s: float) -> float:
        """Return the power at a time, W."""
        return self.watts[bisect_right(self.until_s, time_s)]

    def joules(self, start_s: float, end_s: float) -> float:
        """Return the joules between two times, in closed form."""
        first, last = bisect_right(self.until_s, start_s), bisect_right(self.until_s, end_s)
        edges = [start_s, *self.until_s[first:last], end_s]
        spans = zip(edges, edges[1:], self.watts[first : last + 1], strict=False)
        return math.fsum((end - start) * watts for start, end, watts in spans)


@dataclass(frozen=True, kw_only=True)
class Updates:
    """When a counter is refreshed: the n-th time at (n + a random part of `jitter_ratio`) periods.

    Args:
        period_s: mean time between two updates, s.
        jitter_ratio: largest delay of an update in periods; above 1 some come after the next.
        seed: of the delays.
    """

    period_s: float = 1e-3
    jitter_ratio: float = 0.02
    seed: int = 0

    def last_s(self, time_s: float) -> float:
        """Return when the last update before a time was, s."""
        newest = math.floor(time_s / self.period_s)
        oldest = newest - math.ceil(self.jitter_ratio) - 1
        updates = (self._update_s(n) for n in range(oldest, newest + 1))
        return max(update_s for update_s in updates if update_s <= time_s)

    def _update_s(self, number: int) -> float:
        delay = zlib.crc32(f"{self.seed} {number}".encode()) / 2**32
        return (number + delay * self.jitter_ratio) * self.period_s


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A counter of the machine.

    Args:
        name: "package-0", "core", "dram", "psys", ...
        power: its watts over time before any process of `start` runs.
        steps: steps of 61 uJ that its counter holds; 2**32 in hardware.
        start: steps that it shows at first.
        share: part of a process's joules that this zone sees.
    """

    name: str
    power: Power
    steps: int = 2**32
    start: int = 0
    share: float = 1.0


class FakeMachine:
    """Spend known joules on a virtual clock and show them as a kernel would.

    Set `gain` of a zone, or `load_gain` for what processes draw, at any time to let counters err:
    counted joules are so many times the true ones.

    Args:
        root: an empty folder; the meters read `powercap.root`, `perf.root` and `proc.root` in it.
        zones: "intel-rapl:0" -> its counter; parents before their subzones.
        updates: when counters are refreshed.
        cpus: logical CPUs, for the machine's load.
    """

    def __init__(
        self,
        root: Path,
        zones: Mapping[str, Zone],
        *,
        updates: Updates | None = None,
        cpus: int = 8,
    ) -> None:
        for folder in ("powercap", "perf", "proc"):
            (root / folder).mkdir()
        self._root = root
        self.powercap = FakePowercap(root / "powercap")
        self.proc = FakeProc(root / "proc")
        self.zones = dict(zones)
        self.gain = dict.fromkeys(self.zones, 1.0)
        self.load_gain = 1.0
        self.true_j = dict.fromkeys(self.zones, 0.0)
        self.busy_cpu_s = 0.0
        self._updates = updates or Updates()
        self._cpus = cpus
        self._now_s = 1000.0
        self._suspended_s = self._wall_step_s = 0.0
        self._counted_j = {zone: spec.start * STEP_J for zone, spec in self.zones.items()}
        self._forbidden: set[Path] = set()
        for zone, spec in self.zones.items():
            self.powercap.add_zone(zone, spec.name, range_uj=range_uj(spec.steps))
            self._show(zone, self._counted_j[zone])
        self.proc.write_load(0.0, 0.0)

    @cached_property
    def perf(self) -> FakePerf:
        """The same counters as perf events, where all of them hold 2**32 steps.

        The socket of the zone intel-rapl:3 is package 3, whose counters are opened on CPU 3.
        """
        events = [_event(zone, spec) for zone, spec in self.zones.items()]
        names = {name: None for name, _ in filter(None, events)}
        cpus = {cpu: cpu for name, cpu in filter(None, events) if name == "energy-pkg"}
        perf = FakePerf(self._root / "perf", cpus, tuple(names))
        for (zone, spec), event in zip(self.zones.items(), events, strict=True):
            if event is not None:
                perf.show(*event, _raw(self._counted_j[zone], spec))
        return perf

    def monotonic_s(self) -> float:
        """Return CLOCK_MONOTONIC, s: it neither steps nor runs while suspended."""
        return self._now_s

    def wall_s(self) -> float:
        """Return CLOCK_REALTIME, s: it steps, and runs while suspended."""
        return 1.7e9 + self._now_s + self._suspended_s + self._wall_step_s

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock, as an administrator or NTP does."""
        self._wall_step_s += seconds

    def advance(
        self,
        seconds: float,
        busy: Mapping[int, float] | None = None,
        watts_per_cpu: float = 0.0,
    ) -> None:
        """Let time pass.

        Args:
            seconds: how long, s.
            busy: process id -> CPUs that it keeps busy all the time.
            watts_per_cpu: what each of them draws, W.
        """
        busy = busy or {}
        start_s, end_s = self._now_s, self._now_s + seconds
        self._now_s = end_s
        for pid, cpus in busy.items():
            self.proc.burn(pid, cpus * seconds)
        self.busy_cpu_s += sum(busy.values()) * seconds
        self.proc.write_load(self.busy_cpu_s, self._cpus * (end_s - 1000.0) - self.busy_cpu_s)
        update_s = self._updates.last_s(end_s)
        load_w = sum(busy.values()) * watts_per_cpu
        for zone, spec in self.zones.items():
            if update_s >= start_s:
                fresh_j = self._counts_j(zone, start_s, update_s, load_w)
                self._show(zone, self._counted_j[zone] + fresh_j)
            own_j = _joules(spec.power, start_s, end_s)
            self.true_j[zone] += own_j + load_w * spec.share * seconds
            self._counted_j[zone] += self._counts_j(zone, start_s, end_s, load_w)

    def suspend(self, seconds: float, watts: float = 0.0, *, reset: bool = True) -> None:
        """Sleep: the monotonic clock stands still, power flows, counters may start again at 0.

        Args:
            seconds: how long, s.
            watts: power of every zone meanwhile, W.
            reset: True for suspend to memory (S3), False for suspend to idle.
        """
        self._suspended_s += seconds
        for zone in self.zones:
            self.true_j[zone] += watts * seconds
            self._counted_j[zone] += watts * seconds * self.gain[zone]
            self._show(zone, self._counted_j[zone])
            if reset:
                self.reset(zone)

    def reset(self, zone: str) -> None:
        """Let a counter start again at 0, as a reloaded driver or a resume does."""
        self._counted_j[zone] = 0.0
        self._show(zone, 0.0)

    def vanish(self, zone: str) -> None:
        """Remove a counter's file; the next update brings it back."""
        (self.powercap.folder(zone) / "energy_uj").unlink()

    def forbid(self, zone: str) -> None:
        """Take away the permission to read a counter of powercap."""
        self._forbidden.add(self.powercap.folder(zone).resolve() / "energy_uj")

    def permit(self) -> None:
        """Give all permissions back."""
        self._forbidden.clear()

    def read_text(self, path: Path) -> str:
        """Read a file as far as it is permitted; give it to RaplMeter as `read`.

        Raises:
            PermissionError: it is forbidden.
        """
        if self._forbidden and path.resolve() in self._forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return path.read_text()

    def _counts_j(self, zone: str, start_s: float, end_s: float, load_w: float) -> float:
        """Return what a counter counts between two times, J: with its error."""
        spec = self.zones[zone]
        seen_w = load_w * spec.share * self.load_gain
        return self.gain[zone] * (_joules(spec.power, start_s, end_s) + seen_w * (end_s - start_s))

    def _show(self, zone: str, counted_j: float) -> None:
        raw = _raw(counted_j, self.zones[zone])
        self.powercap.set_uj(zone, raw * UNIT_NJ // 1000)
        if "perf" in self.__dict__:  # made when it is first asked for
            event = _event(zone, self.zones[zone])
            if event is not None:
                self.perf.show(*event, raw)


def _raw(counted_j: float, spec: Zone) -> int:
    """Return what the hardware shows after so many joules, in steps."""
    return math.floor(counted_j / STEP_J) % spec.steps


def _event(zone: str, spec: Zone) -> tuple[str, int] | None:
    """Return the perf event that shows a zone's counter, and its CPU; None where none does."""
    if not zone.startswith("intel-rapl:"):
        return None
    name = spec.name.partition("-")[0]
    return (EVENT_OF[name], int(zone.split(":")[1])) if name in EVENT_OF else None


def _joules(power: Power, start_s: float, end_s: float) -> float:
    """Integrate power over time, J: in closed form for Steps, by quadrature for the rest."""
    if isinstance(power, Steps):
        return power.joules(start_s, end_s)
    return float(quad(power, start_s, end_s, limit=200)[0])
