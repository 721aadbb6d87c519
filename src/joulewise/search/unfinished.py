"""What trials cost that were begun and not finished: a run that goes on bills it all the same."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from joulewise.core.energy import Interval, Reading
from joulewise.core.records import dump, load
from joulewise.meter.bill import Bill

__all__ = ["BEAT_S", "CAUSE", "Spent", "Unfinished", "spent_since"]

CAUSE = "interrupted"
"""Line of the ledger."""

BEAT_S = 5.0
"""Least time between two notes of what an open trial has cost so far, s."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Joules and seconds."""

    joules: Interval
    seconds: float

    def plus(self, other: Spent) -> Spent:
        """Return both together."""
        ours, theirs = self.joules, other.joules
        return Spent(
            joules=Interval(
                low=ours.low + theirs.low,
                central=ours.central + theirs.central,
                high=ours.high + theirs.high,
            ),
            seconds=self.seconds + other.seconds,
        )


def spent_since(before: Reading, bill: Bill) -> Spent:
    """Return what was spent since a reading of the bill's meter."""
    after = bill.meter.read()
    return Spent(joules=bill.interval(before, after), seconds=after.time_s - before.time_s)


class Unfinished:
    """Keeps, in two small files, what trials cost that do not come to their end.

    Args:
        folder: the working folder of the run; what earlier runs left there is billed at once.
        bill: of this run.
    """

    def __init__(self, folder: Path, bill: Bill) -> None:
        self._all, self._open = folder / "unfinished.json", folder / "open-trial.json"
        self._bill = bill
        self._before: Reading | None = None
        self._noted_s = 0.0
        if self._open.exists():
            self._keep(load(Spent, self._open))
        if self._all.exists():
            known = load(Spent, self._all)
            bill.add(CAUSE, known.joules, known.seconds)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Bill what is spent inside the ``with`` block if it raises, and keep it."""
        self._before, self._noted_s = self._bill.meter.read(), time.monotonic()
        try:
            yield
        except BaseException:
            self.lost(spent_since(self._before, self._bill))
            raise
        finally:
            self._before = None
        self._open.unlink(missing_ok=True)

    def note(self) -> None:
        """Note what the open trial has cost so far, should the process be killed; not too often."""
        now_s = time.monotonic()
        if self._before is not None and now_s - self._noted_s >= BEAT_S:
            dump(spent_since(self._before, self._bill), self._open)
            self._noted_s = now_s

    def note_elsewhere(self, spent: Iterable[Spent]) -> None:
        """Note what trials that are open on other machines have told that they cost so far."""
        told = list(spent)
        if told:
            dump(reduce(Spent.plus, told), self._open)
        else:
            self._open.unlink(missing_ok=True)

    def lost(self, spent: Spent) -> None:
        """Bill and keep what a trial cost that does not come to its end."""
        self._bill.add(CAUSE, spent.joules, spent.seconds)
        self._keep(spent)

    def _keep(self, spent: Spent) -> None:
        """Add to what is kept; the note of the open trial goes with it."""
        known = load(Spent, self._all) if self._all.exists() else None
        dump(spent if known is None else known.plus(spent), self._all)
        self._open.unlink(missing_ok=True)
