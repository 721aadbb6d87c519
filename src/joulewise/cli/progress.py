"""Progress on stderr: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from joulewise.core.claim import Quality, Trial
from joulewise.core.errors import SensorError
from joulewise.core.recipe import Recipe
from joulewise.meter.table import open_meter
from joulewise.meter.window import Stopwatch, Window
from joulewise.report import text

__all__ = ["Terminal", "live_line"]

LIVE_PERIOD_S = 0.5
"""Time between two updates of the live line, s: two readings cost about 0.1 % of a CPU."""


PART_STEP = 0.1
"""Share of a long step after which another line is written where there is no terminal."""

ROUNDING = 1e-9


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
        self._told = 0.0

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

    def step(self, number: int, total: int, name: str) -> None:
        """Say that a step of a known number begins; without a bar, about ten times in all."""
        if self._bar.disable and (number - 1) % math.ceil(total / 10) == 0:
            self._say(f"[{number:{len(str(total))}}/{total}] {name}")
        self._bar.update(
            self._task, description=text.plain(name)[:60], total=total, completed=number - 1
        )

    def part(self, done: float, words: str) -> None:
        """Say how far a long step is."""
        self._bar.update(self._task, description=f"{100 * done:.0f} %  {words}"[:60])
        if done < self._told:  # another step
            self._told = 0.0
        if not self._console.is_terminal and done >= self._told + PART_STEP - ROUNDING:
            self._told = done
            self._say(f"      {100 * done:.0f} %  {words}")

    def _say(self, line: str) -> None:
        self._console.print(text.plain(line), markup=False, highlight=False)


def _result(trial: Trial) -> str:
    ratio = text.MISSING if trial.ratio is None else f"{trial.ratio.value:.2f} x"
    quality = text.MISSING if trial.quality is None else _quality(trial.quality)
    return f"{ratio:>7}  {quality:>8}"


def _quality(found: Quality) -> str:
    return text.quality(found.value, found.metric)


def _reason(trial: Trial) -> str:
    return "" if trial.state == "measured" else f": {trial.state}, {trial.reason}"


@contextmanager
def live_line(meter: str | None) -> Iterator[None]:
    """Show the joules of this process and its children in one line of stderr while it lasts.

    Args:
        meter: name in METERS; None takes the best that works here.
    """
    console, done = Console(file=sys.stderr), threading.Event()
    with closing(open_meter([os.getpid()], name=meter)) as opened:
        window = Stopwatch("live", meters=[opened])
        line = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False,
            redirect_stderr=False,
        )  # fmt: skip
        with line, window:
            thread = threading.Thread(target=_redraw, args=(line, window, done), daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()


def _redraw(line: Live, window: Stopwatch, done: threading.Event) -> None:
    """Draw the line again and again, until done or until a counter cannot be read."""
    while not done.wait(LIVE_PERIOD_S):
        try:
            line.update(Text(_so_far(window.so_far()), no_wrap=True), refresh=True)
        except SensorError:
            return


def _so_far(window: Window) -> str:
    net, gross = window.net_j, window.gross_j
    joules = f"{text.joules(net.central)} net of idle" if net else "net unknown"
    if gross:
        joules += f", {text.joules(gross.central)} gross"
    kind = f"{text.grade_word(window.grade)}, grade {window.grade}"
    return f"{text.seconds(window.seconds)}  {joules} ({kind})"
