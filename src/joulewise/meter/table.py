"""The table of meters, and how the best one that works here is chosen.

Best means best grade; meters of one grade keep the order of the table. A grade never mixes with
another in one comparison, so the choice is made once per run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from joulewise.core.energy import Grade, Meter
from joulewise.core.errors import MissingExtraError, SensorError
from joulewise.core.host import Host, read_host
from joulewise.core.registry import Entry, Registry
from joulewise.meter.rapl import measure_idle_w

__all__ = ["METERS", "MeterStatus", "MeterType", "meter_opener", "open_meter", "probe_meters"]

IDLE_WINDOW_S = 5.0
"""How long idle power is watched: thousands of updates of a hardware counter."""


class MeterType(Protocol):
    """What a row of the table names: usually the meter's class.

    ``probe()`` returns None, or in one line why it cannot work here and what to do;
    ``attach(pids, host)`` opens the meter on running processes.
    """

    @property
    def grade(self) -> Grade:
        """The grade of all its joules."""
        ...

    @property
    def probe(self) -> Callable[[], str | None]:
        """Why it cannot work here."""
        ...

    def attach(self, pids: Sequence[int], host: Host) -> Meter:
        """Open the meter."""
        ...


METERS: Registry[MeterType] = Registry(
    "meter",
    {
        "rapl": Entry(
            target="joulewise.meter.rapl:RaplMeter",
            summary="the processor's own joule counters (packages and DRAM), Linux powercap",
        ),
        "cpu-time": Entry(
            target="joulewise.meter.cpu_time:CpuTimeMeter",
            summary="CPU time of the process tree times sourced watts; works in virtual machines",
        ),
    },
    group="joulewise.meters",
)


@dataclass(frozen=True, kw_only=True)
class MeterStatus:
    """Whether a meter works here.

    Args:
        name: name in METERS.
        summary: one line about it.
        grade: grade of its joules; None where its package is not installed.
        reason: why it cannot work here and the fix; None where it works.
    """

    name: str
    summary: str
    grade: Grade | None
    reason: str | None


def probe_meters(table: Registry[MeterType] = METERS) -> tuple[MeterStatus, ...]:
    """Return the state of every meter, best grade first.

    Args:
        table: the meters to ask.
    """
    states = [_status(name, table) for name in table]
    return tuple(sorted(states, key=lambda state: state.grade or "Z"))


def open_meter(
    pids: Sequence[int],
    *,
    name: str | None = None,
    host: Host | None = None,
    table: Registry[MeterType] = METERS,
) -> Meter:
    """Open a meter on running processes; the caller closes it.

    Args:
        pids: the processes to bill, for meters that can tell processes apart.
        name: name in the table; None takes the best that works here.
        host: the machine; None reads this one.
        table: the meters to choose from.

    Raises:
        UsageError: no meter has that name.
        SensorError: the meter, or every meter, cannot work here.
        MissingExtraError: the named meter needs a package that is not installed.
    """
    chosen = _best(table) if name is None else name
    kind = table.load(chosen)
    reason = kind.probe()
    if reason is not None:
        raise SensorError(f"the meter {chosen} does not work here: {reason}")
    return kind.attach(pids, host or read_host())


def meter_opener(name: str | None, host: Host) -> Callable[[Sequence[int]], Meter]:
    """Return what opens the same kind of meter again and again, its idle power known.

    A counter that includes idle power is watched for IDLE_WINDOW_S first, so the machine should
    do nothing else then.

    Args:
        name: name in METERS; None takes the best that works here.
        host: the machine.

    Raises:
        UsageError: no meter has that name.
        SensorError: the meter, or every meter, cannot work here.
    """
    first = open_meter([os.getpid()], name=name, host=host)
    chosen, idle_w = first.sensor.name, first.idle_w
    if idle_w is None:
        idle_w = measure_idle_w(first, IDLE_WINDOW_S)
    first.close()

    def opener(pids: Sequence[int]) -> Meter:
        meter = open_meter(pids, name=chosen, host=host)
        meter.idle_w = idle_w
        return meter

    return opener


def _best(table: Registry[MeterType]) -> str:
    states = probe_meters(table)
    for state in states:
        if state.reason is None:
            return state.name
    reasons = "; ".join(f"{state.name}: {state.reason}" for state in states)
    raise SensorError(f"no meter works here ({reasons})")


def _status(name: str, table: Registry[MeterType]) -> MeterStatus:
    summary = table[name].summary
    try:
        kind = table.load(name)
    except MissingExtraError as error:
        return MeterStatus(name=name, summary=summary, grade=None, reason=str(error))
    return MeterStatus(name=name, summary=summary, grade=kind.grade, reason=kind.probe())
