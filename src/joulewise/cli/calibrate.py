"""What ``joulewise calibrate`` does once its options are understood."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import typer

from joulewise.cli.commands import InterruptedRunError
from joulewise.cli.progress import Terminal
from joulewise.core.energy import Interval, Meter, Sensor
from joulewise.core.errors import InputError
from joulewise.core.host import read_host
from joulewise.core.records import dump, to_json
from joulewise.meter.calibrate import calibrate
from joulewise.meter.calibration import Calibration
from joulewise.meter.calibration_store import Kept, forget, kept, of_other_machines
from joulewise.meter.cpu_time import calibrated_sensor, cpu_time_sensor
from joulewise.meter.power_table import power_of
from joulewise.meter.staircase import Plan
from joulewise.report import text

__all__ = ["Shown", "age", "calibration_lines", "run_calibrate", "run_forget", "run_show"]

BAR = 24
"""Characters of the longest bar."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Where the result goes.

    Args:
        output: file for a copy of the record, None for none.
        as_json: print the record.
        quiet: show no progress.
    """

    output: Path | None
    as_json: bool
    quiet: bool


def run_calibrate(reference: str, max_minutes: float, seed: int, show: Shown) -> None:
    """Calibrate and print what was found, or the record as JSON."""
    with Terminal(quiet=show.quiet) as terminal:
        try:
            found = calibrate(
                reference, max_s=60 * max_minutes, seed=seed, progress=_Progress(terminal)
            )
        except KeyboardInterrupt:
            raise InterruptedRunError("interrupted; nothing was kept") from None
    _print(found, show)


def run_show(show: Shown) -> None:
    """Print the calibration of this machine.

    Raises:
        InputError: it has none, or one that cannot be read.
    """
    host = read_host()
    found = kept(host)
    if found is None:
        others = "".join(f"; {line}" for line in of_other_machines(host))
        raise InputError(
            "this machine is not calibrated; run: joulewise calibrate --reference rapl (or the "
            f"file that an external meter writes){others}"
        )
    _print(found, show)


def run_forget(*, quiet: bool) -> None:
    """Remove the calibration of this machine."""
    path = forget(read_host())
    if not quiet:
        gone = f"removed {path}" if path else "this machine is not calibrated"
        typer.echo(f"{gone}; cpu-time is of grade D here", err=True)


class _Progress:
    """Shows a staircase while it is climbed."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._total = 0

    def planned(self, plan: Plan, reference: Meter) -> None:
        self._total = plan.steps
        loads = ", ".join(str(cpus) for cpus in plan.loads[1:])
        self._terminal.stage(
            f"calibrating against {reference.sensor.name} takes {text.seconds(plan.seconds)}: "
            f"{plan.steps} steps of {text.seconds(plan.step_s)}, idle and {loads} CPUs busy with "
            f"{len(plan.mixes)} kinds of work, {text.counted(plan.repeats, 'time')} each; use the "
            "machine for nothing else"
        )

    def step(self, number: int, mix: str, cpus: int) -> None:
        load = f"{text.counted(cpus, 'CPU')} busy with {mix}" if cpus else "idle"
        self._terminal.step(number, self._total, load)


def _print(found: Kept, show: Shown) -> None:
    if show.output is not None:
        dump(found.calibration, show.output)
    if show.as_json:
        typer.echo(to_json({"path": str(found.path), "calibration": found.calibration}))
        return
    typer.echo("\n".join([*_staircase_lines(found.calibration), *calibration_lines(found)]))


def calibration_lines(found: Kept) -> list[str]:
    """Return the four lines that say what a calibration found.

    Args:
        found: the calibration and its file.
    """
    known, line = found.calibration, found.calibration.line
    after, before = calibrated_sensor(found), cpu_time_sensor(power_of(known.host))
    fit = (
        f"fit      watts = {line.a.central:.3g} x reading + {line.b_w.central:.3g} "
        f"(a {_bounds(line.a)}, b {_bounds(line.b_w)} at 95 %; r2 {line.r2:.3f}, "
        f"{text.counted(line.points, 'step')}); a kind of work left out is met within "
        f"{100 * line.left_out_error_ratio:.2g} % on average"
    )
    spread = (
        f"spread   watts per busy CPU of two programs: a factor of {known.mix_ratio:.2f} at the "
        f"same load, another {known.load_ratio:.2f} between loads"
    )
    band = (
        f"band     {known.net_w:.3g} W per busy CPU, {_band(after)} times that (before "
        f"{known.table_w:.3g} W, {_band(before)} times); ratios of two programs off by "
        f"{after.pair_ratio:.2f} at the most (before {before.pair_ratio:.2f})"
    )
    where = (
        f"kept     {found.path}, of {age(known.created)}, against {known.reference.name}: "
        "cpu-time is of grade C on this machine"
    )
    return [fit, spread, band, where]


def age(created: str) -> str:
    """Return a date with its distance from today: ``2026-11-23 (3 days ago)``.

    Args:
        created: UTC time, ISO 8601.
    """
    days = (datetime.now(UTC) - datetime.fromisoformat(created)).days
    ago = "today" if days <= 0 else f"{text.counted(days, 'day')} ago"
    return f"{created[:10]} ({ago})"


def _staircase_lines(calibration: Calibration) -> Iterator[str]:
    """Yield the watts per busy CPU of each mix at each load, with a bar for their mean."""
    loads = sorted({step.cpus for step in calibration.steps} - {0})
    rows = {
        mix: [_w_per_cpu(calibration, mix, cpus) for cpus in loads]
        for mix in sorted({step.mix for step in calibration.steps})
    }
    most = max(sum(row) for row in rows.values())
    yield f"{'W per busy CPU':16}" + "".join(f"{text.counted(cpus, 'CPU'):>9}" for cpus in loads)
    for mix, row in sorted(rows.items(), key=lambda each: sum(each[1])):
        bar = "█" * round(BAR * sum(row) / most)
        yield f"{mix:16}" + "".join(f"{watts:9.3g}" for watts in row) + f"  {bar}"


def _w_per_cpu(calibration: Calibration, mix: str, cpus: int) -> float:
    """Return the watts above the mix's own idle per CPU that it kept busy."""
    idle, busy = (
        [step for step in calibration.steps if (step.mix, step.cpus) == (mix, load)]
        for load in (0, cpus)
    )
    idle_w = sum(step.reference_j for step in idle) / sum(step.seconds for step in idle)
    above_j = sum(step.reference_j - idle_w * step.seconds for step in busy)
    return above_j / sum(step.cpu_s for step in busy)


def _bounds(interval: Interval) -> str:
    return f"{interval.low:.3g} to {interval.high:.3g}"


def _band(sensor: Sensor) -> str:
    return f"{sensor.low_ratio:.2f} to {sensor.high_ratio:.2f}"
