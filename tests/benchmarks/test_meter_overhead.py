from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from benchmarks.meter_overhead import (
    GUEST,
    LAUNCHER,
    LIMIT_RATIO,
    LIMIT_START_S,
    Record,
    Run,
    main,
    median,
    overhead,
)
from joulewise.core.errors import UsageError
from joulewise.core.records import load

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@pytest.fixture
def environments(tmp_path: Path) -> Path:
    """Environments that are all the one of the tests."""
    for tool in ("bare", "joulewise"):
        programs = tmp_path / "environments" / tool / "bin"
        programs.mkdir(parents=True)
        for name, argv in (("python", ""), ("joulewise", " -m joulewise")):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{argv} "$@"\n')
            (programs / name).chmod(0o755)
    return tmp_path / "environments"


def run(number: int, tool: str, task: str, cpu_s: float, **answer: float) -> Run:
    return Run(
        round=number, tool=tool, task=task, wall_s=2 * cpu_s, cpu_s=cpu_s,
        peak_bytes=round(1e6 * cpu_s), answer=answer,
    )  # fmt: skip


def rounds(slow: float) -> list[Run]:
    """Return seven rounds of a tool that takes 0.1 s to start and 2 % of the loop outside it.

    In round n all of a machine takes n + 1 times as long; `slow` is what the tool does to the loop.
    """
    found = []
    for number in range(7):
        unit_s = number + 1.0
        for tool, more_s, in_loop in (("bare", 0.0, 1.0), ("tool", 0.1, slow)):
            loop_s = 5 * in_loop * unit_s
            outside_s = 0.1 * unit_s + (more_s and 0.02 * 5.1 * unit_s)
            found += [
                run(number, tool, "start", 0.05 + more_s),
                run(number, tool, "loop", loop_s + outside_s, loop_cpu_s=loop_s),
                run(number, tool, "pairs", 1.0, pair_cpu_s=1e-4 * unit_s, pair_wall_s=2e-4),
            ]
    return found


def test_neighbours_that_slow_a_whole_round_cancel() -> None:
    found = overhead("tool", rounds(1.0))
    for each, true in (
        (found.start_cpu_s, 0.1),
        (found.start_wall_s, 0.2),
        (found.peak_bytes, 1e5),
        (found.outside_ratio, 0.02),
        (found.whole_ratio, 0.02),
    ):
        assert (each.low, each.central, each.high) == pytest.approx((true, true, true))
    assert (found.pair_cpu_s.low, found.pair_cpu_s.central, found.pair_cpu_s.high) == (
        pytest.approx((1e-4, 4e-4, 7e-4))
    )
    assert found.wrap_cpu_s is None


def test_a_slower_loop_is_in_the_whole_only() -> None:
    found = overhead("tool", rounds(1.51))
    assert found.outside_ratio.central == pytest.approx(0.02)
    assert found.whole_ratio.central == pytest.approx(0.02 + 0.51 * 5 / 5.1)


@pytest.mark.parametrize("size", [6, 9, 12])
def test_the_interval_of_a_median_covers_it_by_counting_all_signs(size: int) -> None:
    """Each value lies on either side of the median with equal chance: all 2^n cases are counted."""
    found = median(list(range(size)))
    below, above = int(found.low), size - 1 - int(found.high)
    assert below == above
    outcomes = [sum(signs) for signs in itertools.product((0, 1), repeat=size)]

    def missed(rank: int) -> float:
        return sum(count <= rank or count >= size - rank for count in outcomes) / len(outcomes)

    assert missed(below) <= 0.05 < missed(below + 1)


def test_five_rounds_are_too_few() -> None:
    with pytest.raises(UsageError, match="use 6 or more"):
        median([1.0] * 5)


@linux
def test_the_launcher_tells_what_a_command_used() -> None:
    code = "import time\nb = bytearray(60 << 20)\nwhile time.process_time() < 0.2: pass"
    program = [sys.executable, "-I", "-S", "-c", code]
    launcher = [sys.executable, "-I", "-S", LAUNCHER]
    done = subprocess.run([*launcher, *program], capture_output=True, text=True, check=True)
    used = json.loads(done.stdout)
    assert used["cpu_s"] >= 0.2
    assert used["wall_s"] > 0
    assert used["peak_bytes"] > 60 << 20
    assert subprocess.run([*launcher, "false"], capture_output=True, check=False).returncode == 1


@linux
@pytest.mark.parametrize("tool", ["bare", "joulewise"])
def test_the_guest_does_every_task(tool: str) -> None:
    def guest(*arguments: str) -> Mapping[str, float]:
        argv = [sys.executable, "-I", GUEST, tool, *arguments]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        found: Mapping[str, float] = json.loads(done.stdout or "{}")
        return found

    assert guest("start") == {}
    assert guest("loop", "1000")["loop_cpu_s"] > 0
    assert guest("pairs", "0.01")["count"] >= 1


@linux
@pytest.mark.slow
def test_a_record_of_real_runs(
    environments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "record.json"
    asked = ["--tools", "bare", "joulewise", "--loop-s", "0.02", "-o", str(output)]
    main([str(environments), *asked])
    record = load(Record, output)
    (found,) = record.overheads
    assert found == overhead("joulewise", record.runs)
    assert found.start_cpu_s.central > 0
    assert found.wrap_cpu_s is not None
    assert {each.round for each in record.runs} == set(range(6))
    joules = record.told["joulewise"].joules
    assert set(joules) >= {"net of idle, central"}
    assert record.told["bare"].joules == {}
    assert record.conditions.host.logical_cpus >= 1
    (printed,) = capsys.readouterr().out.splitlines()
    assert printed.startswith("joulewise   start ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tools", "bare", "scales"], "no tool 'scales'"),
        (["--tools", "joulewise"], "'bare' must be among the tools"),
        (["--rounds", "5"], "use 6 or more"),
        ([], "codecarbon is no environment; make it with: python -m venv"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: list[str], told: str, environments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(environments), *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_tool_that_is_not_installed_is_one_line(
    environments: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = environments / "joulewise" / "bin" / "python"
    python.write_text(python.read_text().replace('"$@"', '-S "$@"'))
    with pytest.raises(SystemExit):
        main([str(environments), "--tools", "bare", "joulewise"])
    line = capsys.readouterr().err.splitlines()[-1]
    assert "No module named 'joulewise'" in line
    assert line.endswith("is it installed there?")


def test_the_record_holds_the_limits_and_what_the_documents_say() -> None:
    record = load(Record, ROOT / "records" / "meter-overhead.json")
    by_tool = {each.tool: each for each in record.overheads}
    assert set(by_tool) == {"joulewise", "codecarbon", "zeus"}
    assert all(each == overhead(each.tool, record.runs) for each in record.overheads)
    ours = by_tool["joulewise"]
    assert ours.start_cpu_s.high < LIMIT_START_S
    assert ours.wrap_cpu_s is not None
    assert ours.wrap_cpu_s.high < LIMIT_START_S
    assert ours.outside_ratio.high < LIMIT_RATIO
    assert record.loop_cpu_s == pytest.approx(10, rel=0.2)
    for name in ("codecarbon", "zeus"):
        assert by_tool[name].start_cpu_s.low > 10 * ours.start_cpu_s.high
        assert by_tool[name].outside_ratio.low > 10 * ours.outside_ratio.high
    assert by_tool["codecarbon"].pair_cpu_s.low > ours.pair_cpu_s.high
    zeus = record.told["zeus"].joules
    assert zeus == {"cpu": None, "memory": None, "Measurement.total_energy": 0}
    assert record.conditions.commit is not None
