"""Turn counters and power sensors of any kind into joules per rail that never fall.

A counter is read when asked; a power sensor has no memory, so a daemon thread samples it and the
trapezoid between samples is added up.

Invariants: a reading never falls; it is true halfway between asking and the answer; a counter that
fell or rose faster than its limit, a power below zero and a thread that was held up for more than
MAX_LATE_PERIODS are errors, never zeros. After an error every later reading raises it again, as
what was spent in between is lost; only an instrument that gave no reply is asked again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from joulewise.core.energy import Reading
from joulewise.core.errors import SensorError

__all__ = ["LAG_S", "MAX_LATE_PERIODS", "Rail", "RailReader", "UnansweredError"]

MAX_LATE_PERIODS = 20
"""Sampling periods between two samples above which the integral is refused: a judgement."""

TRIES = 2
"""How often an instrument is asked for one reading: a judgement."""

LAG_S = 0.1
"""Time by which a counter with a limit may lag its clock, s: 100 updates of RAPL; a judgement."""


class UnansweredError(SensorError):
    """An instrument gave no reply this time; what it counts goes on."""


@dataclass(frozen=True, kw_only=True)
class Rail:
    """One quantity of a sensor.

    Args:
        name: name of the rail.
        unit: "J" for a counter, "W" for a power that is sampled.
        read: its value now; raises SensorError where it cannot be read.
        limit_w: power that a counter never reaches, W: a step that needs more is a reset or was
            counted while the machine slept; None where it is not known.
    """

    name: str
    unit: Literal["J", "W"]
    read: Callable[[], float]
    limit_w: float | None = None


class RailReader:
    """Add joules up per rail since it was opened.

    Args:
        rails: the rails, each once.
        period_s: time between samples of a thread, s; None where nothing needs sampling.
        clock: monotonic time, s; another function in tests.
        refresh: called before the rails are read, where one reply holds them all; None where
            each is read by itself.

    Raises:
        SensorError: a rail cannot be read.
    """

    def __init__(
        self,
        rails: Sequence[Rail],
        *,
        period_s: float | None,
        clock: Callable[[], float] = time.monotonic,
        refresh: Callable[[], None] | None = None,
    ) -> None:
        self._rails = tuple(rails)
        self._clock = clock
        self._refresh = refresh or _nothing
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._fault: SensorError | None = None
        self._total_j = dict.fromkeys((rail.name for rail in rails), 0.0)
        self._time_s, self._last = self._fresh()
        sampled = any(rail.unit == "W" for rail in rails)
        self._late_s = MAX_LATE_PERIODS * period_s if period_s and sampled else math.inf
        if period_s is not None:
            self._period_s = period_s
            threading.Thread(target=self._sample, name="joulewise-rails", daemon=True).start()

    def read(self) -> Reading:
        """Return the joules of each rail since the reader was opened.

        Raises:
            SensorError: a rail vanished, fell or was not sampled in time, now or before.
            UnansweredError: it gave no reply; a later reading may have one.
        """
        with self._lock:
            if self._fault is not None:
                raise self._fault
            try:
                return self._read()
            except UnansweredError:
                raise
            except SensorError as error:
                self._fault = error
                raise

    def close(self) -> None:
        """End the thread."""
        self._closed.set()

    def _read(self) -> Reading:
        time_s, fresh = self._fresh()
        passed_s = time_s - self._time_s
        if passed_s > self._late_s:
            raise SensorError(
                f"power was not sampled for {passed_s:.1f} s, so its joules are unknown; "
                "stop other work on this machine and measure again"
            )
        steps_j = {rail.name: self._step_j(rail, fresh, passed_s) for rail in self._rails}
        # asked again: this thread may have stood still between the clock and the counters
        self._check_limits(steps_j, self._clock() - self._time_s + LAG_S)
        for name, step_j in steps_j.items():
            self._total_j[name] += step_j
        self._last, self._time_s = fresh, time_s
        return Reading(time_s=time_s, rails_j=dict(self._total_j))

    def _fresh(self) -> tuple[float, dict[str, float]]:
        """Return the values of the rails and when they were true."""
        for tries_left in reversed(range(TRIES)):
            asked_s = self._clock()
            try:
                self._refresh()
                values = {rail.name: _value(rail) for rail in self._rails}
            except UnansweredError:
                if not tries_left:
                    raise
            else:
                break
        return (asked_s + self._clock()) / 2, values

    def _step_j(self, rail: Rail, fresh: dict[str, float], passed_s: float) -> float:
        """Return the joules of a rail since the last reading."""
        before, after = self._last[rail.name], fresh[rail.name]
        if rail.unit == "W":
            return (before + after) / 2 * passed_s
        if after < before:
            raise SensorError(
                f"the counter {rail.name} fell from {before:.3f} to {after:.3f} J (was its driver "
                "reloaded, or the machine suspended?); measure again"
            )
        return after - before

    def _check_limits(self, steps_j: Mapping[str, float], seconds: float) -> None:
        for rail in self._rails:
            step_j = steps_j[rail.name]
            if rail.limit_w is not None and step_j > rail.limit_w * seconds:
                raise SensorError(
                    f"the counter {rail.name} rose by {step_j:.3f} J, which nothing draws in "
                    f"{seconds:.1f} s (was the machine suspended?); measure again"
                )

    def _sample(self) -> None:
        while not self._closed.wait(self._period_s):
            try:
                self.read()
            except UnansweredError:
                continue
            except SensorError:
                return  # the caller's next reading raises it again


def _nothing() -> None:
    """Do nothing: each rail is read by itself."""


def _value(rail: Rail) -> float:
    """Return a rail's value; a power below zero is implausible."""
    value = rail.read()
    if rail.unit == "W" and value < 0:
        raise SensorError(f"{rail.name} shows {value:.3f} W; a load cannot draw less than 0 W")
    return value
