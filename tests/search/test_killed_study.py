"""A study is killed at every fifth statement that it sends to its base, and opened again.

One process forks another for each statement, so that the packages are imported once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

from joulewise.search.study import Study
from tests.trials import AS_FOUND, ONE_THREAD, int8, measured, rejected

ROOT = Path(__file__).parents[2]
IDENTITY = {"model": "a"}
TRIALS = (measured(AS_FOUND, 1.0), measured(ONE_THREAD, 0.9), rejected(int8()))
MOST_STATEMENTS, STRIDE = 3000, 5
LOADED_LATE = ("optuna.storages._rdb.storage", "alembic.command", "sqlalchemy.dialects.sqlite")
"""Modules that would be loaded in every process otherwise."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_a_study_killed_at_any_statement_opens_and_keeps_what_was_finished(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.search.test_killed_study", tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def run_through(folder: Path) -> None:
    """Open the study and finish what it lacks; ``finished`` lists what was finished for certain.

    Raises:
        AssertionError: something is lost, another than it was, or there twice.
    """
    study = Study(folder, IDENTITY)
    known = (folder / "finished").read_text().split() if (folder / "finished").exists() else []
    for trial in TRIALS:
        found = study.finished(trial.recipe)
        if found is None:
            if trial.recipe.key in known:
                raise AssertionError(f"{trial.recipe} was finished, and is lost")
            study.finish(study.begin(trial.recipe), trial)
            with (folder / "finished").open("a") as noted:
                print(trial.recipe.key, file=noted)
        elif found != trial:
            raise AssertionError(f"{trial.recipe} is another than was finished")
    kept = Counter(
        frozen.user_attrs["key"]
        for frozen in study._study.get_trials(deepcopy=False)
        if "trial" in frozen.user_attrs
    )
    if kept != Counter(trial.recipe.key for trial in TRIALS):
        raise AssertionError(f"not finished once each: {kept}")


def kill_at(statement: int) -> None:
    """Have this process killed right before a statement or commit, after so many others."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    left = [statement]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    for moment in ("before_cursor_execute", "commit"):
        event.listen(Engine, moment, count)


def forked(folder: Path, statement: int | None) -> int:
    """Run through the study in a process of its own; return its exit status."""
    child = os.fork()
    if child == 0:
        if statement is not None:
            kill_at(statement)
        status = 1
        try:
            run_through(folder)
            status = 0
        except Exception:  # noqa: BLE001 - the process ends without returning
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path) -> None:
    """Print how many statements there are; raises where a killed study could not go on."""
    for name in LOADED_LATE:
        import_module(name)
    for statement in range(0, MOST_STATEMENTS, STRIDE):
        place = folder / str(statement)
        place.mkdir()
        status = forked(place, statement)
        if status == 0:
            print(statement, flush=True)
            return
        if status != -signal.SIGKILL:
            raise AssertionError(f"statement {statement}: ended with {status}")
        if forked(place, None) != 0:
            raise AssertionError(f"statement {statement}: cannot go on")
    raise AssertionError("there is no end")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
