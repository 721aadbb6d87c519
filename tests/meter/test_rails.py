from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import SensorError
from joulewise.meter.rails import LAG_S, MAX_LATE_PERIODS, Rail, RailReader, UnansweredError
from tests.clock import FAR_S, Clock


class Source:
    """A rail whose value the test sets."""

    def __init__(self, unit: Literal["J", "W"], value: float = 0.0) -> None:
        self.value = value
        self.rail = Rail(name="rail", unit=unit, read=lambda: self.value)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def power(clock: Clock) -> Iterator[tuple[Source, RailReader]]:
    source = Source("W", 10.0)
    reader = RailReader([source.rail], period_s=FAR_S, clock=clock)
    yield source, reader
    reader.close()


@given(steps=st.lists(st.tuples(st.floats(0.0, 10.0), st.floats(0.0, 500.0)), max_size=20))
def test_windows_of_sampled_power_add_up_to_the_whole(steps: list[tuple[float, float]]) -> None:
    clock, source = Clock(), Source("W", 100.0)
    often = RailReader([source.rail], period_s=FAR_S, clock=clock)
    expected_j, before = 0.0, 100.0
    for passed_s, source.value in steps:
        clock.now_s += passed_s
        often.read()
        expected_j += (before + source.value) / 2 * passed_s
        before = source.value
    assert often.read().total_j == pytest.approx(expected_j, abs=1e-9)
    often.close()


def test_counter_starts_at_zero(clock: Clock) -> None:
    source = Source("J", 1234.5)
    reader = RailReader([source.rail], period_s=None, clock=clock)
    assert reader.read().total_j == 0.0
    source.value += 2.5
    assert reader.read().total_j == pytest.approx(2.5)


def test_counter_that_fell_stays_an_error(clock: Clock) -> None:
    source = Source("J", 10.0)
    reader = RailReader([source.rail], period_s=None, clock=clock)
    source.value = 9.0
    with pytest.raises(SensorError, match=r"fell from 10\.000 to 9\.000 J"):
        reader.read()
    source.value = 11.0
    with pytest.raises(SensorError, match="fell from 10"):
        reader.read()


def test_negative_power_is_an_error(power: tuple[Source, RailReader]) -> None:
    source, reader = power
    source.value = -1.0
    with pytest.raises(SensorError, match="less than 0 W"):
        reader.read()


def test_gap_between_samples_is_an_error(clock: Clock, power: tuple[Source, RailReader]) -> None:
    _, reader = power
    clock.now_s = MAX_LATE_PERIODS * FAR_S * 1.01
    with pytest.raises(SensorError, match="was not sampled for"):
        reader.read()


def test_thread_ends_at_the_first_failure_and_the_caller_hears_of_it() -> None:
    calls = 0

    def fail() -> float:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise SensorError("gone")
        return 0.0

    reader = RailReader([Rail(name="rail", unit="J", read=fail)], period_s=0.001)
    with pytest.raises(SensorError, match="gone"):
        reader.read()
    reader.close()


def test_counter_that_rose_faster_than_its_limit_stays_an_error(clock: Clock) -> None:
    source = Source("J")
    reader = RailReader([replace(source.rail, limit_w=100.0)], period_s=None, clock=clock)
    clock.now_s, source.value = 1.0, 100.0 * (1.0 + LAG_S)
    assert reader.read().total_j == pytest.approx(110.0)
    clock.now_s, source.value = 2.0, source.value + 111.0
    for clock.now_s in (2.0, 1000.0):
        with pytest.raises(SensorError, match=r"rose by 111\.000 J, which nothing draws in 1\.1 s"):
            reader.read()


def test_thread_asks_again_where_there_was_no_answer() -> None:
    asked, answered = 0, threading.Event()

    def ask() -> float:
        nonlocal asked
        asked += 1
        if 2 <= asked <= 7:
            raise UnansweredError("nobody answers")
        if asked > 7:
            answered.set()
        return 5.0

    reader = RailReader([Rail(name="rail", unit="J", read=ask)], period_s=0.001)
    assert answered.wait(timeout=10.0)
    assert reader.read().total_j == 0.0
    reader.close()
