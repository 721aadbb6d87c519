"""Read the processor's own joule counters (RAPL) through Linux perf events (grade B).

These are the counters that meter/rapl.py reads through powercap, for hosts where ``energy_uj`` is
root's alone (since CVE-2020-8694) but perf events are open. The total is ``energy-pkg`` of every
package once, plus ``energy-ram``, which is beside it. Never in the total: ``energy-cores`` and
``energy-gpu`` (inside the package), ``energy-psys`` (the whole board, packages included) and the
PMU ``power_core`` (single cores, inside the package).

The kernel turns the 32 bits of hardware into 64 of 2^-32 J, but takes a step of more than half the
hardware's range for a backward one; its own timer reads often enough for 200 W a package only, so
ours reads more often.

Invariant: a reading never falls. A count that falls, or rises faster than PLAUSIBLE_W, is a reset
or a suspension and stays an error, as for rapl.

Source: linux/arch/x86/events/rapl.c; perf_event_open(2). Tested against fake folders and counters,
and the system call against software events of this kernel; never run on a processor with RAPL here.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import SensorError
from joulewise.core.host import Host, read_host
from joulewise.meter.rails import Rail, RailReader
from joulewise.meter.rapl import PLAUSIBLE_W, rapl_sensor
from joulewise.meter.sysfs import read_line, read_number

__all__ = [
    "ROOT",
    "Event",
    "OpenEvent",
    "RaplPerfMeter",
    "find_events",
    "open_event",
    "perf_event_open",
    "probe",
]

ROOT = Path("/sys")

RAILS = {"energy-pkg": "package", "energy-ram": "dram"}
"""Events that add up to the total, and what their rails are called. Source: rapl.c."""

ONE_COUNTER_PER_PACKAGE = frozenset({"AuthenticAMD", "HygonGenuine"})
"""Vendors whose dies all show their package's counter; some kernels list each of them.

Source: rapl.c, "AMD/HYGON platforms have a per-PKG package energy counter".
"""

KEEP_UP_S = 8.0
"""Time between our own readings, s: half of the shortest time in which PLAUSIBLE_W spends half the
range of a counter, 2^31 steps of 2^-16 J. Source: rapl.c (smallest unit, sign of a step)."""

SYSCALL = {"x86_64": 298, "aarch64": 241}
"""Number of perf_event_open(2). Source: linux/arch/x86/entry/syscalls/syscall_64.tbl,
linux/include/uapi/asm-generic/unistd.h."""

ATTRIBUTES = struct.Struct("=IIQQQQQIIQ")
"""struct perf_event_attr in its first version, 64 bytes, which every kernel takes: type, size,
config, sample_period, sample_type, read_format, flags, wakeup_events, bp_type, config1.
Source: linux/include/uapi/linux/perf_event.h, PERF_ATTR_SIZE_VER0."""

CLOSE_ON_EXEC = 8
"""PERF_FLAG_FD_CLOEXEC of perf_event_open(2)."""

COUNT_BYTES = 8
"""What a count is read as, where read_format is 0: one unsigned integer of 64 bits."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A counter of one package, as perf_event_open(2) asks for it.

    Args:
        rail: "package-0", "dram-0", "package-0-die-1", ...
        kind: number of the PMU, its ``type``.
        config: number of the event in the PMU.
        cpu: a CPU of the package.
        step_j: joules of one count, J.
    """

    rail: str
    kind: int
    config: int
    cpu: int
    step_j: float


OpenEvent = Callable[[Event], int]
"""Opens an event and returns a file descriptor from which its count is read; raises OSError."""


def perf_event_open(kind: int, config: int, *, pid: int = -1, cpu: int = -1) -> int:
    """Open a counting event and return its file descriptor, which the caller closes.

    Args:
        kind: number of the PMU; 1 is software events.
        config: number of the event.
        pid: process to count in, 0 for this one, -1 for all on `cpu`.
        cpu: CPU to count on, -1 for any.

    Raises:
        OSError: the kernel refuses.
        SensorError: the number of the system call is not known for this machine.
    """
    number = SYSCALL.get(platform.machine()) if sys.platform.startswith("linux") else None
    if number is None:
        raise SensorError(
            f"perf events need Linux on {' or '.join(SYSCALL)}, this is {sys.platform} on "
            f"{platform.machine()}"
        )
    attributes = ATTRIBUTES.pack(kind, ATTRIBUTES.size, config, 0, 0, 0, 0, 0, 0, 0)
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    arguments = (pid, cpu, -1, CLOSE_ON_EXEC)
    descriptor = library.syscall(
        ctypes.c_long(number), ctypes.c_char_p(attributes), *map(ctypes.c_long, arguments)
    )
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(descriptor)


def open_event(event: Event) -> int:
    """Open a counter of the whole machine; see OpenEvent."""
    return perf_event_open(event.kind, event.config, cpu=event.cpu)


def probe(root: Path = ROOT, *, opener: OpenEvent = open_event) -> str | None:
    """Return why RAPL cannot be read through perf events here, with the fix, None where it can.

    Args:
        root: the sys file system; another folder in tests.
        opener: opens an event; another function in tests.
    """
    try:
        with closing(RaplPerfMeter(root, opener=opener)):
            return None
    except SensorError as error:
        return str(error)


def find_events(root: Path = ROOT, vendor: str | None = None) -> tuple[Event, ...]:
    """List the counters that add up to the total, each once.

    Args:
        root: the sys file system.
        vendor: of the processor, as in Host.

    Raises:
        SensorError: there is no counter of packages.
    """
    pmu = root / "bus/event_source/devices/power"
    names = [name for name in RAILS if (pmu / "events" / name).exists()]
    if "energy-pkg" not in names:
        raise SensorError(
            f"no RAPL events under {pmu}; they need an Intel or AMD CPU outside a virtual machine "
            "and the kernel module: sudo modprobe rapl"
        )
    kind = read_number(pmu / "type")
    domains = dict(_domains(root, _cpus(read_line(pmu / "cpumask")), vendor))
    return tuple(
        Event(
            rail=f"{RAILS[name]}-{domain}",
            kind=kind,
            config=_config(pmu / "events" / name),
            cpu=cpu,
            step_j=_step_j(pmu / "events" / name),
        )
        for domain, cpu in domains.items()
        for name in names
    )


class RaplPerfMeter:
    """Count the joules of all packages and their DRAM.

    `idle_w` is None until the caller sets it.

    Args:
        root: the sys file system; another folder in tests.
        opener: opens an event; another function in tests.
        vendor: of the processor; None reads it.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: no counter, or no permission to open it; the message has the fix.
    """

    grade: ClassVar[Grade] = "B"
    component: ClassVar[Component] = "cpu"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        root: Path = ROOT,
        *,
        opener: OpenEvent = open_event,
        vendor: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        events = find_events(root, vendor or read_host().vendor)
        with ExitStack() as opened:
            rails = [_rail(event, _opened(event, opener, opened)) for event in events]
            self._reader = RailReader(rails, period_s=KEEP_UP_S, clock=clock)
            opened.callback(self._reader.close)
            self._opened = opened.pop_all()
        self.idle_w: float | None = None
        self.sensor: Sensor = rapl_sensor("rapl-perf", [event.rail for event in events])

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> RaplPerfMeter:  # noqa: ARG003
        """Open the meter; its joules are the machine's, whatever the processes."""
        return cls(vendor=host.vendor)

    def read(self) -> Reading:
        """Return the joules of each rail since the meter was opened.

        Raises:
            SensorError: a counter gives no value, fell or rose impossibly fast, now or before.
        """
        return self._reader.read()

    def close(self) -> None:
        """Close the counters and end the thread that watches them."""
        self._opened.close()


def _opened(event: Event, opener: OpenEvent, opened: ExitStack) -> FileIO:
    """Open an event until `opened` is closed."""
    try:
        descriptor = opener(event)
    except PermissionError as error:
        raise SensorError(
            f"may not open perf events of the whole machine ({error.strerror}); run: sudo sysctl "
            "kernel.perf_event_paranoid=0 (until the next start), or for this Python alone: sudo "
            f"setcap cap_perfmon=ep {os.path.realpath(sys.executable)}; a container also needs "
            "--cap-add PERFMON"
        ) from error
    except OSError as error:
        raise SensorError(
            f"the kernel does not open the counter {event.rail} ({error.strerror or error}); load "
            "its driver again with: sudo modprobe -r rapl && sudo modprobe rapl"
        ) from error
    return opened.enter_context(os.fdopen(descriptor, "rb", buffering=0))


def _rail(event: Event, counter: FileIO) -> Rail:
    def read() -> float:
        try:
            count = counter.read(COUNT_BYTES)
        except (OSError, ValueError) as error:
            raise SensorError(
                f"cannot read the counter {event.rail} ({error}); measure again"
            ) from error
        if len(count) < COUNT_BYTES:
            raise SensorError(
                f"the counter {event.rail} gives no value (was CPU {event.cpu} taken offline?); "
                "measure again"
            )
        return int.from_bytes(count, sys.byteorder) * event.step_j

    return Rail(name=event.rail, unit="J", read=read, limit_w=PLAUSIBLE_W)


def _domains(root: Path, cpus: Sequence[int], vendor: str | None) -> Iterator[tuple[str, int]]:
    """Yield "0", or "0-die-1" where a package has several counters, with a CPU of each."""
    packages = [_topology(root, cpu, "physical_package_id") for cpu in cpus]
    for cpu, package in zip(cpus, packages, strict=True):
        if packages.count(package) == 1:
            yield str(package), cpu
        elif vendor not in ONE_COUNTER_PER_PACKAGE:
            yield f"{package}-die-{_topology(root, cpu, 'die_id')}", cpu
        elif cpus[packages.index(package)] == cpu:
            yield str(package), cpu


def _topology(root: Path, cpu: int, name: str) -> int:
    return read_number(root / f"devices/system/cpu/cpu{cpu}/topology/{name}")


def _cpus(mask: str) -> list[int]:
    """Return the CPUs of a list like "0,18" or "0-1,18". Source: cpuset(7), List format."""
    cpus: list[int] = []
    for part in mask.split(","):
        first, _, last = part.partition("-")
        if not (first.isdigit() and (last or first).isdigit()):
            raise SensorError(f"cannot read the list of CPUs {mask!r}; load the driver rapl again")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus


def _config(path: Path) -> int:
    """Return the number of an event from a line like "event=0x02"."""
    text = read_line(path)
    try:
        return int(text.removeprefix("event="), 0)
    except ValueError as error:
        raise SensorError(f"{path} holds {text!r}, not an event; load rapl again") from error


def _step_j(path: Path) -> float:
    """Return the joules of one count from the files beside an event."""
    scale, unit = (read_line(path.with_name(f"{path.name}.{part}")) for part in ("scale", "unit"))
    try:
        step_j = float(scale)
    except ValueError:
        step_j = 0.0
    if unit != "Joules" or not 0 < step_j < 1:
        raise SensorError(f"{path} counts {scale!r} {unit!r}, not joules; load rapl again")
    return step_j
