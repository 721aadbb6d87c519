"""Machines, meters and programs that the property tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from joulewise.core.energy import Meter, Timing
from joulewise.core.host import Host
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.perf import RaplPerfMeter
from joulewise.meter.power_table import PowerRow
from joulewise.meter.rapl import RaplMeter
from joulewise.testing.machine import FakeMachine, Steps, Updates, Zone

SMALL = 2**20
"""Steps of a counter that wraps every 64 J. It is below what PLAUSIBLE_W allows in no time at all,
so the meter's own thread, which lives in real time, never finds a step implausible."""

MEMORY = Path("/dev/shm")  # noqa: S108  (a disk would take most of the time)

OpenCounter = Callable[[FakeMachine], AbstractContextManager[Meter]]

HOST = Host(
    cpu="any",
    vendor=None,
    family=None,
    model=None,
    logical_cpus=8,
    instruction_sets=(),
    memory_bytes=None,
    hypervisor=True,
    system="Linux",
    architecture="x86_64",
)


@contextmanager
def fake_machine(
    zones: Mapping[str, Zone] | None = None,
    updates: Updates | None = None,
    *,
    lists: bool = True,
) -> Iterator[FakeMachine]:
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        machine = FakeMachine(Path(folder), zones or {}, updates=updates)
        machine.proc.lists = lists
        yield machine


@contextmanager
def rapl(machine: FakeMachine) -> Iterator[RaplMeter]:
    meter = RaplMeter(machine.powercap.root, read=machine.read_text, clock=machine.monotonic_s)
    try:
        yield meter
    finally:
        meter.close()


@contextmanager
def rapl_perf(machine: FakeMachine) -> Iterator[RaplPerfMeter]:
    meter = RaplPerfMeter(
        machine.perf.root, opener=machine.perf.open, vendor="any", clock=machine.monotonic_s
    )
    with closing(meter):
        yield meter


COUNTERS: Mapping[str, tuple[OpenCounter, int]] = {
    "rapl": (rapl, SMALL),
    "rapl-perf": (rapl_perf, 2**32),
}
"""Name -> how RAPL is opened, and the steps of a counter that it can be tested on: the kernel makes
64 bits of perf's, and takes those that it gets for 32."""


def cpu_time(machine: FakeMachine, *pids: int, row: PowerRow | None = None) -> CpuTimeMeter:
    return CpuTimeMeter(
        pids,
        host=HOST if row is None else host_of(row),
        proc=machine.proc.root,
        clock=machine.proc.clock,
        now=machine.monotonic_s,
    )


def host_of(row: PowerRow) -> Host:
    """Return a host that power_of() finds the row for."""
    if not row.cpuids:
        return HOST
    family, model = row.cpuids[0]
    return replace(HOST, vendor=row.vendor, family=family, model=model)


def counted_true_j(machine: FakeMachine) -> float:
    """Return the true joules of what RAPL's total covers: packages and DRAM, once each."""
    return sum(
        machine.true_j[zone]
        for zone, spec in machine.zones.items()
        if zone.startswith("intel-rapl:") and spec.name.startswith(("package", "dram"))
    )


@dataclass
class Program:
    """A program of known joules per item on a machine that neighbours and heat slow down.

    Args:
        pace: seconds that one second of work takes, over the machine's time.
        watts: what it draws above idle on `cpus` CPUs, W per CPU.
        gain: by how much counters overstate what it draws, a factor.
    """

    machine: FakeMachine
    pid: int
    batch_s: float
    watts: float
    pace: Steps
    gain: float = 1.0
    cpus: float = 2.0
    batch_items: int = 4

    def block(self, batches: int) -> Timing:
        seconds = self._lasts_s(batches * self.batch_s)
        self.machine.load_gain = self.gain
        self.machine.advance(seconds, {self.pid: self.cpus}, self.watts)
        return Timing(
            items=batches * self.batch_items,
            seconds=seconds,
            cpu_s=seconds * self.cpus,
            p50_s=seconds / batches,
            p95_s=seconds / batches,
        )

    def _lasts_s(self, work_s: float) -> float:
        """Return how long the work takes from now on, slower in some stretches than others."""
        now_s = start_s = self.machine.monotonic_s()
        for end_s in (*self.pace.until_s, float("inf")):
            if end_s <= now_s:
                continue
            needed_s = work_s * self.pace(now_s)
            if now_s + needed_s <= end_s:
                return now_s + needed_s - start_s
            work_s -= (end_s - now_s) / self.pace(now_s)
            now_s = end_s
        raise AssertionError("the last stretch has no end")
