"""What ``joulewise measure`` does once its options are understood.

A command waits for every import here, and pays for it in CPU time: what only some options need is
imported where they are seen.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from joulewise.cli.supply import footprints_of, per_million, summed
from joulewise.core.energy import Grade, Interval, Measurement, Meter, Part
from joulewise.meter.command import CommandMeasurement, measure_command
from joulewise.report import text
from joulewise.report.footprint import footprint_lines

if TYPE_CHECKING:
    from joulewise.core.recipe import RunSettings
    from joulewise.core.settings import Usage
    from joulewise.core.supply import Footprint, Supply
    from joulewise.tracking import Loggable

__all__ = ["Shown", "is_model", "log", "run_measure_command", "run_measure_model"]

Serving = Callable[[Sequence[Meter]], AbstractContextManager[None]]


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
    from joulewise import pipeline
    from joulewise.cli.progress import Terminal

    _check_mlflow(asked=mlflow)
    with Terminal(quiet=quiet) as progress:
        measurement = pipeline.measure_model(
            model, data, usage=usage, run=run, meter=meter, progress=progress
        )
    for warning in measurement.warnings:
        _tell(f"warning: {warning}")
    footprints = per_million(supply, measurement)
    if as_json:
        _print_json({**_measurement_record(measurement), **_told(footprints)})
    else:
        lines = _model_lines(model, run, usage, measurement)
        lines += footprint_lines(footprints, [measurement.sensor], width=9)
        print("\n".join(lines), flush=True)
    if mlflow:
        log(measurement)


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

    csv: Path | None = None
    prometheus: str | None = None
    live: bool = False
    supply: Supply | None = None
    mlflow: bool = False
    as_json: bool = False


NOTHING_ELSE = Shown()


def is_model(target: Sequence[str]) -> bool:
    """Tell a model from a command and its arguments."""
    return len(target) == 1 and target[0].endswith((".onnx", ".xml"))


def run_measure_command(
    argv: list[str],
    meter: str | None = None,
    min_grade: str | None = None,
    idle_s: float = 0.0,
    show: Shown = NOTHING_ELSE,
) -> NoReturn:
    """Run a command, its output untouched, and report its joules; ends with its exit code."""
    _check_mlflow(asked=show.mlflow)
    samples, serving = _prometheus(show.prometheus, meter)
    if show.csv or samples:
        from joulewise.report.series import check

        check(show.csv, samples)
    with _live(meter, asked=show.live):
        found = measure_command(
            argv,
            meter_name=meter,
            min_grade=cast("Grade | None", min_grade),  # checked where it is used
            idle_s=idle_s,
            during=serving,
        )
    _tell_command(found, show)
    _append(found, show.csv, samples)
    if show.mlflow:
        log(found)
    sys.exit(found.exit_code)


def _prometheus(where: str | None, meter: str | None) -> tuple[Path | None, Serving | None]:
    """Return the file whose counters grow, or what serves them while the command runs."""
    if where is None:
        return None, None
    from joulewise.cli.scrape import serving_metrics
    from joulewise.report.scrape import MetricsServer, parse_address

    address = parse_address(where)
    if address is None:
        return Path(where), None
    server = MetricsServer(*address)
    _tell(f"metrics  {server.url}")
    return None, partial(serving_metrics, server, meter)


def _live(meter: str | None, *, asked: bool) -> AbstractContextManager[None]:
    if not (asked and sys.stderr.isatty()):
        return nullcontext()
    from joulewise.cli.progress import live_line

    return live_line(meter)


def _tell_command(found: CommandMeasurement, show: Shown) -> None:
    for warning in (each for part in found.parts for each in part.warnings):
        _tell(f"warning: {warning}")
    footprints = footprints_of(
        show.supply,
        {
            "net of idle": summed(part.net_j for part in found.parts),
            "gross": summed(part.gross_j for part in found.parts),
        },
    )
    if show.as_json:
        _print_json({**_command_record(found), **_told(footprints)})
    else:
        sys.stdout.flush()
        sensors = [part.sensor for part in found.parts]
        lines = [*_command_lines(found), *footprint_lines(footprints, sensors, width=9)]
        _tell("\n".join(lines))


def _append(found: CommandMeasurement, table: Path | None, samples: Path | None) -> None:
    """Append a row to a CSV file, and add to the counters of a Prometheus file."""
    if not (table or samples):
        return
    from joulewise.report import series

    result = series.Result(
        name=shlex.join(found.argv),
        parts=found.parts,
        exit_code=found.exit_code,
        at=datetime.now(UTC),
    )
    if table is not None:
        series.append_csv(table, result)
    if samples is not None:
        series.write_prometheus(samples, result)


def log(result: Loggable) -> None:
    """Log to MLflow, whose own words must not be taken for the result."""
    from joulewise.tracking import log_to_mlflow

    with redirect_stdout(sys.stderr):
        log_to_mlflow(result)


def _check_mlflow(*, asked: bool) -> None:
    """Raise MissingExtraError where MLflow is asked for and not installed."""
    if asked:
        from joulewise.tracking import require_mlflow

        require_mlflow()


def _print_json(record: Mapping[str, object]) -> None:
    from joulewise.core.records import to_json

    sys.stdout.flush()
    sys.stdout.buffer.write(to_json(record) + b"\n")
    sys.stdout.flush()


def _tell(lines: str) -> None:
    print(lines, file=sys.stderr, flush=True)


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
