"""kill -9 at random moments of every stage: nothing finished is lost, and nothing counts twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from joulewise.bundle import file_checks, open_bundle
from joulewise.core.energy import Interval
from tests.cli.test_interrupt import (
    Run,
    finished,
    finished_so_far,
    nothing_left,
    same_trials_once,
    started,
)
from tests.models import Job, make_wide

KILLS = 30
LESSONS, EPOCHS = 2000, 40
"""Enough for a trainer to be at work for a second or two."""

TRAINER = "joulewise.compress.worker"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc"),
]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Return a job on which int8 pays, so that there is a proof."""
    return make_wide(tmp_path_factory.mktemp("job"), lessons=LESSONS)


@dataclass(kw_only=True)
class Ordeal:
    """One job that is killed again and again until it is done.

    Args:
        job: what to optimize.
        output: where the bundle goes.
        moments: where the moments come from.
        known: number, recipe and record of the trials that were seen finished.
        kills: of whom, and at which stage.
    """

    job: Job
    output: Path
    moments: random.Random
    known: list[tuple[int, str, str]] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)

    @property
    def work(self) -> Path:
        return self.output.with_name(f"{self.output.name}.work")

    def go_on(self, stage: str) -> None:
        """Run until `stage`, kill what it says at a random moment of it, and look what is there."""
        lessons = self.job.data.with_name("lessons.npz")
        more = ("--train", lessons, "--epochs", EPOCHS)
        resume = self.work.exists()
        with started(self.job, self.output, resume=resume, lossless=False, more=more) as run:
            if STAGES[stage](self, run):
                self.kills[stage] += 1
            run.process.kill()
            run.process.wait()
            assert nothing_left(run), run.alive()
        if not self.output.exists():
            assert run.process.returncode == -signal.SIGKILL, stage
        self.look()

    def look(self) -> None:
        """Compare the trials on disk with those that were seen before."""
        done = self.output.exists()
        copy = self.output.with_name("copy.db")
        now = finished(self.output / "study.db") if done else finished_so_far(self.work, copy)
        assert now[: len(self.known)] == self.known
        assert max(Counter(key for _, key, _ in now).values(), default=1) == 1
        if now and not done:
            with closing(sqlite3.connect(copy)) as base:
                assert base.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        self.known = now

    def pause(self, longest_s: float) -> None:
        time.sleep(self.moments.uniform(0.0, longest_s))


def lines(run: Run) -> Iterator[str]:
    """Yield what the program says on stderr, as it says it."""
    assert run.process.stderr is not None
    for line in run.process.stderr:  # noqa: UP028 - it would be closed with the generator
        yield line


def at_the_start(ordeal: Ordeal, run: Run) -> bool:
    """Wait while it imports, reads, or opens the study."""
    ordeal.pause(3.0)
    return run.process.poll() is None


def said(words: str, longest_s: float) -> Callable[[Ordeal, Run], bool]:
    """Return what waits until the program has said `words`, and then for a while."""

    def wait(ordeal: Ordeal, run: Run) -> bool:
        if not any(line.startswith(words) for line in lines(run)):
            return False
        ordeal.pause(longest_s)
        return run.process.poll() is None

    return wait


def in_a_trial(ordeal: Ordeal, run: Run) -> bool:
    """Wait for another trial to be finished, and then for a while."""
    if not any(line.startswith(f"[{len(ordeal.known) + 1:2}/") for line in lines(run)):
        return False
    ordeal.pause(0.5)
    return run.process.poll() is None


def while_training(ordeal: Ordeal, run: Run) -> bool:
    """Wait until a trainer tells how far it is."""
    if not any(" epoch " in line for line in lines(run)):
        return False
    ordeal.pause(0.2)
    return run.process.poll() is None


def the_trainer(ordeal: Ordeal, run: Run) -> bool:
    """Kill the trainer alone; the program must go on with the next trial."""
    if not any(" epoch " in line for line in lines(run)):
        return False
    ordeal.pause(0.2)
    trainers = [pid for pid, command in run.processes() if TRAINER in command]
    for pid in trainers:
        with suppress(ProcessLookupError):  # it had just ended
            os.kill(pid, signal.SIGKILL)
    went_on = any(line.startswith("[") for line in lines(run))
    assert went_on or run.process.wait() == 0
    return bool(trainers)


def in_the_bundle(ordeal: Ordeal, run: Run) -> bool:
    """Wait until the bundle is being written."""
    while run.process.poll() is None:
        if (ordeal.work / "bundle").exists():
            ordeal.pause(0.2)
            return True
        time.sleep(0.002)
    return False


def in_the_end(_: Ordeal, run: Run) -> bool:
    """Let it come to its end."""
    stderr = run.end()[1]
    assert run.process.returncode == 0, stderr
    return False


STAGES: dict[str, Callable[[Ordeal, Run], bool]] = {
    "at the start": at_the_start,
    "while reading": said("reading", 0.5),
    "before a trial": said("trying", 0.8),
    "in a trial": in_a_trial,
    "while training": while_training,
    "the trainer": the_trainer,
    "in the proof": said("proving", 1.0),
    "in the bundle": in_the_bundle,
    "in the end": in_the_end,
}

ORDER = (
    *["at the start", "while reading", "before a trial", "in a trial"] * 2,
    *["at the start", "in a trial", "in a trial", "while training", "the trainer"],
    *["in the proof"] * 2,
    "in the bundle",
)
"""Stages of the kills of one job, after which it may end; where the kills are too few by then,
another job follows."""


def test_kills_at_thirty_moments_lose_no_finished_trial(job: Job, tmp_path: Path) -> None:
    kills: Counter[str] = Counter()
    moments = random.Random(20)
    for number in count():
        ordeal = Ordeal(job=job, output=tmp_path / f"out-{number}", moments=moments)
        for stage in (*ORDER, "in the end"):
            ordeal.go_on(stage)
            if ordeal.output.exists():
                break
        check_bundle(ordeal)
        kills += ordeal.kills
        if kills.total() >= KILLS:
            break
    assert set(kills) == {*STAGES} - {"in the end"}, kills


def check_bundle(ordeal: Ordeal) -> None:
    """Check what a bundle promises, and that its ledger has each cost once."""
    bundle = open_bundle(ordeal.output)
    assert all(check.holds for check in file_checks(ordeal.output, bundle))
    assert same_trials_once(ordeal.output / "study.db", ordeal.output)
    assert [key for _, key, _ in ordeal.known] == [
        json.dumps(trial.recipe.key) for trial in bundle.trials
    ]
    stages = bundle.ledger.stages_j
    lossless = [trial for trial in bundle.trials if trial.recipe.lossless]
    taught = [trial for trial in bundle.trials if "distill" in str(trial.recipe)]
    assert stages["baseline"].central == pytest.approx(total_j(x.cost_j for x in lossless))
    assert stages["training"].central == pytest.approx(total_j(x.made_j for x in taught))
    if ordeal.kills["while training"]:
        assert stages["interrupted"].central > 0


def total_j(costs: Iterable[Interval | None]) -> float:
    return sum(cost.central for cost in costs if cost is not None)


PROGRAM = "joulewise.export.worker"


def test_without_the_program_that_all_are_compared_with_no_trial_fails(
    job: Job, tmp_path: Path
) -> None:
    """It stays open throughout the search; what cannot be compared has not been tried."""
    output = tmp_path / "out"
    with started(job, output) as run:
        run.wait_for("[ 1/")
        programs = [pid for pid, command in run.processes() if PROGRAM in command]
        os.kill(min(programs), signal.SIGKILL)  # it was the first to be opened
        _, stderr = run.end()
        assert run.process.returncode == 1, stderr
        assert nothing_left(run)
    last = stderr.splitlines()[-1]
    assert last.startswith("joulewise: the program that all are compared with is gone")
    assert last.endswith("--resume")
    known = finished(tmp_path / "out.work" / "study.db")
    assert known
    with started(job, output, resume=True) as again:
        _, stderr = again.end()
        assert again.process.returncode == 0, stderr
    assert finished(output / "study.db")[: len(known)] == known
    assert {trial.state for trial in open_bundle(output).trials} == {"measured"}
