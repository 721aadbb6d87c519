"""What ``joulewise compress`` and ``joulewise passes`` do once their options are understood."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import typer

from joulewise.cli.commands import InterruptedRunError
from joulewise.cli.progress import Terminal
from joulewise.compress.passes import PASSES
from joulewise.compression import Compressed, compress_model
from joulewise.core.errors import MissingExtraError
from joulewise.core.records import to_json
from joulewise.core.settings import Settings, Usage
from joulewise.report import text
from joulewise.report.verdict import claim_lines

__all__ = ["compressed_lines", "run_compress", "run_passes"]


@dataclass(frozen=True, kw_only=True)
class PassRow:
    """A pass as it is listed.

    Args:
        name: what it is called in a recipe.
        summary: one line about it.
        parameters: each with its default, as in Python.
        missing: what to install for it; None where it works.
    """

    name: str
    summary: str
    parameters: tuple[str, ...] = ()
    missing: str | None = None


def run_compress(
    model: str,
    recipe: str,
    data: str,
    output: Path,
    usage: Usage,
    settings: Settings,
    *,
    train: str | None,
    weights: Path | None,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Apply a recipe and print what every step gave and what the test found."""
    with Terminal(quiet=quiet) as progress:
        try:
            found = compress_model(
                model, recipe, data, output, train=train, weights=weights, usage=usage,
                settings=settings, resume=resume, progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"interrupted; finished steps are kept in {output}.work: repeat the command with "
                "--resume"
            ) from None
    for warning in found.warnings:
        typer.echo(f"warning: {text.plain(warning)}", err=True)
    typer.echo(to_json(found) if as_json else "\n".join(compressed_lines(found, output)))


def compressed_lines(found: Compressed, output: Path) -> list[str]:
    """Return a line per step, then energy, quality, cost and where the model is."""
    grade = found.claim.ratio.grade
    lines = [
        f"step     {text.plain(str(each.step))}: {text.size(each.size_bytes)}, "
        f"{text.joules(each.cost_j.central)}, {text.seconds(each.seconds)}"
        for each in found.steps
    ]
    cost_j = sum(each.cost_j.central for each in found.steps)
    took = text.seconds(sum(each.seconds for each in found.steps))
    pays = found.break_even_items
    payback = (
        "no saving is certain that could pay it back"
        if pays is None
        else f"pays back after {text.approximate(pays.central)} inferences "
        f"({text.span(pays, text.approximate)})"
    )
    return [
        *lines,
        *claim_lines(found.claim),
        (
            f"cost     the steps took {text.joules(cost_j)} ({text.grade_word(grade)}, "
            f"grade {grade}) and {took}; {payback}"
        ),
        f"model    {output / found.artifact.main}, run on {text.describe_run(found.recipe.run)}",
    ]


def run_passes(*, as_json: bool) -> None:
    """Print every pass with its parameters and defaults, or what is missing for it."""
    rows = [_describe(name) for name in PASSES]
    if as_json:
        typer.echo(to_json(rows))
        return
    for row in rows:
        typer.echo(f"{row.name}({', '.join(row.parameters)})")
        typer.echo(f"    {row.missing or row.summary}")


def _describe(name: str) -> PassRow:
    summary, extra, package = PASSES[name].summary, PASSES[name].extra, PASSES.missing(name)
    if package is not None:
        return PassRow(name=name, summary=summary, missing=str(MissingExtraError(package, extra)))
    parameters = tuple(
        each.name if each.default is MISSING else f"{each.name}={each.default!r}"
        for each in fields(PASSES.load(name))  # type: ignore[arg-type]  # passes are dataclasses
    )
    return PassRow(name=name, summary=summary, parameters=parameters)
