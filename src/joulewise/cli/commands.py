"""What the commands do once their options are understood."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

import typer

from joulewise import pipeline
from joulewise.cli.carbon import footprints_of, per_million, summed
from joulewise.cli.progress import Terminal, live_line
from joulewise.cli.scrape import serving_metrics
from joulewise.core.claim import Check
from joulewise.core.energy import Grade, Interval, Measurement, Part
from joulewise.core.errors import JoulewiseError
from joulewise.core.recipe import RunSettings
from joulewise.core.records import Bundle, to_json
from joulewise.core.settings import Settings, Usage
from joulewise.core.supply import Footprint, Supply
from joulewise.meter.command import CommandMeasurement, measure_command
from joulewise.report import series, text
from joulewise.report.footprint import footprint_lines
from joulewise.report.scrape import MetricsServer, parse_address
from joulewise.report.verdict import verdict_lines
from joulewise.tracking import Loggable, log_to_mlflow, require_mlflow

__all__ = ["Shown", "run_measure_command", "run_measure_model", "run_optimize", "run_verify"]


_FOOTPRINTS = {
    "search": "for the search",
    "million inferences": "for a million inferences net of idle",
}


class InterruptedRunError(JoulewiseError):
    """The user pressed Ctrl-C."""

    exit_code = 130


def run_optimize(
    model: str | Path,
    data: str,
    output: Path,
    usage: Usage,
    settings: Settings,
    *,
    train: str | None = None,
    weights: Path | None = None,
    supply: Supply | None = None,
    mlflow: bool = False,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Optimize and print the four-line verdict, or the whole record as JSON."""
    if mlflow:
        require_mlflow()
    with Terminal(quiet=quiet) as progress:
        try:
            bundle = pipeline.optimize(
                model, data, output, train=train, weights=weights, usage=usage,
                settings=settings, resume=resume,
                supply=supply, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise InterruptedRunError(_what_is_kept(output)) from None
    for warning in bundle.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(to_json(bundle) if as_json else "\n".join(_result_lines(bundle)))
    if not quiet:
        typer.echo(f"bundle   {output} (open {output / 'report.html'})", err=True)
    if mlflow:
        _log(bundle)


def _result_lines(bundle: Bundle) -> list[str]:
    told = {_FOOTPRINTS.get(what, what): each for what, each in bundle.footprints.items()}
    sensors = [trial.measurement.sensor for trial in bundle.trials if trial.measurement]
    return [*verdict_lines(bundle), *footprint_lines(told, sensors, width=9)]


def _what_is_kept(output: Path) -> str:
    work = output.with_name(f"{output.name}.work")
    if not work.exists():
        return "interrupted before the first trial; nothing was kept"
    return f"interrupted; finished trials are kept in {work}: repeat the command with --resume"


def run_verify(folder: Path, meter: str | None, *, as_json: bool, quiet: bool) -> None:
    """Prove a bundle again, print what was found, and end with 3 where it does not hold."""
    with Terminal(quiet=quiet) as progress:
        found = pipeline.verify(folder, meter=meter, progress=progress)
    checks = [*found.checks, *(found.claim.checks if found.claim else ())]
    if as_json:
        record = {"holds": found.holds, "checks": checks, "claim": found.claim, "host": found.host}
        typer.echo(to_json(record))
    else:
        for check in checks:
            typer.echo(_check_line(check))
        typer.echo(_verify_line(found, folder))
    if not found.holds:
        raise typer.Exit(3)


def run_measure_model(
    model: Path,
    data: str,
    usage: Usage,
    run: RunSettings,
    meter: str | None,
    *,
    supply: Supply | None = None,
    mlflow: bool = False,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure a model per item and print joules, latency and sensor."""
    if mlflow:
        require_mlflow()
    with Terminal(quiet=quiet) as progress:
        measurement = pipeline.measure_model(
            model, data, usage=usage, run=run, meter=meter, progress=progress
        )
    for warning in measurement.warnings:
        typer.echo(f"warning: {warning}", err=True)
    footprints = per_million(supply, measurement)
    if as_json:
        typer.echo(to_json({**_measurement_record(measurement), **_told(footprints)}))
    else:
        lines = _model_lines(model, run, usage, measurement)
        typer.echo("\n".join([*lines, *footprint_lines(footprints, [measurement.sensor], width=9)]))
    if mlflow:
        _log(measurement)


def _model_lines(
    model: Path, run: RunSettings, usage: Usage, measurement: Measurement
) -> list[str]:
    seconds = sum(block.seconds for block in measurement.blocks)
    return [
        f"model    {model}, {text.describe_run(run)}",
        _energy_line(measurement, "per item"),
        (
            f"time     {text.seconds(seconds / measurement.items)} per item; batch of "
            f"{usage.batch_items}: p50 {text.seconds(measurement.latency_p50_s)}, "
            f"p95 {text.seconds(measurement.latency_p95_s)}; {measurement.items:,} items"
        ),
        _sensor_line(measurement),
    ]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Where the joules of a command go, beside stderr.

    Args:
        csv: file that gets one more row.
        prometheus: file whose counters grow, or the port of a page while the command runs.
        live: show them while the command runs, where stderr is a terminal.
        supply: where the electricity comes from; None tells neither grams nor money.
        mlflow: log them to MLflow too.
        as_json: print them as JSON on stdout instead.
    """

    csv: Path | None
    prometheus: str | None
    live: bool
    supply: Supply | None
    mlflow: bool
    as_json: bool


def run_measure_command(
    argv: list[str], meter: str | None, min_grade: str | None, idle_s: float, show: Shown
) -> None:
    """Run a command, its output untouched, and report its joules; ends with its exit code."""
    if show.mlflow:
        require_mlflow()
    address = None if show.prometheus is None else parse_address(show.prometheus)
    samples = Path(show.prometheus) if show.prometheus and address is None else None
    series.check(show.csv, samples)
    server = MetricsServer(*address) if address else None
    if server is not None:
        typer.echo(f"metrics  {server.url}", err=True)
    with live_line(meter) if show.live and sys.stderr.isatty() else nullcontext():
        grade = cast("Grade | None", min_grade)  # checked where it is used
        found = measure_command(
            argv,
            meter_name=meter,
            min_grade=grade,
            idle_s=idle_s,
            during=partial(serving_metrics, server, meter) if server else None,
        )
    _tell_command(found, show)
    result = series.Result(
        name=shlex.join(argv), parts=found.parts, exit_code=found.exit_code, at=datetime.now(UTC)
    )
    if show.csv is not None:
        series.append_csv(show.csv, result)
    if samples is not None:
        series.write_prometheus(samples, result)
    if show.mlflow:
        _log(found)
    raise typer.Exit(found.exit_code)


def _tell_command(found: CommandMeasurement, show: Shown) -> None:
    for warning in (each for part in found.parts for each in part.warnings):
        typer.echo(f"warning: {warning}", err=True)
    footprints = footprints_of(
        show.supply,
        {
            "net of idle": summed(part.net_j for part in found.parts),
            "gross": summed(part.gross_j for part in found.parts),
        },
    )
    if show.as_json:
        typer.echo(to_json({**_command_record(found), **_told(footprints)}))
    else:
        sys.stdout.flush()
        sensors = [part.sensor for part in found.parts]
        lines = [*_command_lines(found), *footprint_lines(footprints, sensors, width=9)]
        typer.echo("\n".join(lines), err=True)


def _log(result: Loggable) -> None:
    """Log to MLflow, whose own words must not be taken for the result."""
    with redirect_stdout(sys.stderr):
        log_to_mlflow(result)


def _told(footprints: Mapping[str, Footprint]) -> dict[str, object]:
    """Return the JSON field; there is none where neither a place nor a price was given."""
    return {"footprints": footprints} if footprints else {}


def _command_lines(found: CommandMeasurement) -> list[str]:
    block = found.measurement.blocks[0]
    return [
        f"command  {shlex.join(found.argv)} (exit code {found.exit_code})",
        *(f"{_energy_line(part, 'in all')}{_idle_words(part)}" for part in found.parts),
        f"time     {text.seconds(block.seconds)}, CPU time {text.seconds(block.cpu_s)}",
        *(_sensor_line(part) for part in found.parts),
    ]


def _command_record(found: CommandMeasurement) -> dict[str, object]:
    return {
        "argv": found.argv,
        "exit_code": found.exit_code,
        **_measurement_record(found.measurement),
        "idle_left_out_j": found.measurement.idle_j,
        "idle_left_out_ratio": _idle_ratio(found.measurement),
        "others": [
            {**_measurement_record(part), "idle_left_out_j": part.idle_j} for part in found.others
        ],
    }


def _idle_words(part: Part) -> str:
    """Return how much of the gross joules is idle power, which net leaves out."""
    if part.idle_j is None:
        return "; idle power is not known: watch it first with --idle 5"
    return (
        f"; net leaves out {text.joules(part.idle_j)} of idle power, "
        f"{text.percent(_idle_ratio(part))} of gross"
    )


def _idle_ratio(part: Part) -> float | None:
    """Return the share of gross joules that is idle power, in [0, 1]; None where unknown."""
    if part.idle_j is None or part.gross_j is None or part.gross_j.central <= 0:
        return None
    return min(1.0, part.idle_j / part.gross_j.central)


def _energy_line(measurement: Measurement, what: str) -> str:
    grade = measurement.sensor.grade
    net, gross = measurement.net_j_per_item, measurement.gross_j_per_item
    kind = f"{text.grade_word(grade)}, grade {grade}"
    return (
        f"energy   {_band(net)} {what} net of idle; {_band(gross)} with the idle power of the "
        f"whole machine ({kind})"
    )


def _band(joules: Interval | None) -> str:
    if joules is None:
        return text.MISSING
    return (
        f"{text.joules(joules.central)} ({text.joules(joules.low)} to {text.joules(joules.high)})"
    )


def _sensor_line(measurement: Measurement) -> str:
    sensor = measurement.sensor
    return f"sensor   {sensor.name}: {sensor.boundary} ({sensor.source.partition(':')[0]})"


def _measurement_record(measurement: Measurement) -> dict[str, object]:
    return {
        "net_j_per_item": measurement.net_j_per_item,
        "gross_j_per_item": measurement.gross_j_per_item,
        "measurement": measurement,
    }


def _check_line(check: Check) -> str:
    return f"{'ok  ' if check.holds else 'FAIL'}  {check.name}: {check.detail}"


def _verify_line(found: pipeline.Verification, folder: Path) -> str:
    if not found.holds:
        return f"the claim of {folder} does not hold"
    if found.claim is None:
        return f"{folder} keeps the original and claims nothing; its files are as recorded"
    return f"the claim of {folder} holds on this machine: {found.host.short}"
