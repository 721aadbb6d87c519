"""Read the joules of AMD and Intel graphics cards through Linux hwmon (grade B).

A card with ``energy*_input`` has a counter in microjoules; an AMD card has its mean power only,
which is sampled and added up, with a wider band. Never a rail: an AMD processor with graphics
inside, as its figure includes the CPU that other meters bill; tiles of an Intel card (``i915_gt0``)
and Intel's inner ``pkg`` channel, which are inside the card's own counter.

Tested against fake folders that follow the kernel's documents; never run on a card here.

Source: Linux Documentation/hwmon/sysfs-interface (energy*_input in µJ, power*_average in µW),
Documentation/ABI/testing/sysfs-driver-intel-i915-hwmon and sysfs-driver-intel-xe-hwmon,
drivers/gpu/drm/amd/pm/amdgpu_pm.c.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import SensorError
from joulewise.core.host import Host
from joulewise.meter.rails import Rail, RailReader
from joulewise.meter.sysfs import read_line, read_number

__all__ = ["ROOT", "HwmonMeter", "find_cards", "probe"]

ROOT = Path("/sys/class/hwmon")

DRIVERS = ("amdgpu", "i915", "xe")
"""Names of the drivers of whole cards."""

APU_LABEL = "vddnb"
"""A voltage that only processors with graphics inside have. Source: amdgpu_pm.c, "APUs only"."""

PERIOD_S = 0.1
"""Time between samples of AMD's power, and taken as the time between counter updates, s.

A judgement; no driver documents it. It also keeps an i915 counter's 32 bits from wrapping unseen,
which the driver makes good if it is read in between (sysfs-driver-intel-i915-hwmon).
"""

COUNTER_STEP_J = 2.0**-14
"""Energy unit, 61 uJ: a judgement after the RAPL unit that i915_hwmon.c reads from the card."""

COUNTER_RATIOS, COUNTER_PAIR_RATIO = (0.9, 1.1), 1.05
"""Error of a counter, and the part that two programs do not share: judgements, as for RAPL."""

SAMPLED_RATIOS, SAMPLED_PAIR_RATIO = (0.7, 1.4), 1.15
"""The same for sampled power: judgements, narrower than NVML's as the driver gives a mean.

Remark: physically impossible AMD figures are known (ml-energy/zeus issue 113).
"""


def probe(root: Path = ROOT) -> str | None:
    """Return why no card can be read here, with the fix, or None where it can.

    Args:
        root: the hwmon class folder; another folder in tests.
    """
    try:
        for rail in find_cards(root):
            rail.read()
    except SensorError as error:
        return str(error)
    return None


def find_cards(root: Path = ROOT) -> tuple[Rail, ...]:
    """List the cards, each once.

    Args:
        root: the hwmon class folder.

    Raises:
        SensorError: there is no card, or one tells neither joules nor power.
    """
    folders = sorted(root.glob("hwmon*"), key=_order)
    cards = [folder for folder in folders if _name(folder) in DRIVERS]
    separate = [folder for folder in cards if not _includes_cpu(folder)]
    if cards and not separate:
        raise SensorError(
            "the graphics are inside the processor and their power includes the CPU's; "
            "measure both with the meter rapl"
        )
    if not separate:
        raise SensorError(
            f"no AMD or Intel card under {root}; it needs the driver amdgpu, or i915 or xe with a "
            "separate card, and Linux 6.2 or later for Intel"
        )
    return tuple(_rail(f"{_name(folder)}-{i}", folder) for i, folder in enumerate(separate))


class HwmonMeter:
    """Count the joules of all AMD and Intel cards.

    `idle_w` is None until the caller sets it.

    Args:
        root: the hwmon class folder; another folder in tests.
        period_s: time between samples, s.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: no card, or no permission to read it; the message has the fix.
    """

    grade: ClassVar[Grade] = "B"
    component: ClassVar[Component] = "gpu"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        root: Path = ROOT,
        *,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        rails = find_cards(root)
        self._reader = RailReader(rails, period_s=period_s, clock=clock)
        self.idle_w: float | None = None
        self.sensor = hwmon_sensor(rails, period_s)

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> HwmonMeter:  # noqa: ARG003
        """Open the meter; its joules are the cards', whatever the processes."""
        return cls()

    def read(self) -> Reading:
        """Return the joules of each card since the meter was opened.

        Raises:
            SensorError: a card vanished, its counter fell, or it was not sampled in time.
        """
        return self._reader.read()

    def close(self) -> None:
        """End the sampling."""
        self._reader.close()


def hwmon_sensor(rails: Sequence[Rail], period_s: float) -> Sensor:
    """Describe the cards that were found."""
    sampled = [rail.name for rail in rails if rail.unit == "W"]
    low_ratio, high_ratio = SAMPLED_RATIOS if sampled else COUNTER_RATIOS
    how = f", power of {', '.join(sampled)} sampled" if sampled else ""
    return Sensor(
        name="hwmon",
        grade="B",
        boundary=f"all AMD and Intel cards of the machine, idle included{how}",
        rails=tuple(rail.name for rail in rails),
        includes_idle=True,
        resolution_j=None if sampled else COUNTER_STEP_J,
        update_period_s=period_s,
        low_ratio=low_ratio,
        high_ratio=high_ratio,
        pair_ratio=SAMPLED_PAIR_RATIO if sampled else COUNTER_PAIR_RATIO,
        source="Linux hwmon of amdgpu, i915 or xe; error band and update period are judgements",
    )


def _rail(name: str, folder: Path) -> Rail:
    """Return the card's counter, or else its power."""
    counter = _first(folder, "energy1_input", "energy2_input")
    if counter is not None:
        return Rail(name=name, unit="J", read=lambda: read_number(counter) * 1e-6)
    power = _first(folder, "power1_average", "power1_input")
    if power is not None:
        return Rail(name=name, unit="W", read=lambda: read_number(power) * 1e-6)
    raise SensorError(
        f"{folder} ({name}) has neither energy1_input nor power1_average; a newer kernel may "
        "have it, else measure with an external meter and --meter recording:FILE"
    )


def _first(folder: Path, *names: str) -> Path | None:
    """Return the first of the files that is there."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def _includes_cpu(folder: Path) -> bool:
    """Say whether an AMD device is part of a processor."""
    labels = folder.glob("in*_label")
    return _name(folder) == "amdgpu" and APU_LABEL in [read_line(label) for label in labels]


def _name(folder: Path) -> str:
    path = folder / "name"
    return read_line(path) if path.exists() else ""


def _order(folder: Path) -> int:
    digits = re.sub(r"\D", "", folder.name)
    return int(digits) if digits else 0
