from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.energy import Interval, Reading, Sensor
from joulewise.meter.bill import Bill

SENSOR = Sensor(
    name="fake",
    grade="D",
    boundary="a fake",
    rails=("cpu",),
    includes_idle=False,
    resolution_j=None,
    update_period_s=None,
    low_ratio=0.5,
    high_ratio=2.0,
    pair_ratio=1.1,
    source="this file",
)


class Purse:
    """A meter that shows what was spent."""

    sensor = SENSOR
    idle_w: float | None = None
    spent_j = 0.0

    def read(self) -> Reading:
        return Reading(time_s=0.0, rails_j={"cpu": self.spent_j})

    def close(self) -> None:
        pass


@pytest.fixture
def purse() -> Purse:
    return Purse()


@pytest.fixture
def bill(purse: Purse) -> Bill:
    return Bill(purse)


def test_a_stage_is_billed_with_the_band(purse: Purse, bill: Bill) -> None:
    purse.spent_j = 100.0
    with bill.stage("trials"):
        purse.spent_j += 8.0
    assert bill.stages_j == {"trials": Interval(low=4.0, central=8.0, high=16.0)}
    assert bill.seconds["trials"] >= 0


def test_the_same_cause_adds_up_and_others_stay_apart(purse: Purse, bill: Bill) -> None:
    for cause, joules in (("trials", 8.0), ("proof", 1.0), ("trials", 2.0)):
        with bill.stage(cause):
            purse.spent_j += joules
    assert {cause: x.central for cause, x in bill.stages_j.items()} == {"trials": 10, "proof": 1}
    assert set(bill.seconds) == {"trials", "proof"}


def test_what_failed_is_billed_too(purse: Purse, bill: Bill) -> None:
    def fail() -> None:
        with bill.stage("trials"):
            purse.spent_j += 3.0
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        fail()
    assert bill.stages_j["trials"].central == 3.0


def test_between_stages_nothing_is_billed(purse: Purse, bill: Bill) -> None:
    with bill.stage("trials"):
        pass
    purse.spent_j += 5.0
    with bill.stage("trials"):
        purse.spent_j += 1.0
    assert bill.stages_j["trials"].central == 1.0


def test_a_counter_that_was_reset_is_no_income(purse: Purse, bill: Bill) -> None:
    purse.spent_j = 5.0
    with bill.stage("trials"):
        purse.spent_j = 1.0
    assert bill.stages_j["trials"].central == 0.0


def test_figures_of_an_interrupted_run_are_added(bill: Bill) -> None:
    for _ in range(2):
        bill.add("trials", Interval(low=1.0, central=2.0, high=4.0), 10.0)
    assert bill.stages_j["trials"] == Interval(low=2.0, central=4.0, high=8.0)
    assert bill.seconds["trials"] == 20.0


class Slow:
    """A counter of a constant power that is renewed now and then, in steps."""

    idle_w: float | None = None

    def __init__(self, watts: float, period_s: float, step_j: float) -> None:
        self.watts, self.now_s = watts, 0.0
        self.sensor = replace(
            SENSOR, low_ratio=1.0, high_ratio=1.0, update_period_s=period_s, resolution_j=step_j
        )

    def read(self) -> Reading:
        period_s, step_j = self.sensor.update_period_s or 1.0, self.sensor.resolution_j or 1.0
        true_j = math.floor(self.now_s / period_s) * period_s * self.watts
        return Reading(time_s=self.now_s, rails_j={"cpu": math.floor(true_j / step_j) * step_j})

    def close(self) -> None:
        pass


@given(
    watts=st.floats(1.0, 300.0),
    period_s=st.floats(1e-3, 10.0),
    step_j=st.floats(1e-5, 1.0),
    stages=st.lists(st.floats(0.01, 300.0), min_size=1, max_size=6),
)
def test_short_stages_of_a_slow_meter_are_covered(
    watts: float, period_s: float, step_j: float, stages: list[float]
) -> None:
    meter = Slow(watts, period_s, step_j)
    bill = Bill(meter)
    meter.now_s += 2 * period_s + step_j / watts  # its mean power is known a little by now
    for number, updates in enumerate(stages):
        with bill.stage(str(number)):
            meter.now_s += updates * period_s
        spent, true_j = bill.stages_j[str(number)], updates * period_s * watts
        assert spent.low <= true_j * (1 + 1e-9) + 1e-9
        assert spent.high >= true_j * (1 - 1e-9) - 1e-9


def test_stages_of_100_updates_are_widened_by_2_percent() -> None:
    meter = Slow(10.0, 1.0, 1e-9)
    bill = Bill(meter)
    with bill.stage("long"):
        meter.now_s += 100.0
    spent = bill.stages_j["long"]
    assert (spent.low, spent.high) == pytest.approx((980.0, 1020.0))
