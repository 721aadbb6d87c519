from __future__ import annotations

import os
from pathlib import Path

import pytest

from joulewise.meter.noise import Load, read_load, warnings_of

TICKS = os.sysconf("SC_CLK_TCK")


def write_stat(proc: Path, *seconds: float) -> None:
    ticks = " ".join(str(round(x * TICKS)) for x in seconds)
    (proc / "stat").write_text(f"cpu  {ticks}\ncpu0 {ticks}\nintr 1 2 3\n")


def load(busy_s: float = 0.0, idle_s: float = 0.0, steal_s: float = 0.0) -> Load:
    return Load(busy_s=busy_s, idle_s=idle_s, steal_s=steal_s)


def test_fields_of_proc_stat(tmp_path: Path) -> None:
    write_stat(tmp_path, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert read_load(tmp_path) == load(busy_s=1 + 2 + 4 + 32 + 64, idle_s=8 + 16, steal_s=128)


@pytest.mark.parametrize(
    "text", ["", "\n", "cpu  1 2 3\n", "cpu  1 2 3 4 5 6 7\n", "cpu  a b c d e f g h\n"]
)
def test_a_kernel_that_does_not_tell(tmp_path: Path, text: str) -> None:
    (tmp_path / "stat").write_text(text)
    assert read_load(tmp_path) is None


def test_no_proc(tmp_path: Path) -> None:
    assert read_load(tmp_path / "absent") is None


def test_this_machine_never_gets_younger() -> None:
    before, after = read_load(), read_load()
    if before is not None and after is not None:
        assert after.busy_s >= before.busy_s


def test_a_quiet_machine_gives_no_warning() -> None:
    assert warnings_of(load(), load(busy_s=50, idle_s=50), own_s=45) == ()


def test_neighbours_are_named_with_their_share_and_the_remedy() -> None:
    (said,) = warnings_of(load(), load(busy_s=60, idle_s=40), own_s=40)
    assert "other processes used 20% of the CPUs" in said
    assert "stop them" in said


def test_our_own_work_is_no_neighbour() -> None:
    assert warnings_of(load(), load(busy_s=100), own_s=99) == ()
    assert warnings_of(load(), load(busy_s=100), own_s=120) == ()


def test_stolen_time_is_named_with_its_share() -> None:
    (said,) = warnings_of(load(), load(busy_s=50, idle_s=45, steal_s=5), own_s=50)
    assert "hypervisor withheld 5% of the CPU time" in said


def test_only_the_time_between_counts() -> None:
    before = load(busy_s=900, idle_s=10, steal_s=90)
    after = load(busy_s=950, idle_s=60, steal_s=90)
    assert warnings_of(before, after, own_s=50) == ()


def test_both_at_once() -> None:
    assert len(warnings_of(load(), load(busy_s=50, steal_s=50), own_s=0)) == 2


def test_nothing_known_or_no_time_gives_no_warning() -> None:
    assert warnings_of(None, load(busy_s=9), own_s=0) == ()
    assert warnings_of(load(), None, own_s=0) == ()
    assert warnings_of(load(), load(), own_s=0) == ()
