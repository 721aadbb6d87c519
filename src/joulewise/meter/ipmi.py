"""Read this machine's power from its BMC through ipmitool (grade A).

Named by the user and never chosen by itself, as a BMC renews its figure every second at best and
rounds it to 1 W, so that windows are minutes long. What is read is DCMI's current power, sampled
and added up; each sample runs ipmitool, whose own work is among the joules.

Invariant: a BMC that says its reading is deactivated is refused, whatever number it shows.

Tested against an executable that prints what ipmitool prints; never on a BMC.

Source: ipmitool, lib/ipmi_dcmi.c, ipmi_dcmi_pwr_rd (the lines that are printed); DCMI 1.5, Get
Power Reading (the sampling period is that of minimum, maximum and average power). differs: on some
BMCs that period is weeks, so it is taken for the update period only where it is a minute at most.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from joulewise.core.energy import Component, Grade, Sensor
from joulewise.core.errors import SensorError
from joulewise.core.host import Host
from joulewise.meter.polled import Instrument, PolledMeter, Watched, watch
from joulewise.meter.rails import UnansweredError

__all__ = ["IPMI", "IpmiKind", "PowerReading", "parse_reading"]

RAIL = "machine"

COMMAND = ("ipmitool", "dcmi", "power", "reading")

TIMEOUT_S = 10.0
"""Longest wait for ipmitool, s: a judgement; its own patience with a BMC is seconds."""

LONGEST_PERIOD_S = 60.0
"""Longest sampling period that may be how often the power is renewed, s: a judgement."""

UPDATE_PERIOD_S = 10.0
"""Time between new figures where the BMC does not say, s: a judgement."""

RATIOS, PAIR_RATIO = (0.9, 1.1), 1.05
"""Error of a BMC's power meter, and the part that two programs do not share: judgements.

It is the power supplies' own meter, rounded to 1 W; makers rarely publish a bound.
"""

POWER = re.compile(r"Instantaneous power reading:\s*(\d+)\s*Watts", re.IGNORECASE)
PERIOD = re.compile(r"Sampling period:\s*(\d+)\s*(Milliseconds|Seconds)", re.IGNORECASE)
STATE = re.compile(r"Power reading state is:\s*(\w+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class PowerReading:
    """What ipmitool printed.

    Args:
        power_w: the current power, W.
        period_s: sampling period of the BMC's statistics, s; None where it does not say.
    """

    power_w: float
    period_s: float | None


def parse_reading(text: str) -> PowerReading:
    """Return what ``ipmitool dcmi power reading`` printed.

    Args:
        text: its standard output.

    Raises:
        SensorError: there is no power in it, or the reading is deactivated.
    """
    power, period, state = (pattern.search(text) for pattern in (POWER, PERIOD, STATE))
    if state is not None and state[1].lower() != "activated":
        raise SensorError(
            f"the BMC says that its power reading is {state[1]}; activate power measurement in the "
            "BMC's settings"
        )
    if power is None:
        raise SensorError(
            f"ipmitool printed no power but {text.strip()[:40]!r}; does the BMC support DCMI?"
        )
    factor = 1e-3 if period and period[2].lower().startswith("milli") else 1.0
    period_s = int(period[1]) * factor if period else 0.0
    return PowerReading(power_w=float(power[1]), period_s=period_s or None)


class IpmiKind:
    """The kind of this machine's BMC, which is watched once.

    Args:
        clock: monotonic time, s; another function in tests.
        sleep: waits that long, s; another function in tests.
    """

    grade: ClassVar[Grade] = "A"
    component: ClassVar[Component] = "machine"

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep

    def probe(self) -> str | None:
        """Return why there is no ipmitool here, with the fix; the BMC is not asked yet."""
        if shutil.which(COMMAND[0]) is None:
            return "ipmitool is not installed; on a server with a BMC: sudo apt install ipmitool"
        return None

    def attach(self, pids: Sequence[int], host: Host) -> PolledMeter:  # noqa: ARG002
        """Open the meter; its joules are the machine's, whatever the processes.

        Raises:
            SensorError: the BMC does not answer or tells no power.
        """
        return PolledMeter(*self._watched, clock=self._clock)

    @cached_property
    def _watched(self) -> tuple[Instrument, Watched]:
        instrument = Instrument(ask=_ask, kind="W", sensor=_sensor(_reading().period_s))
        return instrument, watch(instrument, clock=self._clock, sleep=self._sleep)


IPMI = IpmiKind()
"""The kind of this machine's BMC."""


def _ask() -> dict[str, float]:
    return {RAIL: _reading().power_w}


def _reading() -> PowerReading:
    """Ask the BMC now."""
    try:
        done = subprocess.run(
            COMMAND,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnansweredError(
            f"ipmitool gave no answer within {TIMEOUT_S:g} s; is the BMC busy?"
        ) from error
    except OSError as error:
        raise SensorError(
            f"cannot run ipmitool ({error.strerror or error}); run: sudo apt install ipmitool"
        ) from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[0][:120]
        raise UnansweredError(
            f"ipmitool failed and said: {said}; load the driver with: sudo modprobe ipmi_si "
            "ipmi_devintf, and let this user read /dev/ipmi0"
        )
    return parse_reading(done.stdout)


def _sensor(period_s: float | None) -> Sensor:
    plausible = period_s is not None and period_s <= LONGEST_PERIOD_S
    return Sensor(
        name="ipmi",
        grade="A",
        boundary="input of the machine's power supplies as its BMC sees it, idle included",
        rails=(RAIL,),
        includes_idle=True,
        resolution_j=None,
        update_period_s=period_s if plausible else UPDATE_PERIOD_S,
        low_ratio=RATIOS[0],
        high_ratio=RATIOS[1],
        pair_ratio=PAIR_RATIO,
        source="ipmitool dcmi power reading; its error is a judgement of 10 %",
    )
