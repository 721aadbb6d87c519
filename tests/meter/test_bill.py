from __future__ import annotations

import pytest

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
