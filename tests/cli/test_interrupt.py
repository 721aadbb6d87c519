"""A run that was interrupted goes on, repeats nothing that was finished, and leaves no process."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.cli.program import FAST, ROOT, TIMEOUT_S
from tests.models import Job, make_job, make_wide

FIRST_TRIAL = "[ 1/"
MARK = "JOULEWISE_TEST_RUN"
PATIENCE_S = 20.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")


class Run:
    """One run of the program, and how to recognise its processes.

    Args:
        job: what to optimize.
        output: where the bundle goes.
        resume: go on with an interrupted run.
        lossless: try no changed models.
        more: options.
    """

    def __init__(
        self,
        job: Job,
        output: Path,
        *,
        resume: bool = False,
        lossless: bool = True,
        more: Sequence[object] = (),
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [
                sys.executable, *FAST, "optimize", job.model, "--data", job.data, "-o", output,
                "--margin", "5", "--runtime", "onnxruntime", "--meter", "cpu-time",
                "--proposals", "1",
                *(["--resume"] if resume else []), *(["--lossless"] if lossless else []),
                *map(str, more),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, MARK: self.mark, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def wait_for(self, start: str) -> None:
        """Read stderr until a line begins with `start`."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(start):
                return
        raise AssertionError(f"the program ended before it said {start!r}")

    def end(self) -> tuple[str, str]:
        """Wait for the end and return the rest of stdout and stderr."""
        return self.process.communicate(timeout=TIMEOUT_S)

    def alive(self) -> list[str]:
        """Return the command lines of processes of this run that still live."""
        return [command for _, command in self.processes()]

    def processes(self) -> list[tuple[int, str]]:
        """Return id and command line of each process of this run that still lives."""
        mark, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (folder / "environ").read_bytes():
                    command = (folder / "cmdline").read_text().replace("\0", " ")
                    found.append((int(folder.name), command))
            except OSError:
                continue
        return found


@contextmanager
def started(
    job: Job,
    output: Path,
    *,
    resume: bool = False,
    lossless: bool = True,
    more: Sequence[object] = (),
) -> Iterator[Run]:
    run = Run(job, output, resume=resume, lossless=lossless, more=more)
    with run.process:
        try:
            yield run
        finally:
            run.process.kill()


def nothing_left(run: Run) -> bool:
    """Return whether all processes of a run are gone soon."""
    deadline_s = time.monotonic() + PATIENCE_S
    while run.alive():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


def finished(base: Path) -> list[tuple[int, str, str]]:
    """Return number, recipe key and record of the finished trials in a study, in order."""
    query = (
        "SELECT t.number, k.value_json, r.value_json FROM trials t "
        "JOIN trial_user_attributes k ON k.trial_id = t.trial_id AND k.key = 'key' "
        "JOIN trial_user_attributes r ON r.trial_id = t.trial_id AND r.key = 'trial' "
        "ORDER BY t.number"
    )
    with closing(sqlite3.connect(base)) as connection:
        return list(connection.execute(query))


def same_trials_once(base: Path, output: Path) -> bool:
    """Return whether a bundle holds each trial once and the study the same ones."""
    in_study = [json.loads(json.loads(record)) for _, _, record in finished(base)]
    told = json.loads((output / "joulewise.json").read_text())["trials"]
    once = max(Counter(key for _, key, _ in finished(base)).values()) == 1
    return once and [t["recipe"] for t in in_study] == [t["recipe"] for t in told]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), items=600)


def test_interrupted_run_goes_on_with_resume(job: Job, tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / "out.work"
    with started(job, output) as run:
        run.wait_for(FIRST_TRIAL)
        run.process.send_signal(signal.SIGINT)
        stdout, stderr = run.end()
        assert run.process.returncode == 130
        assert nothing_left(run)
    assert stdout == ""
    assert "Traceback" not in stderr
    last = stderr.splitlines()[-1]
    assert last.startswith("joulewise: interrupted; ")
    assert str(work) in last
    assert last.endswith("--resume")
    assert not output.exists()
    before = finished(work / "study.db")
    assert before

    with started(job, output) as refused:
        _, stderr = refused.end()
        assert refused.process.returncode == 2
    assert "go on with --resume" in stderr
    assert finished(work / "study.db") == before

    with started(job, output, resume=True) as again:
        stdout, stderr = again.end()
        assert again.process.returncode == 0, stderr
    assert not work.exists()
    assert finished(output / "study.db")[: len(before)] == before
    assert same_trials_once(output / "study.db", output)


def test_ctrl_c_ends_a_search_that_has_found_something(tmp_path: Path) -> None:
    """A second one ends the run, which can still go on."""
    job, output, work = make_wide(tmp_path / "job"), tmp_path / "out", tmp_path / "out.work"
    with started(job, output, lossless=False) as run:
        run.wait_for("[ 6/")  # four ways to run the original, and two models in int8
        run.process.send_signal(signal.SIGINT)
        run.wait_for("Ctrl-C ends the search")
        run.wait_for("proving")
        run.process.send_signal(signal.SIGINT)
        _, stderr = run.end()
        assert run.process.returncode == 130
    assert stderr.splitlines()[-1].endswith("--resume")
    before = finished(work / "study.db")

    with started(job, output, lossless=False, resume=True) as again:
        again.wait_for("[ 6/")
        again.process.send_signal(signal.SIGINT)
        _, stderr = again.end()
        assert again.process.returncode == 0, stderr
    assert "Ctrl-C ended the search before all was tried" in stderr
    assert finished(output / "study.db")[: len(before)] == before
    assert same_trials_once(output / "study.db", output)


def test_run_interrupted_before_its_first_trial_keeps_nothing(job: Job, tmp_path: Path) -> None:
    with started(job, tmp_path / "out") as run:
        run.wait_for("reading")
        run.process.send_signal(signal.SIGINT)
        stdout, stderr = run.end()
        assert run.process.returncode == 130
        assert nothing_left(run)
    assert stdout == ""
    assert stderr == "joulewise: interrupted before the first trial; nothing was kept\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_run_killed_at_any_moment_goes_on_and_leaves_no_process(job: Job, tmp_path: Path) -> None:
    output, work = tmp_path / "out", tmp_path / "out.work"
    moments = random.Random(7)
    known: list[tuple[int, str, str]] = []
    for number in range(3):
        with started(job, output, resume=number > 0) as run:
            if number == 0:
                time.sleep(moments.uniform(0.5, 2.0))  # while reading, or before the first trial
            else:
                run.wait_for("[ ")
                time.sleep(moments.uniform(0.0, 1.0))  # inside some trial
            run.process.kill()
            run.end()
            assert run.process.returncode == -signal.SIGKILL
            assert nothing_left(run), run.alive()
        assert not output.exists()
        now = finished_so_far(work, tmp_path / "copy.db")
        assert now[: len(known)] == known
        known = now
    with started(job, output, resume=True) as last:
        _, stderr = last.end()
        assert last.process.returncode == 0, stderr
    assert known
    assert finished(output / "study.db")[: len(known)] == known
    assert same_trials_once(output / "study.db", output)


def finished_so_far(work: Path, copy: Path) -> list[tuple[int, str, str]]:
    """Return the finished trials of a killed run, read from a copy."""
    if not (work / "study.db").exists():
        return []
    for name in ("study.db", "study.db-journal"):
        target = copy.with_name(name.replace("study", copy.stem))
        target.unlink(missing_ok=True)
        if (work / name).exists():
            shutil.copyfile(work / name, target)
    with suppress(sqlite3.OperationalError):  # killed before the tables were made
        return finished(copy)
    return []
