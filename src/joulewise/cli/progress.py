"""Progress on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from joulewise.core.claim import Trial
from joulewise.core.recipe import Recipe
from joulewise.report import text

__all__ = ["Terminal"]


class Terminal:
    """Shows stages and trials while they happen.

    Args:
        quiet: show nothing.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(file=sys.stderr, quiet=quiet, soft_wrap=True)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def stage(self, text: str) -> None:
        """Say what begins now."""
        self._say(text)
        self._bar.update(self._task, description=text[:60])

    def trial(self, number: int, total: int, recipe: Recipe, trial: Trial | None) -> None:
        """Say that a trial begins, or what a finished one gave."""
        name = text.describe_recipe(recipe)
        if trial is None:
            self._bar.update(self._task, description=name[:60], total=total, completed=number - 1)
        else:
            self._say(f"[{number:2}/{total}] {_result(trial)}  {name}{_reason(trial)}")
            self._bar.update(self._task, total=total, completed=number)

    def _say(self, line: str) -> None:
        self._console.print(text.plain(line), markup=False, highlight=False)


def _result(trial: Trial) -> str:
    ratio = text.MISSING if trial.ratio is None else f"{trial.ratio.value:.2f} x"
    quality = text.MISSING if trial.quality is None else text.percent(trial.quality.value)
    return f"{ratio:>7}  {quality:>8}"


def _reason(trial: Trial) -> str:
    return "" if trial.state == "measured" else f": {trial.state}, {trial.reason}"
