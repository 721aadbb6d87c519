"""What trials cost that were begun and not finished: a run that goes on bills it all the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from joulewise.core.energy import Interval, Reading
from joulewise.core.records import dump, load
from joulewise.meter.bill import Bill

__all__ = ["BEAT_S", "CAUSE", "Spent", "Unfinished", "spent_since"]

CAUSE = "interrupted"
"""Line of the ledger."""

FILE = "unfinished.json"

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


@dataclass(frozen=True, kw_only=True)
class _Notes:
    """What the file holds.

    Args:
        lost: by trials that did not come to their end.
        open: by those that are open, as last told: key of the recipe -> what it has cost so far.
    """

    lost: Spent | None = None
    open: Mapping[str, Spent] = field(default_factory=dict)


class Unfinished:
    """Keeps, in a small file, what trials cost that do not come to their end.

    Args:
        folder: the working folder of the run; what earlier runs left there is billed at once.
        bill: of this run.
        is_finished: tells by the key of its recipe whether a trial is in the study. Its own record
            has its cost, so a note of it is void: the process was killed before the note went.
    """

    def __init__(self, folder: Path, bill: Bill, is_finished: Callable[[str], bool]) -> None:
        self._file = folder / FILE
        self._bill = bill
        self._trial: tuple[str, Reading] | None = None
        self._noted_s = 0.0
        self._notes = load(_Notes, self._file) if self._file.exists() else _Notes()
        if self._notes.open:
            killed = [spent for key, spent in self._notes.open.items() if not is_finished(key)]
            self._write(_Notes(lost=_sum([*_known(self._notes.lost), *killed])))
        if self._notes.lost is not None:
            bill.add(CAUSE, self._notes.lost.joules, self._notes.lost.seconds)

    @contextmanager
    def trial(self, key: str) -> Iterator[None]:
        """Bill what is spent inside the ``with`` block if it raises, and keep it."""
        before, self._noted_s = self._bill.meter.read(), time.monotonic()
        self._trial = key, before
        try:
            yield
        except BaseException:
            self.lost(key, spent_since(before, self._bill))
            raise
        finally:
            self._trial = None

    def note(self) -> None:
        """Note what the open trial has cost so far, should the process be killed; not too often."""
        now_s = time.monotonic()
        if self._trial is not None and now_s - self._noted_s >= BEAT_S:
            key, before = self._trial
            self.note_elsewhere({key: spent_since(before, self._bill)})
            self._noted_s = now_s

    def note_elsewhere(self, told: Mapping[str, Spent]) -> None:
        """Note what each trial that is open has told that it costs so far."""
        if told != self._notes.open:
            self._write(replace(self._notes, open=told))

    def lost(self, key: str, spent: Spent) -> None:
        """Bill and keep what a trial cost that does not come to its end; its note goes with it."""
        self._bill.add(CAUSE, spent.joules, spent.seconds)
        rest = {other: each for other, each in self._notes.open.items() if other != key}
        self._write(_Notes(lost=_sum([*_known(self._notes.lost), spent]), open=rest))

    def _write(self, notes: _Notes) -> None:
        dump(notes, self._file)
        self._notes = notes


def _known(spent: Spent | None) -> list[Spent]:
    return [] if spent is None else [spent]


def _sum(spent: Sequence[Spent]) -> Spent | None:
    return reduce(Spent.plus, spent) if spent else None
