"""What ``joulewise optimize --dry-run`` does once its options are understood."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from joulewise import pipeline
from joulewise.cli.commands import InterruptedRunError
from joulewise.cli.progress import Terminal
from joulewise.core.energy import Interval
from joulewise.core.records import to_json
from joulewise.core.settings import Budget, Settings, Usage
from joulewise.report import text

__all__ = ["dry_run_lines", "run_dry_run"]


def run_dry_run(
    model: str | Path,
    data: str,
    usage: Usage,
    settings: Settings,
    *,
    train: str | None,
    weights: Path | None,
    budget: Budget,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print what a run will probably cost, or the same as JSON."""
    with Terminal(quiet=quiet) as progress:
        try:
            found = pipeline.dry_run(
                model, data, train=train, weights=weights, usage=usage, settings=settings,
                budget=budget, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise InterruptedRunError("interrupted; a dry run keeps nothing") from None
    typer.echo(to_json(found) if as_json else "\n".join(dry_run_lines(found)))


def dry_run_lines(found: pipeline.DryRun) -> list[str]:
    """Return what a run will probably cost, in all and by cause, and what that comes from."""
    foreseen, sensor = found.foreseen, found.foreseen.sensor
    of_sensor = (
        f"as {sensor.name} tells them, {text.grade_word(sensor.grade)}, grade {sensor.grade}"
    )
    memory = foreseen.memory_bytes
    peak = text.MISSING if memory is None else _told(memory, text.size)
    stages = "; ".join(
        f"{cause} {_told(each, text.seconds)}, {_told(foreseen.stages_j[cause], text.joules)}"
        for cause, each in foreseen.seconds.items()
    )
    return [
        f"recipes  {_told(foreseen.recipes, _whole)} predicted",
        f"time     {_told(foreseen.total_s, text.seconds)} predicted",
        f"memory   {peak} predicted, all processes together at the peak",
        f"energy   {_told(foreseen.total_j, text.joules)} predicted, {of_sensor}",
        (
            f"proof    {text.count(found.hold_out_items)} hold-out items can certify a margin of "
            f"{text.points(found.smallest_margin, signed=False)} at best; "
            f"{text.points(found.margin, signed=False)} is declared"
        ),
        f"stages   {stages}",
        *(f"from     {text.plain(line)}" for line in foreseen.basis),
    ]


def _told(interval: Interval, render: Callable[[float], str]) -> str:
    """Return a value with its range, or alone where that is none."""
    if interval.low == interval.high:
        return render(interval.central)
    return f"{render(interval.central)} ({text.span(interval, render)})"


def _whole(value: float) -> str:
    return f"{value:.0f}"
