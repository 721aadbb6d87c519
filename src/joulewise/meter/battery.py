"""Read what leaves a laptop's battery while it is unplugged (grade B).

It covers the whole machine with its screen, and it is slow and coarse: the charge typically moves
in steps of 10 mWh (36 J), some seconds apart. So it is never chosen by itself and suits comparisons
of many minutes. Joules are what the battery delivers, not what it took to charge it.

Invariant: a battery that charges, or mains that come back, end the measurement with an error.

Tested against fake folders that follow the kernel's document; never run on a battery here.

Source: Linux Documentation/ABI/testing/sysfs-class-power (energy_now in µWh, charge_now in µAh,
voltage_now in µV, power_now in µW).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import SensorError
from joulewise.core.host import Host
from joulewise.meter.rails import Rail, RailReader
from joulewise.meter.sysfs import read_line, read_number

__all__ = ["ROOT", "BatteryMeter", "find_batteries", "probe"]

ROOT = Path("/sys/class/power_supply")

UWH_J = 3600e-6
"""Joules of a microwatt-hour."""

UAH_UV_J = 3600e-12
"""Joules of a microampere-hour times a microvolt."""

COUNTER_STEP_J = 36.0
"""Step of the charge, 10 mWh: a judgement, common to many laptops; ACPI lets it be coarser."""

UPDATE_PERIOD_S = 10.0
"""Time between changes of the figures, s: a judgement; laptops differ from 1 s to 30 s."""

SAMPLE_PERIOD_S = 1.0
"""Time between samples of power_now, s. Source: cache_time in drivers/acpi/battery.c, 1000 ms."""

RATIOS, PAIR_RATIO = (0.85, 1.15), 1.1
"""Error of a battery gauge, and the part that two programs do not share: judgements.

The gauge is calibrated for the charge left, not for power; no published bound was found.
"""


def probe(root: Path = ROOT) -> str | None:
    """Return why no battery can be read here, with the fix, or None where it can.

    Args:
        root: the power_supply class folder; another folder in tests.
    """
    try:
        for rail in find_batteries(root):
            rail.read()
    except SensorError as error:
        return str(error)
    return None


def find_batteries(root: Path = ROOT) -> tuple[Rail, ...]:
    """List the batteries of the machine, at least one of which is discharging.

    Args:
        root: the power_supply class folder.

    Raises:
        SensorError: there is no battery, the machine is on mains, or a battery tells no joules.
    """
    folders = sorted(root.glob("BAT*"))
    if not folders:
        raise SensorError(f"no battery under {root}; only a laptop has one")
    _check_unplugged(folders)
    return tuple(_rail(folder, folders) for folder in folders)


class BatteryMeter:
    """Count the joules that leave all batteries.

    `idle_w` is None until the caller sets it.

    Args:
        root: the power_supply class folder; another folder in tests.
        period_s: time between samples of a battery that tells its power only, s.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: no battery, or the machine is on mains.
    """

    grade: ClassVar[Grade] = "B"
    component: ClassVar[Component] = "machine"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        root: Path = ROOT,
        *,
        period_s: float = SAMPLE_PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        rails = find_batteries(root)
        self._reader = RailReader(rails, period_s=period_s, clock=clock)
        self.idle_w: float | None = None
        self.sensor = battery_sensor(rails)

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> BatteryMeter:  # noqa: ARG003
        """Open the meter; its joules are the machine's, whatever the processes."""
        return cls()

    def read(self) -> Reading:
        """Return the joules that left each battery since the meter was opened.

        Raises:
            SensorError: the machine was plugged in, or a battery vanished or charges.
        """
        return self._reader.read()

    def close(self) -> None:
        """End the sampling."""
        self._reader.close()


def battery_sensor(rails: Sequence[Rail]) -> Sensor:
    """Describe the batteries that were found."""
    sampled = any(rail.unit == "W" for rail in rails)
    return Sensor(
        name="battery",
        grade="B",
        boundary="output of the batteries: the whole machine with its screen, idle included",
        rails=tuple(rail.name for rail in rails),
        includes_idle=True,
        resolution_j=None if sampled else COUNTER_STEP_J,
        update_period_s=UPDATE_PERIOD_S,
        low_ratio=RATIOS[0],
        high_ratio=RATIOS[1],
        pair_ratio=PAIR_RATIO,
        source=(
            "the battery's own gauge through Linux power_supply; step, update period and error "
            "band are judgements"
        ),
    )


def _rail(folder: Path, folders: Sequence[Path]) -> Rail:
    """Return the joules that left a battery so far, or else its power."""
    if (folder / "energy_now").exists():
        drained = _energy(folder)
    elif (folder / "charge_now").exists() and (folder / "voltage_now").exists():
        drained = _charge(folder)
    elif (folder / "power_now").exists():
        return Rail(
            name=folder.name,
            unit="W",
            read=lambda: _unplugged(folders, abs(read_number(folder / "power_now")) * 1e-6),
        )
    else:
        raise SensorError(
            f"{folder} has none of energy_now, charge_now with voltage_now, and power_now; "
            "measure with an external meter and --meter recording:FILE"
        )
    return Rail(name=folder.name, unit="J", read=lambda: _unplugged(folders, drained()))


def _energy(folder: Path) -> Callable[[], float]:
    return lambda: -read_number(folder / "energy_now") * UWH_J


def _charge(folder: Path) -> Callable[[], float]:
    """Return what adds up charge times the voltage at which it left."""
    last: tuple[int, int] | None = None
    total_j = 0.0

    def drained() -> float:
        nonlocal last, total_j
        charge_uah = read_number(folder / "charge_now")
        voltage_uv = read_number(folder / "voltage_now")
        if last is not None:
            total_j += (last[0] - charge_uah) * (last[1] + voltage_uv) / 2 * UAH_UV_J
        last = charge_uah, voltage_uv
        return total_j

    return drained


def _unplugged(folders: Sequence[Path], value: float) -> float:
    """Return `value`, taken while no battery was charging."""
    _check_unplugged(folders)
    return value


def _check_unplugged(folders: Sequence[Path]) -> None:
    """Refuse a machine on mains: one battery discharges and none charges."""
    states = {read_line(folder / "status") for folder in folders}
    if "Charging" in states or "Discharging" not in states:
        raise SensorError(
            f"on mains (the battery says {', '.join(sorted(states))}): unplug the machine and "
            "leave it so while measuring"
        )
