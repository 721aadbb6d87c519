"""What works on this machine, with the one-line fix for what does not."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

import typer

from joulewise import __version__
from joulewise.cli.calibrate import age
from joulewise.compress.passes import PASSES
from joulewise.core.energy import Component, Grade, Sensor
from joulewise.core.errors import InputError, JoulewiseError, MissingExtraError, one_line
from joulewise.core.host import Host, read_host
from joulewise.core.records import to_json
from joulewise.core.registry import Registry
from joulewise.export.program import RUNTIMES
from joulewise.meter.calibration import Calibration
from joulewise.meter.calibration_store import kept, of_other_machines
from joulewise.meter.interleave import least_block_s
from joulewise.meter.table import MeterStatus, open_meter, probe_meter, probe_meters
from joulewise.report.text import joules, seconds

PLOT_PACKAGES = ("altair", "vl_convert", "platformdirs")

COMPONENTS: Mapping[Component | Literal["dram"], str] = {
    "cpu": "CPU",
    "dram": "DRAM",
    "gpu": "GPU",
    "machine": "whole machine",
}
"""What meters measure, and how it is printed; DRAM is a rail of the processors' meter."""

DRAM = "dram"
"""What the names of DRAM's rails begin with."""

__all__ = ["Finding", "Report", "diagnose", "run_doctor"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that joulewise can use.

    Args:
        kind: "meter", "estimate", "runtime", "pass" or "report".
        name: its registry name.
        works: whether it works here.
        detail: what it is, its version or grade.
        fix: one line that makes it work, None where it works.
        sensor: what a meter that works here is; None for all else.
        shortest_window_s: shortest good window of that meter, s; 0 where any length is good.
        lacks_argument: True for a meter that must first be told what to read.
    """

    kind: str
    name: str
    works: bool
    detail: str
    fix: str | None
    sensor: Sensor | None = None
    shortest_window_s: float | None = None
    lacks_argument: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings, and whether the main job can be done here.

    Args:
        version: of joulewise.
        host: this machine.
        best_grade: grade of the meter that is chosen unasked; None where there is none.
        best_grades: best grade of each component and of DRAM; None where no meter works.
        ready: whether a model can be optimized here.
        findings: everything that was looked at.
    """

    version: str
    host: Host
    best_grade: str | None
    best_grades: Mapping[str, Grade | None]
    ready: bool
    findings: tuple[Finding, ...]


def diagnose(meter: str | None = None) -> Report:
    """Look at this machine.

    Args:
        meter: NAME:ARGUMENT of a meter to look at as well; its pace is watched for.

    Raises:
        UsageError: no meter has that name, or its argument is not understood.
    """
    states = _states(meter)
    meters = tuple(_meter(status) for status in states)
    findings = (
        *meters,
        _calibration(read_host()),
        *_registered("runtime", RUNTIMES),
        *_registered("pass", PASSES),
        _plots(),
    )
    working = [state for state, meter in zip(states, meters, strict=True) if meter.works]
    unasked = [
        state.grade for state in working if state.component != "gpu" and not state.by_name_only
    ]
    usable = {finding.kind for finding in findings if finding.works}
    return Report(
        version=__version__,
        host=read_host(),
        best_grade=unasked[0] if unasked else None,
        best_grades=_best_grades(working, meters),
        ready=bool(unasked) and {"runtime", "pass"} <= usable,
        findings=findings,
    )


def run_doctor(meter: str | None = None, *, as_json: bool) -> None:
    """Print the report; ends with 1 where the main job cannot be done here."""
    report = diagnose(meter)
    if as_json:
        typer.echo(to_json(report))
    else:
        _print(report)
    if not report.ready:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    typer.echo(f"joulewise {report.version} on {report.host.short}")
    for finding in report.findings:
        typer.echo(f"{_mark(finding)}  {finding.kind:8} {finding.name:13} {finding.detail}")
        if finding.fix is not None:
            typer.echo(f"{'':26} {finding.fix}")
        if finding.sensor is not None:
            typer.echo(f"{'':26} {_described(finding.sensor)}")
    best = (f"{text} {report.best_grades[part] or 'none'}" for part, text in COMPONENTS.items())
    typer.echo(f"best grade of joules here: {', '.join(best)}")
    if report.ready:
        typer.echo(f"ready: joules of grade {report.best_grade}; try: joulewise demo")
    else:
        typer.echo("not ready: it takes one meter, one runtime and one pass that work")


def _mark(finding: Finding) -> str:
    if finding.lacks_argument:
        return typer.style("--", fg="yellow")
    return typer.style("ok", fg="green") if finding.works else typer.style("no", fg="red")


def _states(meter: str | None) -> tuple[MeterStatus, ...]:
    """Return the state of every meter, the one that is named in place of its nameless row."""
    if meter is None:
        return probe_meters()
    named, row = probe_meter(meter), meter.partition(":")[0]
    return tuple(named if state.name == row else state for state in probe_meters())


def _meter(status: MeterStatus) -> Finding:
    sensor, reason = None, status.reason
    if reason is None:
        try:
            with closing(open_meter([os.getpid()], name=status.name)) as meter:
                sensor = meter.sensor
        except JoulewiseError as error:
            reason = one_line(error)
    grade = f"grade {status.grade}: " if status.grade else ""
    return Finding(
        kind="meter",
        name=status.name.partition(":")[0],
        works=reason is None,
        detail=f"{grade}{status.summary}",
        fix=reason,
        sensor=sensor,
        shortest_window_s=None if sensor is None else least_block_s(sensor),
        lacks_argument=status.lacks_argument,
    )


def _calibration(host: Host) -> Finding:
    """Say whether the estimate from CPU time is calibrated on this machine, and since when."""
    fix = "joulewise calibrate --reference rapl (or the file that an external meter writes)"
    try:
        found = kept(host)
        detail = _uncalibrated(host) if found is None else _calibrated(found.calibration)
    except InputError as error:
        found, detail, fix = None, "cpu-time cannot be used as its calibration is bad", str(error)
    return Finding(
        kind="estimate",
        name="calibration",
        works=found is not None,
        detail=detail,
        fix=fix if found is None else None,
    )


def _calibrated(calibration: Calibration) -> str:
    return (
        f"cpu-time is of grade C: {calibration.net_w:.3g} W per busy CPU, calibrated against "
        f"{calibration.reference.name} on {age(calibration.created)}"
    )


def _uncalibrated(host: Host) -> str:
    newest, *more = (*of_other_machines(host), "")
    others = f"; {newest}" if newest else ""
    return f"cpu-time is of grade D: it is not calibrated on this machine{others}" + (
        f" and {len(more) - 1} more" if len(more) > 1 else ""
    )


def _best_grades(
    working: Sequence[MeterStatus], meters: Sequence[Finding]
) -> dict[str, Grade | None]:
    """Return the best grade of each component and of DRAM; meters come best first."""
    grades: dict[str, Grade | None] = {
        part: next((state.grade for state in working if state.component == part), None)
        for part in COMPONENTS
    }
    sensors = [finding.sensor for finding in meters if finding.sensor is not None]
    grades[DRAM] = next(
        (each.grade for each in sensors if any(rail.startswith(DRAM) for rail in each.rails)), None
    )
    return grades


def _described(sensor: Sensor) -> str:
    """Say what a sensor can tell apart."""
    parts = [f"rails {', '.join(sensor.rails)}"]
    if sensor.resolution_j is not None:
        parts.append(f"steps of {joules(sensor.resolution_j)}")
    if sensor.update_period_s is None:
        parts.append("always up to date, so any window is good")
    else:
        parts.append(f"updated every {seconds(sensor.update_period_s)}")
        parts.append(f"good windows from {seconds(least_block_s(sensor))}")
    return "; ".join(parts)


def _registered(kind: str, table: Registry[object]) -> Iterable[Finding]:
    for name in table:
        entry, missing = table[name], table.missing(name)
        versions = [f"{package} {version(package)}" for package in entry.requires if not missing]
        yield Finding(
            kind=kind,
            name=name,
            works=missing is None,
            detail=", ".join([entry.summary, *versions]),
            fix=None if missing is None else str(MissingExtraError(missing, entry.extra)),
        )


def _plots() -> Finding:
    missing = next((name for name in PLOT_PACKAGES if find_spec(name) is None), None)
    return Finding(
        kind="report",
        name="plots",
        works=missing is None,
        detail="the frontier plot in report.html (altair)",
        fix=None if missing is None else str(MissingExtraError(missing, "plots")),
    )
