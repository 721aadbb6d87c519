from __future__ import annotations

from pathlib import Path

import pytest

from joulewise.core.energy import Interval
from joulewise.meter.bill import Bill
from joulewise.search import unfinished
from joulewise.search.unfinished import CAUSE, Unfinished
from tests.meter.test_bill import Purse

TEN = Interval(low=5.0, central=10.0, high=20.0)


@pytest.fixture
def purse() -> Purse:
    return Purse()


def test_a_trial_that_comes_to_its_end_leaves_nothing(tmp_path: Path, purse: Purse) -> None:
    bill = Bill(purse)
    with Unfinished(tmp_path, bill).trial():
        purse.spent_j += 10.0
    assert bill.stages_j == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_one_that_is_broken_off_is_billed_now_and_whenever_the_run_goes_on(
    tmp_path: Path, purse: Purse, error: type[BaseException]
) -> None:
    for times in (1, 2):
        bill = Bill(purse)
        with pytest.raises(error):
            spend_and_fail(Unfinished(tmp_path, bill), purse, error)
        assert bill.stages_j[CAUSE].central == 10.0 * times
    later = Bill(purse)
    Unfinished(tmp_path, later)
    assert later.stages_j == {CAUSE: Interval(low=10.0, central=20.0, high=40.0)}


def spend_and_fail(kept: Unfinished, purse: Purse, error: type[BaseException]) -> None:
    with kept.trial():
        purse.spent_j += 10.0
        raise error


def test_after_a_kill_what_was_noted_is_billed(
    tmp_path: Path, purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "BEAT_S", 0.0)
    killed = Unfinished(tmp_path, Bill(purse))
    trial = killed.trial()
    trial.__enter__()
    purse.spent_j += 10.0
    killed.note()
    purse.spent_j += 1.0  # and no note of it
    for _ in range(2):
        later = Bill(purse)
        Unfinished(tmp_path, later)
        assert later.stages_j == {CAUSE: TEN}


def test_notes_are_not_made_too_often(tmp_path: Path, purse: Purse) -> None:
    kept = Unfinished(tmp_path, Bill(purse))
    kept.note()  # no trial is open
    with kept.trial():
        kept.note()
        assert not list(tmp_path.iterdir())
