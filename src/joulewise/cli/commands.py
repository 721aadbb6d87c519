"""What the commands do once their options are understood."""

from __future__ import annotations

from pathlib import Path

import typer

from joulewise import pipeline
from joulewise.cli.measure import log
from joulewise.cli.progress import Terminal
from joulewise.core.claim import Check
from joulewise.core.errors import JoulewiseError
from joulewise.core.records import Bundle, to_json
from joulewise.core.settings import Budget, Settings, Usage
from joulewise.core.supply import Supply
from joulewise.report.explain import explain_lines
from joulewise.report.footprint import footprint_lines
from joulewise.report.verdict import ledger_line, verdict_lines
from joulewise.tracking import require_mlflow

__all__ = ["run_optimize", "run_verify"]


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
    budget: Budget | None = None,
    study_url: str | None = None,
    ray: str | None = None,
    supply: Supply | None = None,
    mlflow: bool = False,
    explain: bool = False,
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
                settings=settings, budget=budget, resume=resume,
                study_url=study_url, ray=ray, supply=supply, explain=explain,
                progress=progress,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise InterruptedRunError(_what_is_kept(output)) from None
    for warning in bundle.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(to_json(bundle) if as_json else "\n".join(_result_lines(bundle, explain=explain)))
    if not quiet:
        typer.echo(f"bundle   {output} (open {output / 'report.html'})", err=True)
    if mlflow:
        log(bundle)


def _result_lines(bundle: Bundle, *, explain: bool) -> list[str]:
    told = {_FOOTPRINTS.get(what, what): each for what, each in bundle.footprints.items()}
    sensors = [trial.measurement.sensor for trial in bundle.trials if trial.measurement]
    footprints = footprint_lines(told, sensors, width=9)
    table = ["", *explain_lines(bundle)] if explain else []
    return [*verdict_lines(bundle), ledger_line(bundle), *footprints, *table]


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


def _check_line(check: Check) -> str:
    return f"{'ok  ' if check.holds else 'FAIL'}  {check.name}: {check.detail}"


def _verify_line(found: pipeline.Verification, folder: Path) -> str:
    if not found.holds:
        return f"the claim of {folder} does not hold"
    if found.claim is None:
        return f"{folder} keeps the original and claims nothing; its files are as recorded"
    return f"the claim of {folder} holds on this machine: {found.host.short}"
