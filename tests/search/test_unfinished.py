from __future__ import annotations

from pathlib import Path

import pytest

from joulewise.core.energy import Interval
from joulewise.meter.bill import Bill
from joulewise.search import unfinished
from joulewise.search.unfinished import CAUSE, Spent, Unfinished
from tests.meter.test_bill import Purse

TEN = Interval(low=5.0, central=10.0, high=20.0)
TWENTY = Interval(low=10.0, central=20.0, high=40.0)


@pytest.fixture
def purse() -> Purse:
    return Purse()


@pytest.fixture(autouse=True)
def always_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "BEAT_S", 0.0)


def opened(folder: Path, bill: Bill, *finished: str) -> Unfinished:
    return Unfinished(folder, bill, finished.__contains__)


def test_a_trial_that_comes_to_its_end_leaves_nothing(tmp_path: Path, purse: Purse) -> None:
    bill = Bill(purse)
    with opened(tmp_path, bill).trial("a"):
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
            spend_and_fail(opened(tmp_path, bill), purse, error)
        assert bill.stages_j[CAUSE].central == 10.0 * times
    later = Bill(purse)
    opened(tmp_path, later)
    assert later.stages_j == {CAUSE: TWENTY}


def spend_and_fail(kept: Unfinished, purse: Purse, error: type[BaseException]) -> None:
    with kept.trial("a"):
        purse.spent_j += 10.0
        raise error


def test_after_a_kill_what_was_noted_is_billed(tmp_path: Path, purse: Purse) -> None:
    killed = opened(tmp_path, Bill(purse))
    trial = killed.trial("a")
    trial.__enter__()
    purse.spent_j += 10.0
    killed.note()
    purse.spent_j += 1.0  # and no note of it
    for _ in range(2):
        later = Bill(purse)
        opened(tmp_path, later)
        assert later.stages_j == {CAUSE: TEN}


def test_what_was_killed_when_its_trial_was_finished_is_not_billed_twice(
    tmp_path: Path, purse: Purse
) -> None:
    killed = opened(tmp_path, Bill(purse))
    trial = killed.trial("a")
    trial.__enter__()
    purse.spent_j += 10.0
    killed.note()
    later = Bill(purse)
    opened(tmp_path, later, "a")
    assert later.stages_j == {}


def test_the_note_of_a_trial_that_ended_is_not_that_of_the_next(
    tmp_path: Path, purse: Purse
) -> None:
    killed = opened(tmp_path, Bill(purse))
    with killed.trial("a"):
        purse.spent_j += 10.0
        killed.note()
    trial = killed.trial("b")
    trial.__enter__()
    purse.spent_j += 20.0
    killed.note()
    later = Bill(purse)
    opened(tmp_path, later, "a")
    assert later.stages_j == {CAUSE: TWENTY}


def test_notes_are_not_made_too_often(
    tmp_path: Path, purse: Purse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "BEAT_S", 1e9)
    kept = opened(tmp_path, Bill(purse))
    kept.note()  # no trial is open
    with kept.trial("a"):
        kept.note()
        assert not list(tmp_path.iterdir())


def test_what_others_lost_is_billed_once(tmp_path: Path, purse: Purse) -> None:
    """A worker dies: its note goes in the same moment as the loss is kept."""
    ten = Spent(joules=TEN, seconds=1.0)
    bill = Bill(purse)
    kept = opened(tmp_path, bill)
    kept.note_elsewhere({"a": ten, "b": ten})
    kept.lost("a", ten)
    assert bill.stages_j == {CAUSE: TEN}
    later = Bill(purse)
    opened(tmp_path, later, "b")
    assert later.stages_j == {CAUSE: TEN}
