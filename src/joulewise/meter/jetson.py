"""Read the input power of an NVIDIA Jetson module from its INA3221 (grade B).

The sensor has no counter, so volts times amperes are sampled and added up. The total is the rail
that feeds the module (``VDD_IN``; ``POM_5V_IN`` on the first Nano and TX1); every other rail is fed
from it and never added. A module without such a rail (AGX Xavier, AGX Orin) is refused: which of
its rails feed which is not documented well enough to add them.

Tested against fake folders that follow the kernel's document; never run on a Jetson here. The older
``ina3221x`` driver of L4T 32 and before (iio, not hwmon) is not read.

Source: Linux Documentation/hwmon/ina3221.rst (in[123]_label, in[123]_input in mV, curr[123]_input
in mA; in7 and curr4 are sums over channels); NVIDIA developer forum, topic 200883: "VDD_IN is the
total power of module".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import SensorError
from joulewise.core.host import Host
from joulewise.meter.rails import Rail, RailReader
from joulewise.meter.sysfs import read_line, read_number

__all__ = ["ROOT", "TOTAL_RAILS", "JetsonMeter", "find_total", "probe"]

ROOT = Path("/sys/class/hwmon")

TOTAL_RAILS = ("VDD_IN", "POM_5V_IN")
"""Labels of the rail that feeds the whole module."""

CHANNELS = (1, 2, 3)
"""Channels of a chip; the higher numbers are sums of them. Source: ina3221.rst."""

SAMPLE_PERIOD_S = 0.05
"""Time between samples, s: a judgement; the chip's own averaging is shorter, reads are over I2C."""

RATIOS, PAIR_RATIO = (0.93, 1.07), 1.05
"""Error of the module's power, and the part that two programs do not share: judgements.

Source: one step of the chip is 40 uV at the shunt and 8 mV at the bus (TI INA3221 data sheet; also
NVIDIA DRIVE OS, Power Measurement Tool). differs: no bound is published for a Jetson as built, and
what happens between samples is not seen.
"""


def probe(root: Path = ROOT) -> str | None:
    """Return why no Jetson can be read here, with the fix, or None where it can.

    Args:
        root: the hwmon class folder; another folder in tests.
    """
    try:
        find_total(root).read()
    except SensorError as error:
        return str(error)
    return None


def find_total(root: Path = ROOT) -> Rail:
    """Return the rail that feeds the module.

    Args:
        root: the hwmon class folder.

    Raises:
        SensorError: there is no INA3221, or none of its rails is the total.
    """
    rails = dict(_channels(root))
    if not rails:
        raise SensorError(
            f"no INA3221 under {root}; it needs a Jetson with its hwmon driver: "
            "sudo modprobe ina3221"
        )
    for label in TOTAL_RAILS:
        if label in rails:
            return rails[label]
    raise SensorError(
        f"none of the rails {', '.join(rails)} is the module's input, and some feed others, so "
        "they are not added; measure with an external meter and --meter recording:FILE"
    )


class JetsonMeter:
    """Count the joules that enter a Jetson module.

    `idle_w` is None until the caller sets it.

    Args:
        root: the hwmon class folder; another folder in tests.
        period_s: time between samples, s.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: no INA3221, or none of its rails is the total.
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
        rail = find_total(root)
        self._reader = RailReader([rail], period_s=period_s, clock=clock)
        self.idle_w: float | None = None
        self.sensor = Sensor(
            name="jetson",
            grade="B",
            boundary="input of the Jetson module, without its carrier board, idle included",
            rails=(rail.name,),
            includes_idle=True,
            resolution_j=None,
            update_period_s=period_s,
            low_ratio=RATIOS[0],
            high_ratio=RATIOS[1],
            pair_ratio=PAIR_RATIO,
            source="INA3221 through Linux hwmon, sampled; the error band is a judgement",
        )

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> JetsonMeter:  # noqa: ARG003
        """Open the meter; its joules are the module's, whatever the processes."""
        return cls()

    def read(self) -> Reading:
        """Return the joules since the meter was opened.

        Raises:
            SensorError: the rail vanished or was not sampled in time.
        """
        return self._reader.read()

    def close(self) -> None:
        """End the sampling."""
        self._reader.close()


def _channels(root: Path) -> Iterator[tuple[str, Rail]]:
    """Yield every labelled channel of every INA3221."""
    for folder in sorted(root.glob("hwmon*")):
        name = folder / "name"
        if not name.exists() or read_line(name) != "ina3221":
            continue
        for channel in CHANNELS:
            label = folder / f"in{channel}_label"
            if label.exists() and (rail := read_line(label)) not in ("", "NC"):
                yield rail, _rail(rail, folder, channel)


def _rail(name: str, folder: Path, channel: int) -> Rail:
    volts, amperes = folder / f"in{channel}_input", folder / f"curr{channel}_input"
    return Rail(name=name, unit="W", read=lambda: read_number(volts) * read_number(amperes) * 1e-6)
