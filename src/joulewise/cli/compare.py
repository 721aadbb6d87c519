"""What ``joulewise compare`` does once its options are understood: a line per program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer

from joulewise.cli.commands import InterruptedRunError
from joulewise.cli.progress import Terminal
from joulewise.comparison import (
    Compared,
    Comparison,
    Conduct,
    Terms,
    compare_commands,
    compare_models,
)
from joulewise.core.claim import Ratio
from joulewise.core.errors import UsageError
from joulewise.core.recipe import RunSettings
from joulewise.core.records import dump, to_json
from joulewise.core.settings import Usage
from joulewise.report import text

__all__ = ["Shown", "are_models", "comparison_lines", "run_compare_commands", "run_compare_models"]

MODEL_ENDINGS = (".onnx", ".xml")

ENDINGS = {
    "precision": "the declared precision was reached",
    "rounds": "the most rounds were reached",
    "time": "the time was over",
}


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Where the result goes.

    Args:
        output: file for the record, None for none.
        as_json: print the record.
        quiet: show no progress.
    """

    output: Path | None
    as_json: bool
    quiet: bool


def are_models(targets: Sequence[str], data: str | None) -> bool:
    """Tell models from commands.

    Raises:
        UsageError: it is both, or models without data, or commands with data.
    """
    models = [target for target in targets if target.endswith(MODEL_ENDINGS)]
    if not models:
        if data is not None:
            raise UsageError(f"--data is for models, and {targets[0]!r} is none (.onnx)")
        return False
    if len(models) < len(targets):
        raise UsageError(
            "models cannot be compared with commands; give only models or only commands"
        )
    if data is None:
        raise UsageError("to compare models, give their inputs with --data")
    return True


def run_compare_models(
    models: Sequence[str],
    data: str,
    usage: Usage,
    run: RunSettings,
    terms: Terms,
    meter: str | None,
    show: Shown,
) -> None:
    """Compare models and print a line per model, or the record as JSON."""
    with _progress(show) as say:
        found = compare_models(
            models, data, usage=usage, run=run, terms=terms, meter=meter, say=say
        )
    _print(found, show)


def run_compare_commands(
    commands: Sequence[str], conduct: Conduct, terms: Terms, meter: str | None, show: Shown
) -> None:
    """Compare commands and print a line per command, or the record as JSON."""
    with _progress(show) as say:
        found = compare_commands(commands, terms=terms, conduct=conduct, meter=meter, say=say)
    _print(found, show)


@contextmanager
def _progress(show: Shown) -> Iterator[Callable[[str], None]]:
    with Terminal(quiet=show.quiet) as progress:
        try:
            yield progress.stage
        except KeyboardInterrupt:
            raise InterruptedRunError("interrupted; nothing was kept") from None


def _print(found: Comparison, show: Shown) -> None:
    for warning in found.warnings:
        typer.echo(f"warning: {text.plain(warning)}", err=True)
    if show.output is not None:
        dump(found, show.output)
    typer.echo(to_json(found) if show.as_json else "\n".join(comparison_lines(found)))


def comparison_lines(found: Comparison) -> list[str]:
    """Return a line per program, then how sure it is and what the joules are."""
    names = [text.plain(each.name) for each in found.programs]
    rows = [
        (f"{number}  {name}", _energy(each, found), *_ratio_and_verdict(each))
        for number, (name, each) in enumerate(zip(names, found.programs, strict=True), start=1)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    sensor = found.programs[0].measurement.sensor
    lines.append(f"rounds   {_rounds_text(found)}")
    lines.append(f"sensor   {sensor.name}: {sensor.boundary} ({sensor.source.partition(':')[0]})")
    if any(each.same for each in found.programs[1:]):
        lines.append(
            "A/A      the same program was given more than once: its ratio has no sensor's band, "
            "and whatever differs there is chance or the machine"
        )
    if found.kind == "models":
        lines.append("quality  not compared; joulewise optimize proves it")
    return lines


def _energy(each: Compared, found: Comparison) -> str:
    net, grade = each.measurement.net_j_per_item, each.measurement.sensor.grade
    item = "run" if found.kind == "commands" else "item"
    return (
        f"{text.joules(None if net is None else net.central)} per {item} "
        f"({text.span(net, text.joules)}, {text.grade_word(grade)}, grade {grade})"
    )


def _ratio_and_verdict(each: Compared) -> tuple[str, str]:
    ratio = each.ratio
    if ratio is None:
        return "", "reference"
    words = f"{text.ratio(ratio.value)} times ({text.ratio(ratio.low)} to {text.ratio(ratio.high)})"
    return words, _verdict(each, ratio)


def _verdict(each: Compared, ratio: Ratio) -> str:
    if each.verdict == "no difference":
        if not each.same and (ratio.sampling_high < 1 or ratio.sampling_low > 1):
            return (
                "no difference shown: run to run "
                f"{text.ratio(ratio.sampling_low)} to {text.ratio(ratio.sampling_high)}, but the "
                "sensor cannot tell them apart"
            )
        return "no difference shown" + (" (A/A check: as it should be)" if each.same else "")
    if each.same:
        return f"{each.verdict} joules (A/A check FAILED: it is the same program)"
    return f"{each.verdict} joules"


def _rounds_text(found: Comparison) -> str:
    ratio = found.programs[-1].ratio
    confidence = 100 * found.terms.confidence
    objective = "" if ratio is None else f", {ratio.objective}"
    return (
        f"{found.rounds} in random order, {ENDINGS[found.ended_by]}; intervals hold together at "
        f"{confidence:g} % over {text.counted(found.looks, 'look')}{objective}"
    )
