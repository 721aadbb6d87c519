"""Read the processor's own joule counters (RAPL) through Linux powercap (grade B).

The driver is called ``intel-rapl`` on AMD too. The total is every package once, plus DRAM, which is
a subzone by path but not part of the package's counter. Never in the total: ``core`` and ``uncore``
(inside the package), ``psys`` (the whole board, packages included), the ``intel-rapl-mmio`` copies
of the same counters, and packages that the kernel lists twice.

Invariant: a reading never falls. A counter that wraps is carried on from its range. A step, forward
or over a wrap, that would need more than PLAUSIBLE_W is a reset or a suspension: it raises, then
and at every later reading, because what was counted in between is lost for good. As a counter may
wrap within minutes, a daemon thread reads it often enough that no wrap is missed, however long the
caller waits.

Source: Linux Documentation/power/powercap/powercap.rst; Intel SDM vol. 3B section 14.10.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import SensorError
from joulewise.core.host import Host

__all__ = [
    "PLAUSIBLE_W",
    "RaplMeter",
    "Zone",
    "find_zones",
    "probe",
    "rapl_sensor",
]

ROOT = Path("/sys/class/powercap")

PLAUSIBLE_W = 2000.0
"""Power that no single package reaches, W; a judgement, about four times today's largest TDP."""

LAG_S = 0.1
"""Time by which a counter may lag its clock, s: 100 update periods; a judgement."""

COUNTER_STEP_J = 2.0**-14
"""Usual energy unit, 61 uJ. Source: Intel SDM vol. 3B section 14.10.1, MSR_RAPL_POWER_UNIT."""

UPDATE_PERIOD_S = 1e-3
"""Time between counter updates, s. Source: Intel SDM vol. 3B section 14.10.3, about 1 ms."""

LOW_RATIO, HIGH_RATIO = 0.9, 1.1
"""Error of the counter against the true joules of the package: a judgement, not a published figure.

Source: Khan et al. 2018, doi:10.1145/3177754 (highly correlated with plug power) and Hackenberg et
al. 2015, doi:10.1109/IPDPSW.2015.70 (Intel measures since Haswell, modelled before). differs:
neither gives a bound that holds for every CPU, so a round +-10 % is stated.
"""

PAIR_RATIO = 1.05
"""Part of the error that two programs on one machine do not share: a judgement.

It is not 1 because AMD's counters are a model fed by activity (Schoene et al. 2021,
arXiv:2108.00808, section on RAPL) and need not see what data and instruction mix cost.
"""

SHOWN_BY = {"rapl": "powercap", "rapl-perf": "perf events"}
"""Meter -> the part of the kernel that shows it the counters."""

UDEV_RULE = 'SUBSYSTEM=="powercap", ACTION=="add", RUN+="/bin/chmod a+r /sys%p/energy_uj"'

ReadText = Callable[[Path], str]


def probe(root: Path = ROOT) -> str | None:
    """Return why RAPL cannot be read here, with the fix, or None where it can.

    Args:
        root: the powercap class folder; another folder in tests.
    """
    try:
        for zone in find_zones(root):
            _read_uj(zone.path)
    except SensorError as error:
        return str(error)
    return None


@dataclass(frozen=True, kw_only=True)
class Zone:
    """A counter that is part of the total.

    Args:
        rail: "package-0", "dram-0", "package-0-die-1", ...
        path: its ``energy_uj`` file.
        range_uj: value at which the counter starts again from 0, µJ.
    """

    rail: str
    path: Path
    range_uj: int


def find_zones(root: Path = ROOT, *, read: ReadText = Path.read_text) -> tuple[Zone, ...]:
    """List the counters that add up to the total, each once.

    Args:
        root: the powercap class folder.
        read: reads one file; another function in tests.

    Raises:
        SensorError: there is no package counter, or it cannot be read.
    """
    folders = sorted(root.glob("intel-rapl:*"), key=lambda folder: _zone_order(folder.name))
    packages: dict[str, Path] = {}
    for folder in folders:
        if re.fullmatch(r"intel-rapl:\d+", folder.name):
            name = _read_line(folder / "name", read)
            if name.startswith("package-") and name not in packages:
                packages[name] = folder
    if not packages:
        raise SensorError(
            f"no RAPL package counter under {root}; it needs an Intel or AMD CPU outside a virtual "
            "machine and the kernel module: sudo modprobe intel_rapl_msr"
        )
    distinct = _without_mirrored_dies(packages, read)
    return tuple(zone for name in distinct for zone in _zones_of(name, packages[name], read))


class RaplMeter:
    """Count the joules of all packages and their DRAM.

    `idle_w` is None until the caller sets it.

    Args:
        root: the powercap class folder; another folder in tests.
        read: reads one file; another function in tests.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: no counter, or no permission to read it; the message has the fix.
    """

    grade: ClassVar[Grade] = "B"
    component: ClassVar[Component] = "cpu"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        root: Path = ROOT,
        *,
        read: ReadText = Path.read_text,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read_text = read
        self._clock = clock
        self._zones = find_zones(root, read=read)
        self._time_s = clock()
        self._last_uj = {zone.rail: _read_uj(zone.path, read) for zone in self._zones}
        self._total_uj = dict.fromkeys(self._last_uj, 0)
        self._lost: str | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.idle_w: float | None = None
        self.sensor = rapl_sensor("rapl", [zone.rail for zone in self._zones])
        threading.Thread(target=self._keep_up, name="joulewise-rapl", daemon=True).start()

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> RaplMeter:  # noqa: ARG003
        """Open the meter; its joules are the machine's, whatever the processes."""
        return cls()

    def read(self) -> Reading:
        """Return the joules of each rail since the meter was opened.

        Raises:
            SensorError: a counter vanished or is unreadable; or one was reset since the meter was
                opened, which no later reading can mend.
        """
        with self._lock:
            if self._lost is not None:
                raise SensorError(self._lost)
            time_s = self._clock()
            fresh_uj = {zone.rail: _read_uj(zone.path, self._read_text) for zone in self._zones}
            # asked again: this thread may have stood still between the clock and the counters
            allowed_j = PLAUSIBLE_W * (self._clock() - self._time_s + LAG_S)
            steps_uj = {
                zone.rail: _step_uj(zone, self._last_uj[zone.rail], fresh_uj[zone.rail])
                for zone in self._zones
            }
            for rail, step_uj in steps_uj.items():
                if not 0 <= step_uj * 1e-6 <= allowed_j:
                    self._lost = _loss(rail, self._last_uj[rail], fresh_uj[rail])
                    raise SensorError(self._lost)
            for rail, step_uj in steps_uj.items():
                self._total_uj[rail] += step_uj
            self._last_uj, self._time_s = fresh_uj, time_s
            return Reading(
                time_s=time_s, rails_j={rail: uj * 1e-6 for rail, uj in self._total_uj.items()}
            )

    def close(self) -> None:
        """End the thread that watches for wraps."""
        self._closed.set()

    def _keep_up(self) -> None:
        """Read twice within the shortest time in which a counter can wrap, until closed."""
        period_s = min(zone.range_uj for zone in self._zones) * 1e-6 / PLAUSIBLE_W / 2
        while not self._closed.wait(period_s):
            with suppress(SensorError):  # the caller's own next reading raises it again
                self.read()


def rapl_sensor(name: str, rails: Sequence[str]) -> Sensor:
    """Describe the counters that were found, whichever way the kernel shows them.

    Args:
        name: of the meter that reads them, "rapl" or "rapl-perf".
        rails: "package-0", "dram-0", ...
    """
    memory = " and DRAM" if any(rail.startswith("dram") for rail in rails) else ", without DRAM"
    return Sensor(
        name=name,
        grade="B",
        boundary=f"all CPU packages{memory} of the machine, idle included, whoever uses them",
        rails=tuple(rails),
        includes_idle=True,
        resolution_j=COUNTER_STEP_J,
        update_period_s=UPDATE_PERIOD_S,
        low_ratio=LOW_RATIO,
        high_ratio=HIGH_RATIO,
        pair_ratio=PAIR_RATIO,
        source=(
            f"RAPL counters through Linux {SHOWN_BY[name]}; Intel SDM vol. 3B 14.10; error band is "
            "a judgement after Khan et al. 2018, doi:10.1145/3177754"
        ),
    )


def _step_uj(zone: Zone, before_uj: int, after_uj: int) -> int:
    """Return the joules between two counter values, over a wrap where there was one, µJ."""
    step_uj = after_uj - before_uj
    return step_uj if step_uj >= 0 else step_uj + zone.range_uj


def _loss(rail: str, before_uj: int, after_uj: int) -> str:
    """Say what happened to a counter whose step no CPU's power explains."""
    moved = "fell" if after_uj < before_uj else "rose"
    reason = "is no wrap" if after_uj < before_uj else "no CPU draws in that time"
    return (
        f"the counter {rail} {moved} from {before_uj} to {after_uj} uJ, which {reason} "
        "(was the machine suspended or the driver reloaded?); measure again"
    )


def _zones_of(package: str, folder: Path, read: ReadText) -> Iterator[Zone]:
    """Yield a package's counter and, where it has one, that of its DRAM."""
    yield _zone(package, folder, read)
    for child in sorted(folder.glob("intel-rapl:*")):
        if _read_line(child / "name", read) == "dram":
            yield _zone(package.replace("package", "dram", 1), child, read)
            return


def _zone(rail: str, folder: Path, read: ReadText) -> Zone:
    return Zone(
        rail=rail,
        path=folder / "energy_uj",
        range_uj=_number(folder / "max_energy_range_uj", read),
    )


def _without_mirrored_dies(packages: dict[str, Path], read: ReadText) -> list[str]:
    """Return the packages, leaving out dies that show another die's counter.

    Source: codecarbon issue 788: AMD packages were billed twice through two die files.
    """
    kept: list[str] = []
    for name, folder in packages.items():
        socket = name.partition("-die-")[0]
        siblings = [packages[other] for other in kept if other.partition("-die-")[0] == socket]
        if not any(_mirrors(folder, sibling, read) for sibling in siblings):
            kept.append(name)
    return kept


def _mirrors(folder: Path, other: Path, read: ReadText) -> bool:
    """Say whether two files show one counter: one value lies between two of the other."""
    first_uj = _read_uj(other / "energy_uj", read)
    value_uj = _read_uj(folder / "energy_uj", read)
    return first_uj <= value_uj <= _read_uj(other / "energy_uj", read)


def _zone_order(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.split(":")[1:] if part.isdigit())


def _read_uj(path: Path, read: ReadText = Path.read_text) -> int:
    return _number(path, read)


def _number(path: Path, read: ReadText) -> int:
    text = _read_line(path, read)
    if not text.isdigit():
        raise SensorError(f"{path} holds {text!r}, not a number; reload the driver intel_rapl_msr")
    return int(text)


def _read_line(path: Path, read: ReadText) -> str:
    """Read one line of sysfs; failures become a SensorError with their fix."""
    try:
        return read(path).strip()
    except PermissionError as error:
        raise SensorError(
            f"only root may read {path}; run: sudo chmod a+r {ROOT}/intel-rapl:*/energy_uj "
            f"(again after every reboot, or once as udev rule: {UDEV_RULE})"
        ) from error
    except OSError as error:
        raise SensorError(
            f"cannot read {path} ({error.strerror or error}); load the driver again with: "
            "sudo modprobe intel_rapl_msr"
        ) from error
