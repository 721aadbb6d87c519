from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from joulewise.core import child
from joulewise.core.child import Child
from joulewise.core.errors import ProgramError
from joulewise.meter.processes import ProcessTree

HERE = Path(__file__).parent
MODULE = "child_under_test"
PATIENCE_S = 30.0
PARENT = f"""
import sys
from joulewise.core.child import Child
child = Child("{MODULE}")
child.ask("echo", value=1)
print(child.pid, flush=True)
if "busy" in sys.argv:
    child.ask("sleep", seconds=600)
sys.stdin.read()
"""


def environment() -> dict[str, str]:
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    return {"PYTHONPATH": os.pathsep.join([str(HERE), *others])}


COPIED = {"COPIED": "yes"}
"""Has the module under test answer each request by a copy of its process."""

copies = pytest.mark.skipif(not child.FORKS, reason="processes are copied on Linux only")


@pytest.fixture(params=["itself", pytest.param("a copy", marks=copies)])
def running(request: pytest.FixtureRequest) -> Iterator[Child]:
    added = COPIED if request.param == "a copy" else {}
    with Child(MODULE, environment() | added) as running:
        yield running


@pytest.fixture
def copied() -> Iterator[Child]:
    with Child(MODULE, environment() | COPIED) as running:
        yield running


def until(condition: Callable[[], bool]) -> bool:
    """Wait for a condition; the limit only ends a test that fails."""
    end = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended; a zombie that nobody reaped counts as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


@pytest.mark.parametrize("value", [None, 1, 0.1, "ä\n", [1, "two"], {"a": {"b": None}}])
def test_arguments_and_answers_travel_unchanged(running: Child, value: object) -> None:
    assert running.ask("echo", value=value) == value


def test_one_child_answers_many_requests(running: Child) -> None:
    assert [running.ask("echo", value=i) for i in range(20)] == list(range(20))


def test_what_is_told_in_one_breath_is_heard(running: Child) -> None:
    """Lines that arrive together, the answer among them, are not waited for again."""
    heard: list[object] = []
    assert running.ask("count", timeout_s=PATIENCE_S, told=heard.append, times=2000) == 2000
    assert heard == [[number, "so far"] for number in range(2000)]
    assert running.ask("count", timeout_s=PATIENCE_S, times=3) == 3  # nobody listens


def test_an_answer_longer_than_a_pipe_arrives_whole(running: Child) -> None:
    assert running.ask("echo", value="x" * 300_000) == "x" * 300_000


def test_another_interpreter_runs_it_where_one_is_named(tmp_path: Path) -> None:
    python, noted = tmp_path / "python", tmp_path / "noted"
    python.write_text(f'#!/bin/sh\ntouch {noted}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with Child(MODULE, environment(), python) as other:
        assert other.ask("echo", value=1) == 1
    assert noted.exists()


def test_pid_is_that_of_the_process_that_answers() -> None:
    with Child(MODULE, environment()) as running:
        assert running.ask("pid") == running.pid


@copies
def test_every_request_has_a_process_of_its_own(copied: Child) -> None:
    assert len({copied.pid, *(copied.ask("pid") for _ in range(3))}) == 4
    assert [copied.ask("remember", value=value) for value in "ab"] == [["a"], ["b"]]


@copies
def test_what_one_request_imports_others_find(copied: Child) -> None:
    assert copied.ask("echo_with", value=1, modules=["wave", "no_such_module"]) == [
        1, [True, False],
    ]  # fmt: skip
    assert copied.ask("is_imported", module="wave")
    assert not copied.ask("is_imported", module="no_such_module")


@copies
def test_a_copy_is_billed_to_the_caller(copied: Child) -> None:
    """What copies computed is counted while they run and after they have ended."""
    tree = ProcessTree([os.getpid()])
    before_s = tree.cpu_s()
    spent_s = copied.ask("compute", seconds=0.3)
    assert spent_s >= 0.3
    assert tree.cpu_s() - before_s >= spent_s - 2 / os.sysconf("SC_CLK_TCK")


def test_variables_are_added_to_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEWISE_CALLER", "kept")
    with Child(MODULE, {**environment(), "JOULEWISE_ADDED": "added"}) as running:
        found = [running.ask("variable", name=f"JOULEWISE_{n}") for n in ("CALLER", "ADDED")]
    assert found == ["kept", "added"]


def test_an_error_of_a_library_becomes_one_line(running: Child) -> None:
    with pytest.raises(ProgramError, match=r"^ValueError: no such layer.*$") as caught:
        running.ask("fail", text="no such layer\nTraceback\n  more")
    assert "\n" not in str(caught.value)


def test_an_error_that_is_announced_is_told_too(running: Child) -> None:
    with pytest.raises(ProgramError, match=r"^ValueError: the compiler raised: no such layer$"):
        running.ask("fail", text="the compiler raised:\nno such layer\nin line 7")


def test_an_error_without_text_keeps_its_type(running: Child) -> None:
    with pytest.raises(ProgramError, match=r"^ValueError"):
        running.ask("fail", text="")


def test_an_error_of_joulewise_keeps_its_text(running: Child) -> None:
    with pytest.raises(ProgramError, match=r"^the model is empty; give another$"):
        running.ask("fail_on_purpose")


def test_an_unknown_request_is_an_error(running: Child) -> None:
    with pytest.raises(ProgramError, match="dance"):
        running.ask("dance")


def test_an_answer_that_is_no_json_is_an_error(running: Child) -> None:
    with pytest.raises(ProgramError, match="TypeError"):
        running.ask("give_what_is_no_json")


def test_a_child_goes_on_after_an_error(running: Child) -> None:
    with pytest.raises(ProgramError):
        running.ask("fail", text="once")
    assert running.ask("echo", value="still here") == "still here"


def test_it_is_idle_unless_it_owes_an_answer_or_has_ended(running: Child) -> None:
    assert running.idle
    with pytest.raises(ProgramError):
        running.ask("fail", text="once")
    assert running.idle
    with pytest.raises(KeyboardInterrupt):
        running.ask("count", told=_interrupt, times=10)
    assert not running.idle


def test_it_is_not_idle_once_it_has_ended(running: Child) -> None:
    with pytest.raises(ProgramError):
        running.ask("kill")
    assert not running.idle


def _interrupt(_: object) -> None:
    raise KeyboardInterrupt


def test_a_crash_is_an_error_with_the_signal(running: Child) -> None:
    with pytest.raises(ProgramError, match=f"was killed by signal {signal.SIGABRT:d}"):
        running.ask("abort")


def test_a_kill_is_an_error_with_the_signal(running: Child) -> None:
    with pytest.raises(ProgramError, match="signal 9, as where memory runs out: it said nothing"):
        running.ask("kill")


def test_an_end_is_an_error_with_exit_code_and_last_words(running: Child) -> None:
    with pytest.raises(ProgramError, match=r"ended with exit code 7: out of memory$"):
        running.ask("leave", text="first\nout of memory")


def test_an_end_without_an_answer_is_an_error_even_if_it_claims_success(running: Child) -> None:
    with pytest.raises(ProgramError, match=r"ended with exit code 0: no reason to stay$"):
        running.ask("leave", text="no reason to stay", code=0)


def test_a_dead_child_cannot_be_asked_again(running: Child) -> None:
    for _ in range(2):
        with pytest.raises(ProgramError, match="was killed by signal 9"):
            running.ask("kill")


def test_a_module_that_does_not_exist_is_an_error() -> None:
    with (
        Child("no_such_module_anywhere") as running,
        pytest.raises(ProgramError, match=r"exit code 1: .*no_such_module_anywhere"),
    ):
        running.ask("echo", value=1)


def test_a_child_that_takes_too_long_is_ended_however_much_it_tells(running: Child) -> None:
    with pytest.raises(TimeoutError, match="took too long and was ended"):
        running.ask("count", limit_s=0.2, times=10**9)
    assert until(lambda: is_gone(running.pid))


def test_a_child_is_ended_while_what_it_told_is_still_being_read(running: Child) -> None:
    with pytest.raises(TimeoutError, match="took too long and was ended"):
        running.ask("count", limit_s=0.2, times=200, told=lambda _: time.sleep(0.01))
    assert until(lambda: is_gone(running.pid))


def test_a_child_that_does_not_answer_in_time_is_ended(running: Child) -> None:
    with pytest.raises(ProgramError, match="did not answer in time and was ended"):
        running.ask("sleep", timeout_s=0.1, seconds=600)
    assert until(lambda: is_gone(running.pid))


def test_chatter_on_stdout_does_not_touch_the_answers(running: Child) -> None:
    assert [running.ask("chatter"), running.ask("echo", value=2)] == ["done", 2]


def test_closing_ends_the_child(running: Child) -> None:
    running.ask("echo", value=1)
    running.close()
    assert is_gone(running.pid)


def test_closing_twice_is_harmless(running: Child) -> None:
    running.close()
    running.close()


def test_closing_ends_a_child_that_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    running = Child(MODULE, environment())
    monkeypatch.setattr(running, "_read_line", lambda *_: b'{"answer": null}')
    running.ask("sleep", seconds=600)
    running.close()
    assert is_gone(running.pid)


def test_closing_a_dead_child_is_harmless() -> None:
    running = Child(MODULE, environment())
    os.kill(running.pid, signal.SIGKILL)
    assert until(lambda: is_gone(running.pid))
    with pytest.raises(ProgramError):
        running.ask("echo", value="x" * 300_000)
    running.close()


def test_a_closed_child_cannot_be_asked(running: Child) -> None:
    running.close()
    with pytest.raises(ProgramError, match=f"{MODULE} was closed"):
        running.ask("echo", value=1)


def test_an_error_in_the_caller_ends_the_child_at_once() -> None:
    running = Child(MODULE, environment())
    with contextlib.suppress(KeyboardInterrupt), running:
        raise KeyboardInterrupt
    assert is_gone(running.pid)


@copies
def test_a_copy_ends_with_the_child() -> None:
    heard: list[int] = []

    def interrupt(pid: int) -> None:
        heard.append(pid)
        raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt), Child(MODULE, environment() | COPIED) as running:
        running.ask("linger", told=interrupt, seconds=600)
    (pid,) = heard
    assert pid != running.pid
    assert until(lambda: is_gone(pid))


@pytest.mark.parametrize("work", ["idle", "busy"])
def test_a_child_ends_when_its_parent_is_killed(work: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, work],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment()},
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.kill()
    assert until(lambda: is_gone(pid))


def test_systems_without_a_death_signal_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "ctypes", None)
    monkeypatch.setattr(sys, "platform", "darwin")
    child._die_with_parent()


def test_files_in_the_callers_folder_are_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('imported from the folder')")
    monkeypatch.chdir(tmp_path)
    with Child(MODULE, environment()) as running:
        assert running.ask("echo", value=1) == 1
