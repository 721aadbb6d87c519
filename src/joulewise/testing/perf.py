"""Perf events of RAPL that tests fill with joules of their own.

Looks like ``/sys`` where the PMU ``power`` is loaded, and opens counters as the kernel does: a
count starts at 0 when it is opened, is of 64 bits, and moves by the signed 32-bit difference of
what the hardware shows, so that a wrap goes on and a reset falls.

Source: linux/arch/x86/events/rapl.c, rapl_event_update and rapl_scale.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import weakref
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from joulewise.meter.perf import Event

__all__ = ["FakePerf"]

PMU = 14
"""Number of the PMU; the kernel gives it when the driver is loaded."""

EVENTS = {
    "energy-cores": 1,
    "energy-pkg": 2,
    "energy-ram": 3,
    "energy-gpu": 4,
    "energy-psys": 5,
}
"""Numbers of the events. Source: rapl.c."""

COUNTS_PER_STEP = 2**18
"""Counts of 2^-32 J in a step of 2^-14 J."""

READS_AHEAD = 4096
"""Readings that find the newest count before it is written anew."""


class FakePerf:
    """Write the sys files of the PMU ``power`` and move its counters.

    Args:
        root: an empty folder; give it to RaplPerfMeter as `root`, and `open` as `opener`.
        cpus: one CPU of each package or die -> its package; dies are numbered as they come.
        events: names of the events that the processor has.
    """

    def __init__(
        self,
        root: Path,
        cpus: Mapping[int, int] | None = None,
        events: tuple[str, ...] = ("energy-pkg", "energy-ram"),
    ) -> None:
        self.root = root
        self.forbidden: int | None = None
        self._cpus = dict(cpus or {0: 0})
        self._raw: dict[tuple[str, int], int] = defaultdict(int)
        self._count: dict[int, int] = {}
        self._opened: dict[tuple[str, int], list[int]] = defaultdict(list)
        self.pmu = root / "bus/event_source/devices/power"
        (self.pmu / "events").mkdir(parents=True)
        (self.pmu / "type").write_text(f"{PMU}\n")
        (self.pmu / "cpumask").write_text(f"{','.join(map(str, self._cpus))}\n")
        for event in events:
            self._write_event(event)
        for die, (cpu, package) in enumerate(self._cpus.items()):
            topology = root / f"devices/system/cpu/cpu{cpu}/topology"
            topology.mkdir(parents=True)
            (topology / "physical_package_id").write_text(f"{package}\n")
            (topology / "die_id").write_text(f"{die}\n")

    def open(self, event: Event) -> int:
        """Return a file descriptor that is read as a perf event is; give it as `opener`.

        Raises:
            OSError: there is no such event, or `forbidden` is an error number.
        """
        names = {number: name for name, number in EVENTS.items()}
        name = names.get(event.config, "")
        known = event.kind == PMU and (self.pmu / "events" / name).is_file()
        code = self.forbidden or (0 if known and event.cpu in self._cpus else errno.EINVAL)
        if code:
            raise OSError(code, os.strerror(code))
        ours, path = tempfile.mkstemp(dir=self.root)
        weakref.finalize(self, os.close, ours)
        Path(path).unlink()
        self._opened[name, event.cpu].append(ours)
        self._count[ours] = 0
        self._write(ours)
        return os.dup(ours)  # shares its place in the file with ours

    def advance(self, joules: Mapping[tuple[str, int], float]) -> None:
        """Let counters count so many joules.

        Args:
            joules: ("energy-pkg", CPU) -> joules.
        """
        for (event, cpu), spent_j in joules.items():
            self.show(event, cpu, (self._raw[event, cpu] + round(spent_j * 2**14)) % 2**32)

    def show(self, event: str, cpu: int, raw: int) -> None:
        """Let the hardware show a value of 32 bits, in steps of 2^-14 J, which the kernel reads."""
        step = (raw - self._raw[event, cpu] + 2**31) % 2**32 - 2**31
        self._raw[event, cpu] = raw
        for descriptor in self._opened[event, cpu]:
            self._count[descriptor] += step * COUNTS_PER_STEP
            self._write(descriptor)

    def unplug(self, event: str, cpu: int) -> None:
        """Take a CPU offline: its counter reads as empty."""
        for descriptor in self._opened[event, cpu]:
            os.ftruncate(descriptor, 0)

    def _write(self, descriptor: int) -> None:
        """Write the count from where the reader is, over and over: it never reads an old one."""
        count = struct.pack("=Q", self._count[descriptor] % 2**64)
        os.pwrite(descriptor, count * READS_AHEAD, os.lseek(descriptor, 0, os.SEEK_CUR))

    def _write_event(self, event: str) -> None:
        folder = self.pmu / "events"
        (folder / event).write_text(f"event=0x{EVENTS[event]:02x}\n")
        (folder / f"{event}.scale").write_text("2.3283064365386962890625e-10\n")
        (folder / f"{event}.unit").write_text("Joules\n")
