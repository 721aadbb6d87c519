"""What ``joulewise measure -- COMMAND`` says of real commands."""

from __future__ import annotations

import csv
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Done, joulewise, only_line

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

OPTIONS = ("measure", "--meter", "cpu-time")

WORK = """
import sys, time
total = 0
for number in range(int(sys.argv[1])):
    total += number * number
print(time.process_time(), flush=True)
"""
"""A fixed amount of work, which tells its own CPU time."""

SIDE_BY_SIDE = """
import subprocess, sys
work, loops, processes = sys.argv[1:]
started = [subprocess.Popen([sys.executable, "-c", work, loops]) for _ in range(int(processes))]
raise SystemExit(any(each.wait() for each in started))
"""

LOOPS = 8_000_000


def busy(cpu_s: float) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import time\nwhile time.process_time() < {cpu_s}: pass")


def record(*command: object) -> dict[str, Any]:
    """Return the JSON of a measured command that prints nothing itself."""
    done = joulewise(*OPTIONS, "--json", "--", *command)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def energy_line(done: Done) -> str:
    return next(line for line in done.stderr.splitlines() if line.startswith("energy "))


def test_sleeping_is_under_one_percent_of_a_busy_second() -> None:
    asleep, work = record("sleep", "2"), record(*busy(1.0))
    assert asleep["net_j_per_item"]["central"] < 0.01 * work["net_j_per_item"]["central"]
    idle_w = asleep["measurement"]["idle_w"]
    seconds = asleep["measurement"]["blocks"][0]["seconds"]
    assert asleep["idle_left_out_j"] == pytest.approx(idle_w * seconds)
    assert 0.99 < asleep["idle_left_out_ratio"] <= 1
    gross_j = asleep["gross_j_per_item"]["central"] - asleep["net_j_per_item"]["central"]
    assert gross_j == pytest.approx(asleep["idle_left_out_j"])
    assert work["idle_left_out_ratio"] < asleep["idle_left_out_ratio"]


def test_text_says_what_idle_was_left_out() -> None:
    done = joulewise(*OPTIONS, "--", "sleep", "0.5")
    line = energy_line(done)
    assert "; net leaves out " in line
    assert line.endswith("% of gross")
    assert float(line.split()[-4]) > 90


def test_joules_of_the_same_work_on_one_and_two_processes_grow_with_cpu_time(
    tmp_path: Path,
) -> None:
    """The workers' own clocks are the other route to the ratio of joules."""
    joules, cpu_s = [], []
    for processes in (1, 2):
        table = tmp_path / f"{processes}.csv"
        command = (sys.executable, "-c", SIDE_BY_SIDE, WORK, LOOPS, processes)
        done = joulewise(*OPTIONS, "--csv", table, "--", *command)
        assert done.returncode == 0, done.stderr
        with table.open(newline="") as stream:
            (row,) = csv.DictReader(stream)
        joules.append(float(row["net_j"]))
        cpu_s.append(sum(map(float, done.stdout.split())))
        assert len(done.stdout.split()) == processes
    assert joules[1] / joules[0] == pytest.approx(cpu_s[1] / cpu_s[0], rel=0.25)
    assert joules[1] > 1.2 * joules[0]


def test_window_of_the_program_itself_sees_what_its_children_needed() -> None:
    code = (
        "import os, subprocess, sys\n"
        "from joulewise.meter.table import open_meter\n"
        "import joulewise\n"
        "meter = open_meter([os.getpid()], name='cpu-time')\n"
        "with joulewise.measure('child', meters=[meter]) as child:\n"
        "    subprocess.run(sys.argv[1:], check=True)\n"
        "print(child.result.net_j.central / meter.joules_of(1.0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *busy(0.5)], capture_output=True, text=True, check=True
    )
    assert 0.45 <= float(done.stdout) < 1.0  # ended children are known to two clock ticks


def test_estimates_are_refused_on_request(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    done = joulewise(*OPTIONS, "--min-grade", "B", "--", "touch", mark)
    assert done.returncode == 1
    line = only_line(done)
    assert "cpu-time is of grade D, but grade B or better is asked for: rapl (grade B): " in line
    assert not mark.exists()


def test_grade_that_is_good_enough_measures() -> None:
    assert joulewise(*OPTIONS, "--min-grade", "D", "--", "true").returncode == 0


def test_a_model_after_two_dashes_is_no_command() -> None:
    done = joulewise("measure", "--", "model.onnx")
    assert done.returncode == 2
    assert "give its inputs with --data" in only_line(done)


@pytest.mark.parametrize("meter", [(), ("--meter", "cpu-time")])
def test_no_command_after_two_dashes_says_what_is_missing(meter: tuple[str, ...]) -> None:
    done = joulewise("measure", *meter, "--")
    assert done.returncode == 2
    assert "COMMAND" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_grade_is_one_line() -> None:
    done = joulewise(*OPTIONS, "--min-grade", "Q", "--", "true")
    assert done.returncode == 2
    assert "there is no grade 'Q'" in only_line(done)


def test_csv_and_prometheus_files_grow_and_json_stays(tmp_path: Path) -> None:
    table, samples = tmp_path / "j.csv", tmp_path / "j.prom"
    for _ in range(2):
        done = joulewise(
            *OPTIONS, "--json", "--csv", table, "--prometheus", samples, "--", "sh", "-c", "exit 3"
        )
        assert done.returncode == 3
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["name"], row["exit_code"]) for row in rows] == [("sh -c 'exit 3'", "3")] * 2
    last_j = json.loads(done.stdout)["net_j_per_item"]["central"]
    assert float(rows[1]["net_j"]) == last_j
    labels = '{component="cpu",sensor="cpu-time",grade="D",kind="net"}'
    lines = dict(line.rsplit(" ", 1) for line in samples.read_text().splitlines())
    total_j = float(lines[f"joulewise_energy_joules_total{labels}"])
    assert total_j == pytest.approx(sum(float(row["net_j"]) for row in rows))


def test_file_that_cannot_be_written_is_found_before_the_command_runs(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    done = joulewise(*OPTIONS, "--csv", tmp_path / "no" / "j.csv", "--", "touch", mark)
    assert done.returncode == 1
    assert "name a file in a folder that you may write" in only_line(done)
    assert not mark.exists()


def test_options_for_commands_are_refused_for_models() -> None:
    done = joulewise("measure", "m.onnx", "--data", "d.npz", "--live")
    assert done.returncode == 2
    assert "are for commands only" in only_line(done)


def test_live_line_is_not_shown_where_stderr_is_no_terminal() -> None:
    done = joulewise(*OPTIONS, "--live", "--", "sleep", "0.7")
    assert [line.split()[0] for line in done.stderr.splitlines()] == [
        "command", "energy", "time", "sensor",
    ]  # fmt: skip


def test_live_line_is_shown_on_a_terminal_and_stdout_is_the_commands() -> None:
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "joulewise", *OPTIONS, "--live", "--"]
    process = subprocess.Popen(
        [*argv, "sh", "-c", "sleep 1.3; echo done"], stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    told = b""
    try:
        while part := os.read(ours, 4096):
            told += part
    except OSError:
        pass  # Linux's way to say that the other end of a terminal is closed
    finally:
        os.close(ours)
    out, _ = process.communicate()
    assert (process.returncode, out) == (0, b"done\n")
    assert b" net of idle, " in told
    assert b"gross (estimated, grade D)" in told


def test_measuring_a_command_loads_no_statistics() -> None:
    code = "import joulewise, sys; joulewise.measure_command(['true']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"scipy", "optuna", "torch"} & set(done.stdout.split())
