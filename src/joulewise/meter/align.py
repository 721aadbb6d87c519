"""Find the offset of an external meter's clock: make a known load and look for it in the log.

All CPUs are busy and idle by turns, in the order of a pseudo-random sequence whose shape fits
itself at one shift only. At each shift the log's power is correlated with that shape; the shift
with the best fit is the offset. What is found is the offset that the meter's own reading of the log
needs: where rows are stamped at the end of the time that they average over, half a step is part of
it.

Invariants: an offset comes with its uncertainty, and none is given where the fit is poor or another
shift fits nearly as well; the shortest stretch of load is no multiple of the log's step, else its
edges would all fall on the same part of a step and tell nothing about the rest.

In simulation (tests/meter/test_align.py) offsets lie within the stated uncertainty in more than
95 % of logs with samples, averages or counters, noise, drift and rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from joulewise.core.errors import SensorError
from joulewise.meter.recording import Log

__all__ = [
    "Alignment",
    "Loads",
    "Pattern",
    "align",
    "align_log",
    "make_load",
    "pattern_bits",
    "stretch_s",
]

Floats = NDArray[np.float64]

REGISTER_BITS, TAPS = 5, (5, 3)
"""A sequence of maximal length 31: x^5 + x^3 + 1. Source: Golomb 1967, Shift Register Sequences."""

STRETCH_STEPS = (1 + math.sqrt(5)) / 2
"""Steps of the log in the shortest stretch of load: the golden ratio, as its multiples fall evenly
on all parts of a step."""

LEAST_STEP_S = 0.5
"""Rows that are closer are put together, s: a judgement; CPUs need some ms to change."""

MOST_LOAD_S = 600.0
"""Longest load, s: a judgement; a log whose rows are further apart needs it named."""

LEAST_FIT, LEAST_LEAD = 0.65, 0.3
"""Correlation at the offset, and how much better it is than at any other, at the least: judgements.

In 1200 simulated logs of bursts that were not ours, none passed; at 0.6 and 0.2, seven did.
"""

PARTS = 8
"""Parts of the log that are left out in turn to see how far the offset moves."""

ERRORS = 2.4
"""Standard errors in the stated uncertainty: 95 % of Student's t with PARTS - 1 degrees."""

COUNTER_PART, POWER_PART = 0.05, 0.2
"""Parts of a step that are added, as within it the fit is not smooth: judgements, from simulation.

More for powers, of which it is not known whether they are samples or averages.
"""

OLDEST_ROW_S = 300.0
"""Longest time between a row's moment and its coming into the file, s: a judgement."""

WAIT_S, WAIT_STEPS = 30.0, 10
"""How long the log may take to show the last of the load, s and steps: judgements."""

POLL_S = 0.5
"""Time between looks at the log, s."""

MIX = "exp"
"""What the CPUs do: see joulewise.meter.mixes; among those with the most power."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """When the CPUs were busy.

    Args:
        edges_s: our time at which each stretch began, and at which the last one ended, s.
        busy: whether each stretch was busy.
        slack_s: longest time that a change took, s.
    """

    edges_s: tuple[float, ...]
    busy: tuple[bool, ...]
    slack_s: float = 0.0

    @property
    def stretch_s(self) -> float:
        """Mean length of a stretch, s."""
        return (self.edges_s[-1] - self.edges_s[0]) / len(self.busy)

    def mean_between(self, start_s: Floats, end_s: Floats) -> Floats:
        """Return the busy part of each span of time, which may lie outside."""
        edges = np.array(self.edges_s)
        busy_s = np.concatenate(([0.0], np.cumsum(np.diff(edges) * np.array(self.busy))))
        spent_s = np.interp(end_s, edges, busy_s) - np.interp(start_s, edges, busy_s)
        return np.asarray(spent_s / (end_s - start_s))


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where the log's clock is.

    Args:
        offset_s: add this to the log's times to get ours, s.
        error_s: the true offset is within so much of it (95 %), s.
        fit: correlation of the log's power with the load.
    """

    offset_s: float
    error_s: float
    fit: float


class Loads(Protocol):
    """What keeps CPUs busy; joulewise.meter.staircase.Crew does."""

    def hold(self, mix: str, cpus: int) -> None:
        """Keep so many CPUs busy, and no others, until told otherwise."""
        ...


def pattern_bits() -> tuple[bool, ...]:
    """Return the pseudo-random sequence, 31 stretches of which 16 are busy."""
    register = [True] * REGISTER_BITS
    bits = []
    for _ in range(2**REGISTER_BITS - 1):
        bits.append(register[-1])
        fed_back = register[TAPS[0] - 1] ^ register[TAPS[1] - 1]
        register = [fed_back, *register[:-1]]
    return tuple(bits)


def stretch_s(step_s: float) -> float:
    """Return the length of the shortest stretch for a log, s.

    Args:
        step_s: time between its rows, s.

    Raises:
        SensorError: the load would take longer than MOST_LOAD_S.
    """
    length_s = STRETCH_STEPS * max(step_s, LEAST_STEP_S)
    whole_s = length_s * len(pattern_bits())
    if not whole_s <= MOST_LOAD_S:
        raise SensorError(
            f"the log's rows are {step_s:.3g} s apart, so finding its clock's offset would take "
            f"{whole_s / 60:.0f} min of load; write ?offset_s=SECONDS instead"
        )
    return length_s


def align(log: Log, pattern: Pattern, lowest_s: float, highest_s: float) -> Alignment:
    """Return the offset at which a log's power fits the load.

    Args:
        log: its rows.
        pattern: when the CPUs were busy, in our time.
        lowest_s: lowest offset that is possible, s.
        highest_s: highest, s; at a higher one than this the log may begin within the load.

    Raises:
        SensorError: no offset fits, or more than one does.
    """
    rows = _rows(log)
    coarse = np.arange(lowest_s, highest_s + rows.step_s / 4, rows.step_s / 4)
    fits = np.array([rows.around(pattern, offset).fits(pattern, np.array([offset]))[0]
                     for offset in coarse])  # fmt: skip
    best = int(np.argmax(fits))
    others = fits[np.abs(coarse - coarse[best]) > 1.5 * pattern.stretch_s]
    near = rows.around(pattern, float(coarse[best]))
    reach_s = max(rows.step_s, pattern.stretch_s / 2)
    fine = coarse[best] + np.linspace(-reach_s, reach_s, 401)
    offset_s, fit = _peak(near, pattern, fine)
    if fit < LEAST_FIT or fit - max(others, default=0.0) < LEAST_LEAD:
        raise SensorError(
            f"the load that joulewise made is not clear in the log (correlation {fit:.2f}, "
            f"elsewhere {max(others, default=0.0):.2f}); does the meter feed this machine, and is "
            "nothing else running? else write ?offset_s=SECONDS"
        )
    moved = np.array([_peak(part, pattern, fine)[0] for part in near.without_each_part()])
    standard_error_s = math.sqrt((PARTS - 1) * float(np.var(moved)))
    part = COUNTER_PART if log.is_counter else POWER_PART
    return Alignment(
        offset_s=offset_s,
        error_s=ERRORS * standard_error_s + part * rows.step_s + pattern.slack_s / 2,
        fit=fit,
    )


def align_log(
    log: Log,
    load: Callable[[], AbstractContextManager[Loads]],
    cpus: int,
    *,
    now: Callable[[], float],
    sleep: Callable[[float], object] = time.sleep,
) -> Alignment:
    """Make the load, wait until the log shows it, and return the log's offset.

    Args:
        log: a log that is being written.
        load: opens what keeps CPUs busy.
        cpus: how many.
        now: our time, s since 1970.
        sleep: waits so many seconds; another function in tests.

    Raises:
        SensorError: the log is not being written, its rows are too far apart, or the load is not
            clear in it.
    """
    length_s = stretch_s(log.step_s)
    log.follow()
    newest_s, rows = log.times_s[-1], len(log.times_s)
    highest_s = now() - newest_s
    with load() as crew:
        pattern = make_load(crew, cpus, length_s, now=now, sleep=sleep)
    patience_s = now() + WAIT_S + WAIT_STEPS * log.step_s
    refusal = SensorError(
        f"no row came into the log {log.path} while load was made; is the meter still writing? a "
        "finished log needs ?offset_s=SECONDS"
    )
    while now() < patience_s:
        sleep(max(POLL_S, log.step_s / 2))
        log.follow()
        lowest_s = max(pattern.edges_s[-1] - log.times_s[-1], highest_s - OLDEST_ROW_S)
        if len(log.times_s) == rows or lowest_s >= highest_s:
            continue
        rows = len(log.times_s)
        try:
            return align(log, pattern, lowest_s, highest_s)
        except SensorError as error:
            refusal = error
    raise refusal


def make_load(
    crew: Loads,
    cpus: int,
    length_s: float,
    *,
    now: Callable[[], float],
    sleep: Callable[[float], object],
) -> Pattern:
    """Keep the CPUs busy and idle in the order of the sequence, and tell when they were.

    Args:
        crew: keeps CPUs busy.
        cpus: how many.
        length_s: length of a stretch, s.
        now: our time, s since 1970.
        sleep: waits so many seconds.
    """
    bits, edges_s, slack_s = pattern_bits(), list[float](), 0.0
    start_s = now()
    for number, (before, busy) in enumerate(pairwise((False, *bits, False))):
        sleep(max(0.0, start_s + number * length_s - now()))
        asked_s = now()
        if busy != before or number == len(bits):
            crew.hold(MIX, cpus if busy else 0)
        changed_s = now()
        edges_s.append((asked_s + changed_s) / 2)
        slack_s = max(slack_s, changed_s - asked_s)
    return Pattern(edges_s=tuple(edges_s), busy=bits, slack_s=slack_s)


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """The mean power between rows of a log."""

    starts_s: Floats
    ends_s: Floats
    power_w: Floats
    step_s: float

    def around(self, pattern: Pattern, offset_s: float) -> _Rows:
        """Return those that lie in the load or one stretch beside it, at some offset."""
        beside_s = pattern.stretch_s
        inside = (self.starts_s + offset_s >= pattern.edges_s[0] - beside_s) & (
            self.ends_s + offset_s <= pattern.edges_s[-1] + beside_s
        )
        return self._only(inside)

    def without_each_part(self) -> Iterator[_Rows]:
        """Yield the rows without the first part, without the second, and so on."""
        for part in np.array_split(np.arange(len(self.power_w)), PARTS):
            kept = np.ones(len(self.power_w), dtype=bool)
            kept[part] = False
            yield self._only(kept)

    def fits(self, pattern: Pattern, offsets_s: Floats) -> Floats:
        """Return the correlation with the load at each offset, a steady drift aside."""
        if len(self.power_w) <= REGISTER_BITS:
            return np.zeros(len(offsets_s))
        middles_s = (self.starts_s + self.ends_s) / 2
        drift, _ = np.linalg.qr(
            np.stack([np.ones_like(middles_s), middles_s - middles_s.mean()], 1)
        )
        shapes = pattern.mean_between(
            self.starts_s + offsets_s[:, None], self.ends_s + offsets_s[:, None]
        )
        shapes = shapes - (shapes @ drift) @ drift.T
        power_w = self.power_w - drift @ (drift.T @ self.power_w)
        scale = np.linalg.norm(shapes, axis=1) * np.linalg.norm(power_w)
        flat = scale < 1e-9 * (1.0 + float(np.abs(self.power_w).max()))
        return np.asarray(np.where(flat, 0.0, shapes @ power_w / np.where(flat, 1.0, scale)))

    def _only(self, kept: NDArray[np.bool_]) -> _Rows:
        return _Rows(
            starts_s=self.starts_s[kept],
            ends_s=self.ends_s[kept],
            power_w=self.power_w[kept],
            step_s=self.step_s,
        )


def _rows(log: Log) -> _Rows:
    """Return the mean power between rows that are LEAST_STEP_S apart or more."""
    every = max(1, round(LEAST_STEP_S / log.step_s))
    times_s, joules = np.array(log.times_s[::every]), np.array(log.joules[::every])
    return _Rows(
        starts_s=times_s[:-1],
        ends_s=times_s[1:],
        power_w=np.diff(joules) / np.diff(times_s),
        step_s=float(np.median(np.diff(times_s))),
    )


def _peak(rows: _Rows, pattern: Pattern, offsets_s: Floats) -> tuple[float, float]:
    fits = rows.fits(pattern, offsets_s)
    best = int(np.argmax(fits))
    return float(offsets_s[best]), float(fits[best])
