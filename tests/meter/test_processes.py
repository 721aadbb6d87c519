from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.errors import SensorError
from joulewise.meter.processes import ProcessTree, process_cpu_s

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


class FakeProc:
    """A proc folder with a CPU clock per process."""

    def __init__(self, root: Path, *, lists: bool = True) -> None:
        self.root = root
        self.lists = lists
        self.cpu_s: dict[int, float] = {}
        self.children: dict[int, list[int]] = {}
        self.parent: dict[int, int] = {}
        self.reaped_ticks: dict[int, int] = {}

    def start(self, pid: int, *, parent: int = 1, started: int = 100) -> None:
        (self.root / str(pid) / "task" / str(pid)).mkdir(parents=True)
        self.cpu_s[pid], self.children[pid], self.reaped_ticks[pid] = 0.0, [], 0
        self.parent[pid] = parent
        self._write(pid, started)
        if parent in self.children:
            self.children[parent].append(pid)
            self._write(parent)

    def end(self, pid: int) -> None:
        parent = self.parent[pid]
        ticks = int(self.cpu_s.pop(pid) / TICK_S) + self.reaped_ticks[pid]
        for path in [*(self.root / str(pid)).rglob("*")][::-1]:
            path.rmdir() if path.is_dir() else path.unlink()
        (self.root / str(pid)).rmdir()
        if parent in self.children:
            self.children[parent].remove(pid)
            self.reaped_ticks[parent] += ticks
            self._write(parent)

    def clock(self, pid: int) -> float:
        if pid not in self.cpu_s:
            raise ProcessLookupError(pid)
        return self.cpu_s[pid]

    def tree(self, *pids: int) -> ProcessTree:
        return ProcessTree(pids, proc=self.root, clock=self.clock)

    def _write(self, pid: int, started: int = 100) -> None:
        fields = ["S", str(self.parent[pid]), *["0"] * 50]
        fields[13], fields[14] = str(self.reaped_ticks[pid]), "0"
        fields[19] = str(started)
        folder = self.root / str(pid)
        (folder / "stat").write_text(f"{pid} (a) b (c)) {' '.join(fields)}\n")
        if self.lists:
            children = " ".join(map(str, self.children[pid]))
            (folder / "task" / str(pid) / "children").write_text(children)


@pytest.fixture(params=[True, False], ids=["children lists", "scan"])
def fake(tmp_path: Path, request: pytest.FixtureRequest) -> FakeProc:
    return FakeProc(tmp_path, lists=request.param)


def test_children_and_grandchildren_are_counted(fake: FakeProc) -> None:
    fake.start(10)
    fake.start(11, parent=10)
    fake.start(12, parent=11)
    fake.start(99)
    fake.cpu_s |= {10: 1.0, 11: 2.0, 12: 4.0, 99: 100.0}
    assert fake.tree(10).cpu_s() == pytest.approx(7.0)


def test_child_that_ended_is_kept(fake: FakeProc) -> None:
    fake.start(10)
    fake.start(11, parent=10)
    fake.cpu_s |= {10: 1.0, 11: 2.0}
    tree = fake.tree(10)
    before_s = tree.cpu_s()
    fake.end(11)
    assert tree.cpu_s() == pytest.approx(before_s)


def test_root_inside_another_roots_tree_is_counted_once(fake: FakeProc) -> None:
    fake.start(10)
    fake.start(11, parent=10)
    fake.cpu_s |= {10: 1.0, 11: 2.0}
    assert fake.tree(11, 10, 10).cpu_s() == pytest.approx(3.0)


def test_root_that_vanished_keeps_its_last_reading(fake: FakeProc) -> None:
    fake.start(10)
    fake.start(20)
    fake.cpu_s |= {10: 1.0, 20: 1.0}
    tree = fake.tree(10, 20)
    assert tree.cpu_s() == pytest.approx(2.0)
    fake.end(10)
    fake.cpu_s[20] = 3.0
    assert tree.cpu_s() == pytest.approx(4.0)


def test_pid_given_to_another_process_is_not_counted(fake: FakeProc) -> None:
    fake.start(10)
    fake.cpu_s[10] = 1.0
    tree = fake.tree(10)
    tree.cpu_s()
    fake.end(10)
    fake.start(10, started=500)
    fake.cpu_s[10] = 50.0
    assert tree.cpu_s() == pytest.approx(1.0)


def test_process_gone_between_listing_and_reading_counts_nothing(fake: FakeProc) -> None:
    fake.start(10)
    fake.start(11, parent=10)
    fake.cpu_s = {10: 1.0}
    assert fake.tree(10).cpu_s() == pytest.approx(1.0)


def test_unknown_process_is_an_error(fake: FakeProc) -> None:
    with pytest.raises(SensorError, match="process 4 does not exist"):
        fake.tree(4)


def test_truncated_stat_is_a_vanished_process(fake: FakeProc) -> None:
    fake.start(10)
    (fake.root / "10" / "stat").write_text("10 (a) S")
    with pytest.raises(SensorError, match="does not exist"):
        fake.tree(10)


@settings(deadline=None)
@given(
    spent=st.lists(
        st.tuples(st.integers(0, 3), st.floats(0, 5), st.booleans()), min_size=1, max_size=20
    )
)
def test_readings_never_fall_nor_exceed_what_was_spent(
    tmp_path_factory: pytest.TempPathFactory, spent: Sequence[tuple[int, float, bool]]
) -> None:
    fake = FakeProc(tmp_path_factory.mktemp("proc"))
    fake.start(10)
    tree, before_s, total_s, ended = fake.tree(10), 0.0, 0.0, 0
    for child, seconds, ends in spent:
        pid = 20 + child
        if pid not in fake.cpu_s:
            fake.start(pid, parent=10)
        fake.cpu_s[pid] += seconds
        total_s += seconds
        if ends:
            fake.end(pid)
            ended += 1
        after_s = tree.cpu_s()
        assert before_s <= after_s <= total_s + 1e-9
        assert after_s >= total_s - (ended + 1) * TICK_S
        before_s = after_s


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a real python child that ends when its stdin is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def wait_for_line(child: subprocess.Popen[bytes]) -> bytes:
    assert child.stdout is not None
    return child.stdout.readline()


def test_own_clock_is_the_processes_cpu_time() -> None:
    assert process_cpu_s(os.getpid()) > 0


def test_real_child_is_counted_while_it_lives() -> None:
    code = f"{BURN}print(time.process_time(), flush=True)\ninput()"
    with python(code) as child:
        said_s = float(wait_for_line(child))
        seen_s = ProcessTree([child.pid]).cpu_s()
    assert seen_s >= 0.25
    assert seen_s == pytest.approx(said_s, rel=0.2)


def test_real_grandchild_that_ended_is_counted() -> None:
    code = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {BURN!r}], check=True)\n"
        "print('done', flush=True)\ninput()"
    )
    with python(code) as child:
        wait_for_line(child)
        assert ProcessTree([child.pid]).cpu_s() >= 0.25


def test_sleeping_process_is_billed_next_to_nothing() -> None:
    with python("print('ready', flush=True)\ninput()") as child:
        wait_for_line(child)
        tree = ProcessTree([child.pid])
        before_s = tree.cpu_s()
        sleeper = subprocess.run(["sleep", "0.2"], check=True)  # noqa: S607
        assert sleeper.returncode == 0
        assert tree.cpu_s() - before_s < 0.01


def test_killed_process_keeps_its_last_reading() -> None:
    with python(f"{BURN}print('done', flush=True)\ninput()") as child:
        wait_for_line(child)
        tree = ProcessTree([child.pid])
        before_s = tree.cpu_s()
        child.kill()
        child.wait()
        assert tree.cpu_s() == before_s
