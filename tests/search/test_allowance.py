from __future__ import annotations

import math
from dataclasses import replace

import pytest

from joulewise.core.claim import Trial
from joulewise.core.energy import Interval
from joulewise.core.settings import Budget
from joulewise.meter.bill import Bill
from joulewise.search.allowance import LEAST_TEACHING_S, Allowance, BudgetEndedError
from tests.meter.test_bill import Purse
from tests.trials import AS_FOUND, int8, measured

KEPT_S = 40.0
FOUND = replace(measured(AS_FOUND, 1.0), seconds=8.0, made_s=0.0)
QUANTIZED = replace(measured(int8(), 0.5), seconds=12.0, made_s=6.0)


def allowance(now_s: float, *, max_s: float | None = None, max_j: float | None = None) -> Allowance:
    """Return what is left `now_s` after the beginning, of a run that has drawn 5 W for 20 s."""
    bill = Bill(Purse())
    bill.add("baseline", Interval(low=50.0, central=100.0, high=200.0), 20.0)
    budget = Budget(max_s=max_s, max_j=max_j)
    return Allowance(budget, bill, keep, began_s=1000.0, clock=lambda: 1000.0 + now_s)


def keep(trial: Trial) -> float:
    assert trial is FOUND
    return KEPT_S


def test_without_a_budget_nothing_ends() -> None:
    left = allowance(1e9)
    assert left.left_s == math.inf
    assert left.for_trial([FOUND], teaches=True) == math.inf


def test_seconds_and_joules_both_count() -> None:
    assert allowance(20.0, max_s=180.0).left_s == 160.0
    assert allowance(20.0, max_j=600.0).left_s == 100.0  # 500 J at 5 W
    assert allowance(20.0, max_s=180.0, max_j=600.0).left_s == 100.0
    assert allowance(20.0, max_s=60.0, max_j=600.0).left_s == 40.0


def test_the_final_test_and_the_measuring_of_the_trial_are_kept() -> None:
    assert allowance(20.0, max_s=180.0).for_trial([FOUND], teaches=False) == 160.0 - KEPT_S - 8.0


def test_the_model_as_found_is_always_tried() -> None:
    assert allowance(20.0, max_s=1.0).for_trial([], teaches=False) == -19.0


def test_what_trained_for_long_does_not_keep_out_what_does_not_train() -> None:
    taught = replace(measured(int8("distill"), 0.3), seconds=400.0, made_s=392.0)
    left = allowance(0.0, max_s=100.0)
    assert left.for_trial([FOUND, taught], teaches=False) == 100.0 - KEPT_S - 8.0


@pytest.mark.parametrize(("left_s", "begins"), [(55.0, True), (53.0, False)])
def test_a_trial_begins_where_one_like_the_dearest_so_far_fits(left_s: float, begins: bool) -> None:
    left = allowance(0.0, max_s=left_s)
    if begins:
        assert left.for_trial([FOUND, QUANTIZED], teaches=False) == left_s - KEPT_S - 8.0
    else:
        with pytest.raises(BudgetEndedError):
            left.for_trial([FOUND, QUANTIZED], teaches=False)


def test_teaching_needs_time() -> None:
    enough = KEPT_S + 8.0 + LEAST_TEACHING_S
    found = allowance(0.0, max_s=enough + 1).for_trial([FOUND, QUANTIZED], teaches=True)
    assert found == LEAST_TEACHING_S + 1
    with pytest.raises(BudgetEndedError):
        allowance(0.0, max_s=enough - 1).for_trial([FOUND, QUANTIZED], teaches=True)
