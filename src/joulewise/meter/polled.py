"""Turn an instrument that answers questions into a meter: plugs, exporters, BMCs.

One question gives all rails at once. Such instruments are slow: their figure is renewed every
second to every minute, and a reply takes its time. So when one is first opened it is watched for
how often its figure changes and how long a reply takes. The first is the update period, which makes
good windows long; the second widens the band, as a value was true at some moment between question
and reply.

Invariants: a figure is finite and never a guess; a reply without a rail that was there before, or
with a new one, is an error, as its joules would be missing.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, partial
from itertools import pairwise
from typing import Literal

from joulewise.core.energy import Component, Grade, Meter, Reading, Sensor
from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import Host
from joulewise.meter.rails import Rail, RailReader

__all__ = [
    "UNITS",
    "Instrument",
    "Nameable",
    "NamedInstrument",
    "PolledMeter",
    "Unit",
    "Watched",
    "has",
    "number",
    "pick",
    "seconds_called",
    "unit_called",
    "watch",
]

WATCH_S = 20.0
"""How long an instrument is watched at the most, s: a judgement."""

CHANGES = 4
"""Changes of the figure that tell its update period; one period more is waited for them."""

ASK_S, ASK_PART = 0.2, 20
"""Time between questions while watching, s, and as part of the update period that is stated:
judgements; small plugs do not bear many more."""

SAMPLE_S = (1.0, 10.0)
"""Least and most time between samples of a power, s: judgements."""

UPDATES = 100
"""Updates in the shortest good window. Source: joulewise.meter.interleave.least_block_s."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What an instrument's number is.

    Args:
        kind: "J" for a counter, "W" for a power.
        factor: what the number is multiplied by to get J or W.
    """

    kind: Literal["J", "W"]
    factor: float


UNITS: Mapping[str, Unit] = {
    "W": Unit(kind="W", factor=1.0),
    "mW": Unit(kind="W", factor=1e-3),
    "uW": Unit(kind="W", factor=1e-6),
    "kW": Unit(kind="W", factor=1e3),
    "J": Unit(kind="J", factor=1.0),
    "mJ": Unit(kind="J", factor=1e-3),
    "uJ": Unit(kind="J", factor=1e-6),
    "Wmin": Unit(kind="J", factor=60.0),
    "mWh": Unit(kind="J", factor=3.6),
    "Wh": Unit(kind="J", factor=3600.0),
    "kWh": Unit(kind="J", factor=3.6e6),
}
"""The units that a user may name."""


@dataclass(frozen=True, kw_only=True)
class Instrument:
    """Something that answers one question with a figure per rail.

    Args:
        ask: returns rail -> J or W now; raises SensorError where it cannot.
        kind: "J" for counters, "W" for powers.
        sensor: what is known before it is watched; its update period is used where the figure
            does not change often enough to see it.
        component: what its joules are of.
        update_s: time between changes, if the user knows it, s; None watches for it.
    """

    ask: Callable[[], Mapping[str, float]]
    kind: Literal["J", "W"]
    sensor: Sensor
    component: Component = "machine"
    update_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What watching an instrument showed.

    Args:
        round_trip_s: longest time between question and reply, s.
        update_s: median time between changes of the figure, s; None where it hardly changed.
        step_j: smallest step of a counter, J; None where none moved.
    """

    round_trip_s: float
    update_s: float | None
    step_j: float | None


@dataclass(frozen=True, kw_only=True)
class _Reply:
    """What was answered, when and how fast."""

    time_s: float
    round_trip_s: float
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Nameable:
    """The kind of a meter that must be told what to read.

    Args:
        named: returns the kind that reads what the argument names; raises UsageError.
        hint: in one line, how to name it.
        grade: of its joules, unless the argument says otherwise.
        component: what they are of, unless the argument says otherwise.
    """

    named: Callable[[str], NamedInstrument]
    hint: str
    grade: Grade
    component: Component

    def probe(self) -> str | None:
        """Return why it does not work by itself."""
        return self.hint

    def attach(self, pids: Sequence[int], host: Host) -> Meter:  # noqa: ARG002
        """Refuse: it must be named."""
        raise SensorError(self.hint)


@dataclass(frozen=True, kw_only=True)
class NamedInstrument:
    """The kind of meter that reads one instrument, which is found and watched once.

    Args:
        find: asks it for the first time; raises SensorError where it cannot be read.
        grade: of its joules.
        component: what they are of.
    """

    find: Callable[[], Instrument]
    grade: Grade
    component: Component

    def probe(self) -> None:
        """Leave it to `attach`, which asks."""

    def attach(self, pids: Sequence[int], host: Host) -> PolledMeter:  # noqa: ARG002
        """Open the instrument; its joules are those of all that it feeds."""
        return PolledMeter(*self._watched)

    @cached_property
    def _watched(self) -> tuple[Instrument, Watched]:
        instrument = self.find()
        return instrument, watch(instrument)


class PolledMeter:
    """Count the joules of an instrument's rails.

    `idle_w` is None until the caller sets it.

    Args:
        instrument: what is asked.
        watched: what watching it showed.
        clock: monotonic time, s; another function in tests.

    Raises:
        SensorError: it cannot be read.
    """

    def __init__(
        self,
        instrument: Instrument,
        watched: Watched,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = instrument.ask
        self._now = instrument.ask()
        self.sensor = _refined(instrument, watched, tuple(self._now))
        self.component = instrument.component
        self.idle_w: float | None = None
        rails = [
            Rail(name=name, unit=instrument.kind, read=partial(self._value, name))
            for name in self._now
        ]
        self._reader = RailReader(
            rails,
            period_s=_sample_s(instrument.kind, self.sensor.update_period_s),
            clock=clock,
            refresh=self._refresh,
        )

    def read(self) -> Reading:
        """Return the joules of each rail since the meter was opened.

        Raises:
            SensorError: the instrument does not answer, a counter was reset, or a power was not
                sampled in time.
        """
        return self._reader.read()

    def close(self) -> None:
        """End the sampling."""
        self._reader.close()

    def _refresh(self) -> None:
        fresh = self._ask()
        if set(fresh) != set(self._now):
            changed = ", ".join(sorted(set(fresh) ^ set(self._now)))
            raise SensorError(
                f"{self.sensor.name}: {changed} came or went while measuring, so joules are "
                "missing; measure again"
            )
        self._now = fresh

    def _value(self, rail: str) -> float:
        return self._now[rail]


def watch(
    instrument: Instrument,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Watched:
    """Ask an instrument until its pace is known, or is not seen within the stated one.

    Args:
        instrument: what is asked; once only where the user knows its update period.
        clock: monotonic time, s; another function in tests.
        sleep: waits that long, s; another function in tests.

    Raises:
        SensorError: it cannot be read.
    """
    stated_s = instrument.sensor.update_period_s or 0.0
    patience_s = 0.0 if instrument.update_s else min((CHANGES + 1) * stated_s, WATCH_S)
    replies = [_timed(instrument, clock)]
    changes_s: list[float] = []
    while len(changes_s) < CHANGES and replies[-1].time_s - replies[0].time_s < patience_s:
        sleep(max(ASK_S, stated_s / ASK_PART))
        replies.append(_timed(instrument, clock))
        if replies[-1].figures != replies[-2].figures:
            changes_s.append(replies[-1].time_s)
    gaps_s = [after - before for before, after in pairwise(changes_s)]
    return Watched(
        round_trip_s=max(reply.round_trip_s for reply in replies),
        update_s=statistics.median(gaps_s) if len(changes_s) == CHANGES else None,
        step_j=_step_j([reply.figures for reply in replies]) if instrument.kind == "J" else None,
    )


def unit_called(name: str, meter: str) -> Unit:
    """Return the unit of that name.

    Args:
        name: as in UNITS.
        meter: name of the meter, for the message.

    Raises:
        UsageError: there is no such unit.
    """
    if name not in UNITS:
        raise UsageError(f"{meter}: unit={name} is unknown; choose from: {', '.join(UNITS)}")
    return UNITS[name]


def seconds_called(text: str | None, meter: str) -> float | None:
    """Return the update period that the user named, s; None where there is none.

    Args:
        text: what follows ``update_s=``.
        meter: name of the meter, for the message.

    Raises:
        UsageError: it is no time above 0.
    """
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{meter}: update_s={text} is no time above 0; write e.g. update_s=2")
    return seconds


def pick(reply: object, path: str, where: str) -> object:
    """Return a field of a JSON reply.

    Args:
        reply: what was answered.
        path: names and list indices with dots between: ``StatusSNS.ENERGY.Power``.
        where: who answered, for the message.

    Raises:
        SensorError: there is no such field; the message names those there are.
    """
    found = reply
    for name in path.split("."):
        fields = _fields(found)
        if name not in fields:
            there = ", ".join(fields) or "none"
            raise SensorError(f"{where} has no field {path}: no {name} among its fields {there}")
        found = fields[name]
    return found


def has(reply: object, path: str) -> bool:
    """Say whether a JSON reply has a field.

    Args:
        reply: what was answered.
        path: see pick.
    """
    for name in path.split("."):
        fields = _fields(reply)
        if name not in fields:
            return False
        reply = fields[name]
    return True


def number(value: object, name: str, where: str) -> float:
    """Return a figure that may have been sent as a text.

    Args:
        value: what was answered.
        name: the field, for the message.
        where: who answered, for the message.

    Raises:
        SensorError: it is no finite number.
    """
    if isinstance(value, (int, float, Decimal, str)) and not isinstance(value, bool):
        try:
            figure = float(value)
        except (ValueError, OverflowError):
            figure = math.nan
        if math.isfinite(figure):
            return figure
    raise SensorError(f"{where} gives no number for {name} but {str(value)[:40]!r}; is it on?")


def _fields(value: object) -> Mapping[str, object]:
    """Return what is inside a JSON value, by name or index."""
    if isinstance(value, dict):
        return {str(name): inside for name, inside in value.items()}
    if isinstance(value, list):
        return {str(index): inside for index, inside in enumerate(value)}
    return {}


def _timed(instrument: Instrument, clock: Callable[[], float]) -> _Reply:
    asked_s = clock()
    figures = instrument.ask()
    answered_s = clock()
    return _Reply(
        time_s=(asked_s + answered_s) / 2, round_trip_s=answered_s - asked_s, figures=figures
    )


def _step_j(replies: list[Mapping[str, float]]) -> float | None:
    """Return the smallest step that a counter made."""
    steps = [
        after[rail] - before[rail]
        for before, after in pairwise(replies)
        for rail in before
        if after.get(rail, -math.inf) > before[rail]
    ]
    return min(steps, default=None)


def _sample_s(kind: Literal["J", "W"], update_s: float | None) -> float:
    """Return how often it is asked: a power twice per update, a counter to notice a reset, s."""
    least_s, most_s = SAMPLE_S
    return most_s if kind == "J" else min(max((update_s or 0.0) / 2, least_s), most_s)


def _refined(instrument: Instrument, watched: Watched, rails: tuple[str, ...]) -> Sensor:
    """Return the sensor with its pace, and its band widened by what a reply's delay adds.

    A value was true within half a round trip of the middle, so a window between two of them is off
    by one round trip at the most: that part of the shortest good window.
    """
    sensor = instrument.sensor
    known_s = instrument.update_s or watched.update_s or sensor.update_period_s or SAMPLE_S[0]
    update_s = max(known_s, SAMPLE_S[0]) if instrument.kind == "W" else known_s
    part = min(watched.round_trip_s / (UPDATES * update_s), 0.5)
    origin = "as named" if instrument.update_s else "as seen" if watched.update_s else "as stated"
    return replace(
        sensor,
        rails=rails,
        resolution_j=sensor.resolution_j if sensor.resolution_j is not None else watched.step_j,
        update_period_s=update_s,
        low_ratio=sensor.low_ratio * (1 - part),
        high_ratio=sensor.high_ratio * (1 + part),
        pair_ratio=sensor.pair_ratio * (1 + part),
        source=(
            f"{sensor.source}; update period {origin}, replies within "
            f"{1000 * watched.round_trip_s:.0f} ms"
        ),
    )
