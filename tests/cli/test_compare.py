"""``joulewise compare`` as its users run it."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from joulewise.cli.compare import are_models
from joulewise.core.errors import UsageError
from tests.cli.program import joulewise, only_line
from tests.core.test_child import is_gone, until
from tests.models import make_job

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

SHORT = ("--meter", "cpu-time", "--max-rounds", "5")


def python(code: str) -> str:
    return shlex.join([sys.executable, "-S", "-c", code])


LITTLE, MUCH = python("sum(range(10**5))"), python("sum(range(10**7))")


def test_a_line_per_program_and_a_verdict(tmp_path: Path) -> None:
    done = joulewise("compare", *SHORT, "-o", "record.json", LITTLE, MUCH, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, rounds, sensor = done.stdout.splitlines()
    assert first.startswith("1  ")
    assert "grade D" in first
    assert first.endswith("reference")
    assert second.endswith("more joules")
    assert rounds.startswith("rounds   5 in random order")
    assert sensor.startswith("sensor   cpu-time")
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["schema"] == "joulewise/comparison/1"
    assert record["programs"][1]["verdict"] == "more"


def test_the_same_command_twice_is_a_check_of_itself() -> None:
    done = joulewise("compare", *SHORT, "--quiet", LITTLE, LITTLE)
    assert done.returncode == 0
    assert "A/A check" in done.stdout.splitlines()[1]
    assert done.stdout.splitlines()[-1].startswith("A/A ")


def test_record_on_stdout_with_the_output_of_commands_kept_out() -> None:
    loud = python("import sys; print('loud'); print(sys.stdin.read())")
    done = joulewise("compare", *SHORT, loud, LITTLE)
    assert "loud\n" not in done.stdout + done.stderr
    shown = joulewise("compare", *SHORT, "--json", "--show-output", loud, LITTLE)
    assert shown.stderr.count("loud\n") == 6
    assert json.loads(shown.stdout)["rounds"] == 5


@pytest.mark.parametrize(
    ("arguments", "told", "code"),
    [
        (["true", "no-such-command-here"], "command not found", 2),
        (["true", "sh -c 'exit 4'"], "exit code 4", 1),
    ],
    ids=["absent", "failing"],
)
def test_foreseen_failures_are_one_line(arguments: list[str], told: str, code: int) -> None:
    done = joulewise("compare", "--quiet", "--meter", "cpu-time", *arguments)
    assert told in only_line(done)
    assert done.returncode == code


def test_models_are_told_from_commands() -> None:
    assert are_models(["a.onnx", "b.onnx"], "items.npz")
    assert not are_models(["true", "sh -c 'cat a.onnx; true'"], None)


@pytest.mark.parametrize(
    ("targets", "data", "told"),
    [
        (["true", "a.onnx"], None, "only models or only commands"),
        (["a.onnx", "b.onnx"], None, "--data"),
        (["true", "true"], "x.npz", "--data is for models"),
    ],
)
def test_targets_that_cannot_be_meant(targets: list[str], data: str | None, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        are_models(targets, data)


def test_models(tmp_path: Path) -> None:
    job = make_job(tmp_path, items=100)
    done = joulewise("compare", *SHORT, job.model, job.model, "--data", job.data, "--threads", 1)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "per item" in lines[0]
    assert "A/A check" in lines[1]
    assert lines[-1].startswith("quality  not compared")


def test_an_interrupt_ends_the_command_too(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    sleeper = f"sh -c 'echo $$ > {note}.new; mv {note}.new {note}; exec sleep 60'"
    process = subprocess.Popen(
        [sys.executable, "-m", "joulewise", "compare", "--quiet", *SHORT, sleeper, sleeper],
        stderr=subprocess.PIPE,
        text=True,
    )
    while not note.exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told == "joulewise: interrupted; nothing was kept\n"
    assert until(lambda: is_gone(int(note.read_text())))
