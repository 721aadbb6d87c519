"""Calibrate the estimate from CPU time against a reference meter, on this machine, and keep that.

The chain on one screen: reference -> plan -> staircase -> fit -> record.
"""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from joulewise.core.energy import Meter
from joulewise.core.errors import UsageError
from joulewise.core.host import Host, read_host
from joulewise.meter.calibration_store import Kept, keep, prepare
from joulewise.meter.fit import fit_calibration
from joulewise.meter.power_table import power_of
from joulewise.meter.staircase import Crew, Plan, climb, large_array_bytes, plan_for
from joulewise.meter.table import component_of, open_meter

__all__ = ["MOST_S", "Progress", "Unwatched", "calibrate"]

MOST_S = 3600.0
"""Longest time that a calibration takes unless more is allowed, s."""

LOG_ENDINGS = (".csv", ".json", ".jsonl", ".log")
"""What makes a reference the recording of an external meter rather than the name of a meter."""

CARDS = ("nvml", "hwmon")
"""Counters of graphics cards, which are refused before their packages are asked for."""


class Progress(Protocol):
    """Told what is about to happen."""

    def planned(self, plan: Plan, reference: Meter) -> None:
        """The staircase is about to be climbed."""
        ...

    def step(self, number: int, mix: str, cpus: int) -> None:
        """A step begins, the first one with number 1."""
        ...


class Unwatched:
    """Progress that nobody watches."""

    def planned(self, plan: Plan, reference: Meter) -> None:
        """Say nothing."""

    def step(self, number: int, mix: str, cpus: int) -> None:
        """Say nothing."""


def calibrate(
    reference: str, *, max_s: float = MOST_S, seed: int = 0, progress: Progress | None = None
) -> Kept:
    """Raise the estimate from CPU time from grade D to C on this machine.

    Puts the machine under load for minutes, reads the reference meanwhile, and keeps what was found
    for all later runs on this machine. Nothing is kept where it fails.

    Args:
        reference: name of a meter of the processors or of the whole machine ("rapl"), or the file
            that an external meter is writing its log to.
        max_s: longest time that it may take, s.
        seed: of the order of the steps.
        progress: told what happens.

    Raises:
        UsageError: the reference is none, or needs more time.
        SensorError: the reference does not work here, or what it saw gives no calibration.
        JoulewiseError: the record cannot be written.
    """
    progress, host = progress or Unwatched(), read_host()
    table_w = power_of(host).net_w.central
    prepare(host)  # before minutes are spent
    with closing(_open_reference(reference, host)) as meter:
        plan = plan_for(meter.sensor, host.logical_cpus, expected_w=table_w, max_s=max_s, seed=seed)
        progress.planned(plan, meter)
        with Crew(plan.loads[-1], large_array_bytes(host)) as crew:
            found = climb(plan, meter, crew, say=progress.step)
    calibration = fit_calibration(
        found.steps,
        reference=meter.sensor,
        host=host,
        table_w=table_w,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        disturbances=found.disturbances,
    )
    return keep(calibration)


def _open_reference(reference: str, host: Host) -> Meter:
    """Open what the estimate is calibrated against, or say why that cannot be meant."""
    name = reference
    if ":" not in reference and (reference.endswith(LOG_ENDINGS) or Path(reference).is_file()):
        name = f"recording:{reference}"
    if name.partition(":")[0] in CARDS:
        raise _cards_refused(name)
    meter = open_meter([os.getpid()], name=name, host=host)
    refused = _refusal(name, meter)
    if refused is not None:
        meter.close()
        raise refused
    return meter


def _refusal(name: str, meter: Meter) -> UsageError | None:
    if component_of(meter) == "gpu":
        return _cards_refused(name)
    if meter.sensor.grade > "B" or not meter.sensor.includes_idle:
        return UsageError(
            f"{name} is an estimate itself (grade {meter.sensor.grade}); calibrate against a "
            "counter (rapl) or the recording of an external meter"
        )
    return None


def _cards_refused(name: str) -> UsageError:
    return UsageError(
        f"{name} counts graphics cards, of which CPU time tells nothing, and is their counter "
        f"already: measure them with --meter {name}, and calibrate CPU time against rapl or the "
        "recording of an external meter"
    )
