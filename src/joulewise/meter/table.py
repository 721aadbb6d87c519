"""The table of meters, and how the best one that works here is chosen.

Best means best grade; meters of one grade keep the order of the table. A grade never mixes with
another in one comparison, so the choice is made once per run. Each meter covers one component: a
graphics card's counter is never chosen for a program on the CPU.

A kind of meter that must be told what to read has ``named(argument)``, which returns the kind that
reads it: ``recording:plug.csv`` is what ``named("plug.csv")`` of the row ``recording`` returns.
Such a kind is opened by its name only, and so is one that says ``by_name_only = True``. A row that
says so is not even imported before it is named, which would be a third of a start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeGuard, cast

from joulewise.core.energy import Component, Grade, Meter
from joulewise.core.errors import MissingExtraError, SensorError, UsageError
from joulewise.core.host import Host, read_host
from joulewise.core.registry import Entry, Registry

__all__ = [
    "METERS",
    "MeterStatus",
    "MeterType",
    "NamedMeterType",
    "component_of",
    "meter_opener",
    "open_meter",
    "open_meters",
    "probe_meter",
    "probe_meters",
]

PARTS: tuple[Component, ...] = ("cpu", "gpu")
"""Components whose joules never overlap."""


class MeterType(Protocol):
    """What a row of the table names: usually the meter's class.

    ``probe()`` returns None, or in one line why it cannot work here and what to do;
    ``attach(pids, host)`` opens the meter on running processes. It may also have ``component``
    (else its joules are the processors'), ``named(argument)`` and ``by_name_only``.
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


class NamedMeterType(MeterType, Protocol):
    """A kind that must be told what to read."""

    def named(self, argument: str) -> MeterType:
        """Return the kind that reads `argument`; raises UsageError where it is no such thing."""
        ...


METERS: Registry[MeterType] = Registry(
    "meter",
    {
        "rapl": Entry(
            target="joulewise.meter.rapl:RaplMeter",
            summary="the processor's own joule counters (packages and DRAM), Linux powercap",
        ),
        "rapl-perf": Entry(
            target="joulewise.meter.perf:RaplPerfMeter",
            summary="the same counters through perf events, where powercap is root's alone",
        ),
        "nvml": Entry(
            target="joulewise.meter.nvml:NvmlMeter",
            summary="the joule counters of NVIDIA cards",
            requires=("pynvml",),
            extra="nvidia",
        ),
        "hwmon": Entry(
            target="joulewise.meter.hwmon:HwmonMeter",
            summary="the joule counters or power of AMD and Intel cards, Linux hwmon",
        ),
        "jetson": Entry(
            target="joulewise.meter.jetson:JetsonMeter",
            summary="the input power of an NVIDIA Jetson module, sampled",
        ),
        "apple": Entry(
            target="joulewise.meter.apple:AppleMeter",
            summary="CPU, GPU and Neural Engine of Apple chips, from powermetrics; macOS, root",
        ),
        "battery": Entry(
            target="joulewise.meter.battery:BatteryMeter",
            summary="what leaves a laptop's battery; slow and coarse, by name only",
            by_name_only=True,
        ),
        "recording": Entry(
            target="joulewise.meter.recording:RecordingMeter",
            summary="an external meter's log, as in --meter recording:plug.csv; by name only",
            by_name_only=True,
        ),
        "plug": Entry(
            target="joulewise.meter.plug:PLUG",
            summary="a smart plug over HTTP: Shelly, Tasmota, any that answers in JSON",
            by_name_only=True,
        ),
        "redfish": Entry(
            target="joulewise.meter.redfish:REDFISH",
            summary="a server's BMC over Redfish",
            by_name_only=True,
        ),
        "ipmi": Entry(
            target="joulewise.meter.ipmi:IPMI",
            summary="this machine's BMC through ipmitool; by name only",
            by_name_only=True,
        ),
        "prometheus": Entry(
            target="joulewise.meter.prometheus:PROMETHEUS",
            summary="a Prometheus server's query, or a metric of an exporter's page",
            by_name_only=True,
        ),
        "cpu-time": Entry(
            target="joulewise.meter.cpu_time:CpuTimeMeter",
            summary="CPU time of the process tree times sourced watts; works in virtual machines",
        ),
        "cgroup": Entry(
            target="joulewise.meter.cgroup:CgroupMeter",
            summary="the same for a control group, as in --meter cgroup:/sys/fs/cgroup/GROUP",
            by_name_only=True,
        ),
    },
    group="joulewise.meters",
)


@dataclass(frozen=True, kw_only=True)
class MeterStatus:
    """Whether a meter works here.

    Args:
        name: name in METERS, or NAME:ARGUMENT.
        summary: one line about it.
        grade: grade of its joules; None where its package is not installed.
        component: what its joules are of; None where its package is not installed.
        reason: why it cannot work here and the fix; None where it works.
        by_name_only: True where it is never chosen unasked.
        lacks_argument: True where it must first be told what to read.
    """

    name: str
    summary: str
    grade: Grade | None
    component: Component | None
    reason: str | None
    by_name_only: bool = False
    lacks_argument: bool = False


def probe_meters(table: Registry[MeterType] = METERS) -> tuple[MeterStatus, ...]:
    """Return the state of every meter, best grade first.

    Args:
        table: the meters to ask.
    """
    return tuple(sorted((_status(name, table) for name in table), key=_grade_order))


def probe_meter(name: str, table: Registry[MeterType] = METERS) -> MeterStatus:
    """Return the state of one meter.

    Args:
        name: name in the table, or NAME:ARGUMENT.
        table: the meters to choose from.

    Raises:
        UsageError: no meter has that name, or its argument is not understood.
    """
    return _status(name, table)


def component_of(meter: Meter | MeterType) -> Component:
    """Return what a meter's joules are of; one that does not say is the processors'."""
    return cast("Component", getattr(meter, "component", "cpu"))


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
        name: name in the table, or NAME:ARGUMENT as in "recording:plug.csv"; None takes the best
            that works here and whose joules include the processors'.
        host: the machine; None reads this one.
        table: the meters to choose from.

    Raises:
        UsageError: no meter has that name, or its argument is not understood.
        SensorError: the meter, or every meter, cannot work here.
        MissingExtraError: the named meter needs a package that is not installed.
    """
    return _working(name, table).attach(pids, host or read_host())


def open_meters(
    pids: Sequence[int], *, host: Host | None = None, table: Registry[MeterType] = METERS
) -> tuple[Meter, ...]:
    """Open the best meter of each component that has one; the caller closes them.

    The joules of two of them never overlap, but their grades may differ. A meter of the whole
    machine is opened only where neither the processors nor a graphics card have one.

    Args:
        pids: the processes to bill, for meters that can tell processes apart.
        host: the machine; None reads this one.
        table: the meters to choose from.

    Raises:
        SensorError: no meter works here.
    """
    here = host or read_host()
    working = [state for state in _candidates(table, PARTS) if state.reason is None]
    chosen = [
        next(state.name for state in working if state.component == part)
        for part in PARTS
        if any(state.component == part for state in working)
    ]
    with ExitStack() as opened:
        meters = []
        for name in chosen or [_best(table, ("cpu", "gpu", "machine"))]:
            meters.append(open_meter(pids, name=name, host=here, table=table))
            opened.callback(meters[-1].close)
        opened.pop_all()
    return tuple(meters)


def meter_opener(name: str | None, host: Host) -> Callable[[Sequence[int]], Meter]:
    """Return what opens the same kind of meter again and again.

    Args:
        name: name in METERS, or NAME:ARGUMENT; None takes the best that works here.
        host: the machine.

    Raises:
        UsageError: no meter has that name, or its argument is not understood.
        SensorError: the meter, or every meter, cannot work here.
    """
    kind = _working(name, METERS)
    return lambda pids: kind.attach(pids, host)


def _working(name: str | None, table: Registry[MeterType]) -> MeterType:
    """Return the kind of that name, or the best one, after it was probed."""
    chosen = _best(table, ("cpu", "machine")) if name is None else name
    kind = _kind(chosen, table)
    reason = kind.probe()
    if reason is not None:
        raise SensorError(f"the meter {chosen.partition(':')[0]} does not work here: {reason}")
    return kind


def _kind(name: str, table: Registry[MeterType]) -> MeterType:
    """Return the kind of NAME or NAME:ARGUMENT."""
    row, colon, argument = name.partition(":")
    kind = table.load(row)
    if not colon:
        return kind
    if not _takes_argument(kind):
        raise UsageError(f"the meter {row} takes no argument; write --meter {row}")
    return kind.named(argument)


def _takes_argument(kind: MeterType) -> TypeGuard[NamedMeterType]:
    return hasattr(kind, "named")


def _best(table: Registry[MeterType], components: Sequence[Component]) -> str:
    """Return the best meter of the components; raises SensorError where none works here."""
    states = _candidates(table, components)
    for state in states:
        if state.reason is None:
            return state.name
    reasons = "; ".join(f"{state.name}: {state.reason}" for state in states)
    raise SensorError(f"no meter works here ({reasons})")


def _candidates(
    table: Registry[MeterType], components: Sequence[Component]
) -> tuple[MeterStatus, ...]:
    """Return the meters of the components that may be chosen unasked, best grade first."""
    states = (_status(name, table) for name in table if not table[name].by_name_only)
    return tuple(
        state
        for state in sorted(states, key=_grade_order)
        if not state.by_name_only and state.component in (*components, None)
    )


def _grade_order(state: MeterStatus) -> str:
    return state.grade or "Z"


def _status(name: str, table: Registry[MeterType]) -> MeterStatus:
    row = table[name.partition(":")[0]]
    try:
        kind = _kind(name, table)
    except MissingExtraError as error:
        return MeterStatus(
            name=name, summary=row.summary, grade=None, component=None, reason=str(error)
        )
    return MeterStatus(
        name=name,
        summary=row.summary,
        grade=kind.grade,
        component=component_of(kind),
        reason=kind.probe(),
        by_name_only=":" in name
        or row.by_name_only
        or _takes_argument(kind)
        or getattr(kind, "by_name_only", False),
        lacks_argument=_takes_argument(kind),
    )
