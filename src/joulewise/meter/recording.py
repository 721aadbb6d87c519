"""Read an external meter's log, finished or growing (grade A).

A smart plug, a power analyser or a BMC writes a table of times with power or cumulative energy; the
joules at any moment lie on the straight line between two rows, after a trapezoid over power. It is
named by the user and never chosen by itself: ``recording:FILE``, ``recording:FILE?offset_s=1.5``
where the meter's clock is known to be 1.5 s behind, or ``recording:FILE?align=auto``, which makes a
load of a minute and finds the offset itself (see joulewise.meter.align).

Why late: a reading is asked for now, but the row after that moment comes later. So `read` returns
at once, and the joules are looked up, waiting for the row if need be, when somebody asks for them;
waiting before a window opens would put the wait into the window.

Invariants: rows are in order of time and never negative; a hole longer than GAP_STEPS median steps
inside a window is an error, as nothing is known about it.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from joulewise.core.energy import Component, Grade, Reading, Sensor
from joulewise.core.errors import InputError, SensorError, UsageError
from joulewise.core.host import Host, read_host

if TYPE_CHECKING:
    from joulewise.meter.align import Alignment

__all__ = ["GAP_STEPS", "Log", "NamedRecording", "RecordingMeter", "probe"]

RAIL = "external"

GAP_STEPS = 5
"""Median steps without a row that make a hole: a judgement."""

ROUNDING = 1e-9
"""Share of a counter below which a change of its steps is rounding of numbers, not a step."""

POLL_S = 0.05
"""Time between looks at a growing file, s."""

RATIOS, PAIR_RATIO = (0.97, 1.03), 1.01
"""Error of an external meter, and the part that two programs do not share: judgements.

Source: MLPerf Power refuses readings of more than 1 % uncertainty (power-dev, compliance/check.py).
differs: which meter wrote the log is not known, so 3 % is stated; its gain cancels in a ratio, the
row that a window's end falls into does not.
"""

UPDATES = 100
"""Rows in the shortest good window. Source: joulewise.meter.interleave.least_block_s."""

TIME_COLUMNS = ("time_s", "timestamp")
VALUE_COLUMNS: Mapping[str, float] = {"power_w": 1.0, "energy_j": 1.0, "energy_wh": 3600.0}
"""What a row may hold, and its factor to W or J."""


def probe() -> str | None:
    """Return why it does not work by itself: it needs a file."""
    return "no log is named; give an external meter's log as in: --meter recording:plug.csv"


class Log:
    """The rows of a log so far, as cumulative joules.

    Args:
        path: CSV with a header line, or JSON lines; columns time_s or timestamp (seconds since
            1970, or ISO 8601; without a zone it is this machine's), and power_w, energy_j or
            energy_wh. A last line that is not finished yet is left for later.

    Raises:
        InputError: the file is unreadable, or a row is missing a column, out of order or negative.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.times_s: list[float] = []
        self.joules: list[float] = []
        self._offset_bytes = 0
        self._line = 0
        self._columns: list[str] | None = None
        self._kind: str | None = None
        self._last_value = 0.0
        self._median = (0, math.inf)
        self.follow()

    @property
    def step_s(self) -> float:
        """Median time between rows, s; infinite before there are two."""
        if self._median[0] != len(self.times_s):
            steps = [after - before for before, after in pairwise(self.times_s)]
            self._median = len(self.times_s), statistics.median(steps) if steps else math.inf
        return self._median[1]

    @property
    def is_counter(self) -> bool:
        """Whether its rows are cumulative energy, not power."""
        return self._kind not in (None, "power_w")

    @property
    def resolution_j(self) -> float | None:
        """Smallest step of a counter, or change of its steps, J; None for power.

        A fine counter moves by many of its own steps from row to row, so the smallest move alone
        would be the power times the time between rows.
        """
        if self._kind == "power_w":
            return None
        moves = [after - before for before, after in pairwise(self.joules)]
        changes = [abs(after - before) for before, after in pairwise(moves)]
        rounding_j = ROUNDING * self._last_value
        return min((step for step in (*moves, *changes) if step > rounding_j), default=None)

    def follow(self) -> None:
        """Take in the rows that were written since."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset_bytes)
                fresh = file.read()
        except OSError as error:
            raise InputError(
                f"cannot read the log {self.path}: {error.strerror or error}; check its path"
            ) from error
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset_bytes += len(whole)
        for line in whole.decode(errors="replace").lstrip("\ufeff").splitlines():
            self._line += 1
            if line.strip():
                self._take(line)

    def joules_at(self, time_s: float) -> float:
        """Return the joules since the first row, on the line between two rows.

        Args:
            time_s: between the first and the last row.
        """
        after = bisect_left(self.times_s, time_s)
        if self.times_s[after] == time_s:
            return self.joules[after]
        start_s, end_s = self.times_s[after - 1], self.times_s[after]
        start_j, end_j = self.joules[after - 1], self.joules[after]
        part = (time_s - start_s) / (end_s - start_s)
        return start_j + (end_j - start_j) * part

    def gap_in(self, start_s: float, end_s: float) -> float | None:
        """Return the longest hole that touches the window, s; None where there is none."""
        first = max(1, bisect_left(self.times_s, start_s))
        last = min(len(self.times_s) - 1, bisect_left(self.times_s, end_s))
        steps = [self.times_s[i] - self.times_s[i - 1] for i in range(first, last + 1)]
        longest = max(steps, default=0.0)
        return longest if longest > GAP_STEPS * self.step_s else None

    def _take(self, line: str) -> None:
        row = self._row(line)
        if row is None:
            return
        time_s, kind = self._time_s(row), self._value_column(row)
        value = self._number(row, kind) * VALUE_COLUMNS[kind]
        if value < 0:
            raise self._bad(f"{kind} is negative ({row[kind]})")
        if self.times_s and time_s <= self.times_s[-1]:
            raise self._bad("its time is not after the row before; sort the log by time")
        if self.times_s and kind != "power_w" and value < self._last_value:
            raise self._bad(f"{kind} fell; cut the log where the meter was reset")
        self.joules.append(self._cumulative(time_s, kind, value))
        self.times_s.append(time_s)
        self._kind, self._last_value = kind, value

    def _cumulative(self, time_s: float, kind: str, value: float) -> float:
        if not self.times_s:
            return 0.0
        if kind == "power_w":
            mean_w = (self._last_value + value) / 2
            return self.joules[-1] + mean_w * (time_s - self.times_s[-1])
        return self.joules[-1] + value - self._last_value

    def _row(self, line: str) -> Mapping[str, object] | None:
        """Return a row by column; None for the header."""
        if line.lstrip().startswith("{"):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise self._bad("it is not JSON") from error
            return {str(name): value for name, value in row.items()}
        cells = [cell.strip() for cell in next(csv.reader(io.StringIO(line)))]
        if self._columns is None:
            self._columns = cells
            return None
        if len(cells) != len(self._columns):
            raise self._bad(f"it has {len(cells)} cells, the header {len(self._columns)}")
        return dict(zip(self._columns, cells, strict=True))

    def _time_s(self, row: Mapping[str, object]) -> float:
        for column in TIME_COLUMNS:
            if column in row:
                return self._moment_s(row, column)
        raise self._bad(f"it has no column {' or '.join(TIME_COLUMNS)}")

    def _moment_s(self, row: Mapping[str, object], column: str) -> float:
        text = str(row[column])
        try:
            return float(text) if _is_number(text) else datetime.fromisoformat(text).timestamp()
        except ValueError as error:
            raise self._bad(f"{column} {text!r} is no time in seconds or ISO 8601") from error

    def _value_column(self, row: Mapping[str, object]) -> str:
        for column in VALUE_COLUMNS if self._kind is None else (self._kind,):
            if column in row:
                return column
        raise self._bad(f"it has no column {self._kind or ', '.join(VALUE_COLUMNS)}")

    def _number(self, row: Mapping[str, object], column: str) -> float:
        text = str(row[column])
        if not _is_number(text):
            raise self._bad(f"{column} {text!r} is no number")
        return float(text)

    def _bad(self, what: str) -> InputError:
        return InputError(f"the log {self.path}, line {self._line}: {what}")


class RecordingMeter:
    """Count the joules that an external meter recorded.

    `idle_w` is None until the caller sets it.

    Args:
        path: the log, see Log.
        offset_s: add this to the log's times to get this machine's, s.
        offset_error_s: how far the offset may be off, s; None where it was not measured.
        now: this machine's time, s since 1970; another function replays a finished log exactly.
        sleep: waits that long, s; another function in tests.

    Raises:
        InputError: the log is unreadable or inconsistent.
        SensorError: the log has fewer than two rows.
    """

    grade: ClassVar[Grade] = "A"
    component: ClassVar[Component] = "machine"
    probe: ClassVar[Callable[[], str | None]] = staticmethod(probe)

    def __init__(
        self,
        path: Path,
        *,
        offset_s: float = 0.0,
        offset_error_s: float | None = None,
        now: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = Log(path)
        if len(self._log.times_s) < 2:
            raise SensorError(f"the log {path} has fewer than two rows; let the meter run first")
        self._offset_s = offset_s
        self._now = now or _steady_now()
        self._sleep = sleep
        self._last_s: float | None = None
        self.idle_w: float | None = None
        self.sensor = recording_sensor(self._log, offset_s, offset_error_s)

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> RecordingMeter:  # noqa: ARG003
        """Refuse: a log must be named."""
        raise SensorError(str(probe()))

    @staticmethod
    def named(argument: str) -> NamedRecording:
        """Return the kind that reads the log that ``recording:`` is followed by.

        Args:
            argument: a path, or a path and ``?offset_s=SECONDS`` or ``?align=auto``.

        Raises:
            UsageError: the part after the question mark is not understood.
        """
        path, _, query = argument.partition("?")
        name, _, value = query.partition("=")
        known = query in ("", "align=auto") or (name == "offset_s" and _is_number(value))
        if not path or not known:
            raise UsageError(
                f"recording:{argument} is not understood; write recording:FILE, "
                "recording:FILE?offset_s=1.5 or recording:FILE?align=auto"
            )
        offset_s = None if query == "align=auto" else float(value or 0)
        return NamedRecording(path=Path(path), offset_s=offset_s)

    def read(self) -> Reading:
        """Return the joules up to now; those of a row still to come wait for it when asked for.

        Raises:
            InputError: a new row is inconsistent.
            SensorError: the log ended long ago or begins later, or has a hole since the last
                reading; where its row is still to come, at the first look at the joules.
        """
        wanted_s = self._now() - self._offset_s
        start_s = wanted_s if self._last_s is None else self._last_s
        self._log.follow()
        self._check_reach(wanted_s, GAP_STEPS * self._log.step_s)
        self._last_s = wanted_s
        joules = _Later(lambda: self._joules_at(start_s, wanted_s))
        if wanted_s <= self._log.times_s[-1]:
            joules.look_up()
        return Reading(time_s=wanted_s + self._offset_s, rails_j=joules)

    def close(self) -> None:
        """Do nothing: the file is opened for each look at it."""

    def _joules_at(self, start_s: float, wanted_s: float) -> float:
        """Return the joules at a moment, if no hole is between `start_s` and it."""
        self._wait_for(wanted_s)
        gap_s = self._log.gap_in(start_s, wanted_s)
        if gap_s is not None:
            raise SensorError(
                f"the log {self._log.path} has a hole of {gap_s:.1f} s while measuring, its rows "
                f"are usually {self._log.step_s:.2g} s apart; check the meter and measure again"
            )
        return self._log.joules_at(wanted_s)

    def _wait_for(self, wanted_s: float) -> None:
        """Follow the log until it covers a moment."""
        patience_s = GAP_STEPS * self._log.step_s
        waited_s = 0.0
        while self._log.times_s[-1] < wanted_s and waited_s < patience_s:
            self._log.follow()
            if self._log.times_s[-1] < wanted_s:
                self._sleep(POLL_S)
                waited_s += POLL_S
        self._check_reach(wanted_s, 0.0)

    def _check_reach(self, wanted_s: float, patience_s: float) -> None:
        """Refuse a moment that the log does not cover and will not within `patience_s`."""
        first_s, last_s = self._log.times_s[0], self._log.times_s[-1]
        if not first_s <= wanted_s <= last_s + patience_s:
            where = f"{wanted_s - last_s:.1f} s ago" if wanted_s > last_s else "in the future"
            verb = "ends" if wanted_s > last_s else "begins"
            raise SensorError(
                f"the log {self._log.path} {verb} {where}; is the meter still writing? if its "
                "clock differs from this machine's, add ?offset_s=SECONDS or ?align=auto"
            )


@dataclass(frozen=True, kw_only=True)
class NamedRecording:
    """The kind of meter that reads one log.

    Args:
        path: the log.
        offset_s: add this to the log's times to get this machine's, s; None makes a load and finds
            it, once.
    """

    path: Path
    offset_s: float | None = 0.0
    grade: ClassVar[Grade] = RecordingMeter.grade
    component: ClassVar[Component] = RecordingMeter.component

    def probe(self) -> None:
        """Leave it to `attach`, which reads the log."""

    def attach(self, pids: Sequence[int], host: Host) -> RecordingMeter:  # noqa: ARG002
        """Open the log; its joules are those of all that the external meter feeds."""
        if self.offset_s is not None:
            return RecordingMeter(self.path, offset_s=self.offset_s)
        found = _alignment_of(self.path)
        return RecordingMeter(self.path, offset_s=found.offset_s, offset_error_s=found.error_s)


@cache
def _alignment_of(path: Path) -> Alignment:
    """Return the offset of a log that is being written, found once per process."""
    from joulewise.meter.align import align_log  # brings NumPy, which others can spare
    from joulewise.meter.staircase import Crew

    log = Log(path)
    if len(log.times_s) < 2:
        raise SensorError(f"the log {path} has fewer than two rows; let the meter run first")
    cpus = read_host().logical_cpus
    return align_log(log, lambda: Crew(cpus, array_bytes=0), cpus, now=_steady_now())


class _Later(Mapping[str, float]):
    """The joules of the rail, looked up once when they are first asked for."""

    def __init__(self, joules: Callable[[], float]) -> None:
        self._joules = joules
        self._known: float | None = None

    def look_up(self) -> float:
        """Return the joules; raises what the meter's `read` does."""
        if self._known is None:
            self._known = self._joules()
        return self._known

    def __getitem__(self, rail: str) -> float:
        if rail != RAIL:
            raise KeyError(rail)
        return self.look_up()

    def __iter__(self) -> Iterator[str]:
        return iter((RAIL,))

    def __len__(self) -> int:
        return 1


def recording_sensor(log: Log, offset_s: float, offset_error_s: float | None) -> Sensor:
    """Describe the meter that wrote a log.

    Args:
        log: its rows so far.
        offset_s: what is added to its times, s.
        offset_error_s: how far that may be off, s; widens the band by what both ends of the
            shortest good window may miss. None where it was not measured.
    """
    part = min(2 * (offset_error_s or 0.0) / (UPDATES * log.step_s), 0.5)
    clock = (
        f"; its times are moved by {offset_s:.2f} s, found to {offset_error_s:.2f} s by a load"
        if offset_error_s is not None
        else ""
    )
    return Sensor(
        name="recording",
        grade="A",
        boundary=f"all that the external meter of {log.path.name} feeds, idle included",
        rails=(RAIL,),
        includes_idle=True,
        resolution_j=log.resolution_j,
        update_period_s=log.step_s,
        low_ratio=RATIOS[0] * (1 - part),
        high_ratio=RATIOS[1] * (1 + part),
        pair_ratio=PAIR_RATIO * (1 + part),
        source=(
            f"the log {log.path.name} of an external meter; its error is a judgement of 3 %{clock}"
        ),
    )


def _steady_now() -> Callable[[], float]:
    """Return a wall clock that starts right and then never steps."""
    start_s = time.time() - time.monotonic()
    return lambda: start_s + time.monotonic()


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
