from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.energy import Sensor
from joulewise.core.errors import SensorError, UsageError
from joulewise.meter.interleave import MIN_UPDATES_PER_BLOCK, least_block_s
from joulewise.meter.polled import (
    UNITS,
    UPDATES,
    Instrument,
    PolledMeter,
    Watched,
    has,
    number,
    pick,
    seconds_called,
    unit_called,
    watch,
)
from joulewise.meter.rails import UnansweredError
from tests.clock import Clock

QUICK = Watched(round_trip_s=0.0, update_s=1.0, step_j=None)

SENSOR = Sensor(
    name="polled",
    grade="A",
    boundary="the fake",
    rails=(),
    includes_idle=True,
    resolution_j=None,
    update_period_s=1.0,
    low_ratio=0.9,
    high_ratio=1.1,
    pair_ratio=1.0,
    source="a test",
)


class Source:
    """An instrument on a machine whose power is known, slow to renew and slow to answer."""

    def __init__(
        self,
        kind: Literal["J", "W"],
        watts: Callable[[float], float],
        *,
        period_s: float = 1.0,
        delay_s: float = 0.0,
    ) -> None:
        self.clock = Clock()
        self.kind: Literal["J", "W"] = kind
        self.watts = watts
        self.period_s = period_s
        self.delay_s = delay_s

    def ask(self) -> Mapping[str, float]:
        self.clock.now_s += self.delay_s / 2
        renewed_s = math.floor(self.clock.now_s / self.period_s) * self.period_s
        self.clock.now_s += self.delay_s / 2
        value = self.watts(renewed_s)
        return {"rail": value}

    def instrument(self, update_s: float | None = None) -> Instrument:
        return Instrument(ask=self.ask, kind=self.kind, sensor=SENSOR, update_s=update_s)

    def sleep(self, seconds: float) -> None:
        self.clock.now_s += seconds


def meter_of(
    ask: Callable[[], Mapping[str, float]], clock: Clock, kind: Literal["J", "W"] = "J"
) -> PolledMeter:
    return PolledMeter(Instrument(ask=ask, kind=kind, sensor=SENSOR), QUICK, clock=clock)


@settings(deadline=None, max_examples=40)
@given(period_s=st.floats(0.3, 1.2), delay_s=st.floats(0.0, 0.15))
def test_update_period_is_seen(period_s: float, delay_s: float) -> None:
    source = Source("J", lambda t: 50 * t, period_s=period_s, delay_s=delay_s)
    watched = watch(source.instrument(), clock=source.clock, sleep=source.sleep)
    assert watched.update_s == pytest.approx(period_s, abs=0.2 + delay_s)
    assert watched.round_trip_s == pytest.approx(delay_s)
    assert watched.step_j == pytest.approx(50 * period_s)


def test_figure_that_hardly_changes_has_no_pace() -> None:
    source = Source("W", lambda _t: 42.0)
    watched = watch(source.instrument(), clock=source.clock, sleep=source.sleep)
    assert (watched.update_s, watched.step_j) == (None, None)
    assert source.clock.now_s == pytest.approx(5.0, abs=0.3)
    sensor = PolledMeter(source.instrument(), watched, clock=source.clock).sensor
    assert sensor.update_period_s == 1.0
    assert "update period as stated" in sensor.source


def test_named_update_period_is_not_watched_for() -> None:
    source = Source("W", lambda t: t)
    watched = watch(source.instrument(update_s=7.0), clock=source.clock, sleep=source.sleep)
    assert source.clock.now_s == 0.0
    sensor = PolledMeter(source.instrument(update_s=7.0), watched, clock=source.clock).sensor
    assert sensor.update_period_s == 7.0
    assert least_block_s(sensor) == pytest.approx(700.0)


def test_slow_answers_widen_the_band_by_their_part_of_the_shortest_good_window() -> None:
    source = Source("J", lambda t: t)
    watched = Watched(round_trip_s=2.0, update_s=1.0, step_j=0.5)
    sensor = PolledMeter(source.instrument(), watched, clock=source.clock).sensor
    part = 2.0 / least_block_s(sensor)
    assert sensor.low_ratio == pytest.approx(0.9 * (1 - part))
    assert sensor.high_ratio == pytest.approx(1.1 * (1 + part))
    assert sensor.pair_ratio == pytest.approx(1 + part)
    assert sensor.resolution_j == 0.5
    assert sensor.rails == ("rail",)
    assert "replies within 2000 ms" in sensor.source


def test_updates_are_those_of_a_block() -> None:
    assert UPDATES == MIN_UPDATES_PER_BLOCK


@settings(deadline=None, max_examples=60)
@given(
    stretches=st.lists(
        st.tuples(st.floats(0.1, 5.0), st.floats(0.0, 300.0)), min_size=1, max_size=9
    )
)
def test_windows_of_a_counter_add_up_to_the_truth(stretches: list[tuple[float, float]]) -> None:
    clock, total_j = Clock(), 0.0
    meter = meter_of(lambda: {"rail": 1000.0 + total_j, "other": 7.0}, clock)
    spent_j = [0.0]
    for seconds, watts in stretches:
        clock.now_s += seconds
        total_j += watts * seconds
        spent_j.append(meter.read().total_j)
    steps_j = [after - before for before, after in pairwise(spent_j)]
    meter.close()
    truth_j = [watts * seconds for seconds, watts in stretches]
    assert steps_j == pytest.approx(truth_j, abs=1e-6)
    assert spent_j[1:] == pytest.approx(list(accumulate(truth_j)), abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(delay_s=st.floats(0.0, 1.0), waits=st.lists(st.floats(0.0, 3.0), min_size=1, max_size=6))
def test_reading_is_true_halfway_between_question_and_answer(
    delay_s: float, waits: list[float]
) -> None:
    """A counter that rises by 1 J/s, read halfway: its joules are the time of the reading."""
    clock = Clock()

    def ask() -> Mapping[str, float]:
        clock.now_s += delay_s / 2
        counted_j = clock.now_s
        clock.now_s += delay_s / 2
        return {"rail": counted_j}

    meter = meter_of(ask, clock)
    first = meter.read()
    for wait_s in waits:
        clock.now_s += wait_s
        reading = meter.read()
        passed_s = reading.time_s - first.time_s
        assert reading.total_j - first.total_j == pytest.approx(passed_s, abs=1e-9)
    meter.close()


class Flaky:
    """Fails as often as it is told to, then counts on."""

    def __init__(self) -> None:
        self.failures = 0
        self.total_j = 0.0

    def ask(self) -> Mapping[str, float]:
        if self.failures:
            self.failures -= 1
            raise UnansweredError("nobody answers")
        return {"rail": self.total_j}


def test_counter_that_did_not_answer_has_lost_nothing() -> None:
    source, clock = Flaky(), Clock()
    meter = meter_of(source.ask, clock)
    source.total_j, source.failures = 5.0, 1
    assert meter.read().total_j == 5.0
    source.total_j, source.failures = 8.0, 2
    with pytest.raises(UnansweredError, match="nobody answers"):
        meter.read()
    assert meter.read().total_j == 8.0
    meter.close()


def test_power_that_was_not_answered_for_long_is_an_error() -> None:
    source, clock = Flaky(), Clock()
    meter = meter_of(source.ask, clock, "W")
    source.failures, clock.now_s = 2, 15.0
    with pytest.raises(UnansweredError):
        meter.read()
    clock.now_s = 30.0
    with pytest.raises(SensorError, match=r"not sampled for 30\.0 s"):
        meter.read()
    meter.close()


def test_counter_that_was_reset_stays_an_error() -> None:
    source, clock = Flaky(), Clock()
    source.total_j = 100.0
    meter = meter_of(source.ask, clock)
    source.total_j = 1.0
    for _ in range(2):
        with pytest.raises(SensorError, match=r"fell from 100\.000 to 1\.000 J"):
            meter.read()
        source.total_j = 200.0
    meter.close()


@pytest.mark.parametrize("later", [{"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 0.0}])
def test_rail_that_comes_or_goes_is_an_error(later: dict[str, float]) -> None:
    replies = [{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, later]
    meter = meter_of(lambda: replies.pop(0), Clock())
    with pytest.raises(SensorError, match=r"[bc] came or went while measuring"):
        meter.read()
    meter.close()


REPLY = {"a": {"b": [{"c": "12.5"}], "flag": True}, "total": Decimal("0.001")}


def test_field_of_a_reply() -> None:
    assert pick(REPLY, "a.b.0.c", "here") == "12.5"
    assert has(REPLY, "a.b.0.c")
    assert not has(REPLY, "a.b.1.c")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a.x", "here has no field a.x: no x among its fields b, flag"),
        ("a.b.1", "no 1 among its fields 0"),
        ("total.x", "no x among its fields none"),
    ],
)
def test_missing_field_names_those_there_are(path: str, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        pick(REPLY, path, "here")


@pytest.mark.parametrize("value", [5, 5.0, "5", " 5.0 ", Decimal(5)])
def test_number_may_be_a_text(value: object) -> None:
    assert number(value, "power", "here") == 5.0


@pytest.mark.parametrize("value", [True, None, "", "on", "NaN", "inf", math.nan, [1], {}, 10**400])
def test_no_number(value: object) -> None:
    with pytest.raises(SensorError, match="here gives no number for power but"):
        number(value, "power", "here")


def test_units() -> None:
    assert unit_called("kWh", "plug").factor == 3.6e6
    assert {unit.kind for unit in UNITS.values()} == {"J", "W"}
    with pytest.raises(UsageError, match="unit=BTU is unknown; choose from: W, mW"):
        unit_called("BTU", "plug")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_update_period_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="no time above 0"):
        seconds_called(text, "plug")
