"""What works on this machine, with the one-line fix for what does not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import typer

from joulewise import __version__
from joulewise.compress.passes import PASSES
from joulewise.core.errors import MissingExtraError
from joulewise.core.host import Host, read_host
from joulewise.core.records import to_json
from joulewise.core.registry import Registry
from joulewise.export.program import RUNTIMES
from joulewise.meter.table import MeterStatus, probe_meters

PLOT_PACKAGES = ("altair", "vl_convert")

__all__ = ["Finding", "Report", "diagnose", "run_doctor"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that joulewise can use.

    Args:
        kind: "meter", "runtime", "pass" or "report".
        name: its registry name.
        works: whether it works here.
        detail: what it is, its version or grade.
        fix: one line that makes it work, None where it works.
    """

    kind: str
    name: str
    works: bool
    detail: str
    fix: str | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings, and whether the main job can be done here."""

    version: str
    host: Host
    best_grade: str | None
    ready: bool
    findings: tuple[Finding, ...]


def diagnose() -> Report:
    """Look at this machine."""
    meters = probe_meters()
    findings = (
        *(_meter(status) for status in meters),
        *_registered("runtime", RUNTIMES),
        *_registered("pass", PASSES),
        _plots(),
    )
    grades = sorted(m.grade for m in meters if m.reason is None and m.grade is not None)
    usable = {finding.kind for finding in findings if finding.works}
    return Report(
        version=__version__,
        host=read_host(),
        best_grade=grades[0] if grades else None,
        ready={"meter", "runtime", "pass"} <= usable,
        findings=findings,
    )


def run_doctor(*, as_json: bool) -> None:
    """Print the report; ends with 1 where the main job cannot be done here."""
    report = diagnose()
    if as_json:
        typer.echo(to_json(report))
    else:
        _print(report)
    if not report.ready:
        raise typer.Exit(1)


def _print(report: Report) -> None:
    typer.echo(f"joulewise {report.version} on {report.host.short}")
    for finding in report.findings:
        mark = typer.style("ok", fg="green") if finding.works else typer.style("no", fg="red")
        typer.echo(f"{mark}  {finding.kind:8} {finding.name:13} {finding.detail}")
        if finding.fix is not None:
            typer.echo(f"{'':26} {finding.fix}")
    if report.ready:
        typer.echo(f"ready: joules of grade {report.best_grade}; try: joulewise demo")
    else:
        typer.echo("not ready: it takes one meter, one runtime and one pass that work")


def _meter(status: MeterStatus) -> Finding:
    grade = f"grade {status.grade}: " if status.grade else ""
    return Finding(
        kind="meter",
        name=status.name,
        works=status.reason is None,
        detail=f"{grade}{status.summary}",
        fix=status.reason,
    )


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
