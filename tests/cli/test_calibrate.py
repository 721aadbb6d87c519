"""``joulewise calibrate`` from end to end, beside an external meter that the test plays.

The meter writes what a machine of known power draws whose only work is that of the staircase, from
its processes' true CPU time. So other work on this machine does no harm.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

import pytest
from typer.testing import CliRunner

from joulewise.cli.app import app
from joulewise.core.errors import InputError, SensorError, UsageError
from joulewise.core.host import read_host
from joulewise.meter.processes import ProcessTree
from joulewise.meter.table import open_meter
from tests.cli.program import FAST, ROOT, TIMEOUT_S, Done, joulewise, only_line

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux"),
    pytest.mark.skipif(read_host().logical_cpus < 2, reason="a line needs two loads"),
]

IDLE_W, CPU_W = 20.0, 6.0
ROW_S = 0.1
MINUTES = "0.08"
"""Time for three mixes at idle, one and all CPUs."""

PATIENCE_S = 30.0


class PlayedMeter:
    """Writes 20 W and 6 W per busy CPU of one process tree into a log, ten times a second.

    Args:
        path: the log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tree: ProcessTree | None = None
        self._ended = threading.Event()
        self._started_s = time.time()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._rows = 0

    def watch(self, pid: int) -> None:
        """Add the joules of a process from now on."""
        self._tree = ProcessTree([pid])

    def __enter__(self) -> Self:
        self._thread.start()
        while self._rows < 3:
            time.sleep(ROW_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        with self.path.open("w") as log:
            log.write("time_s,energy_j\n")
            while not self._ended.wait(ROW_S):
                now_s = time.time()
                joules = IDLE_W * (now_s - self._started_s) + CPU_W * self._busy_s()
                log.write(f"{now_s:.6f},{joules:.6f}\n")
                log.flush()
                self._rows += 1

    def _busy_s(self) -> float:
        try:
            return self._tree.cpu_s() if self._tree is not None else 0.0
        except SensorError:
            return 0.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOULEWISE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "home"


@contextmanager
def calibrating(log: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start the program beside the meter."""
    with PlayedMeter(log) as meter:
        argv = [sys.executable, *FAST, "calibrate", "--reference", str(log), *options]
        with subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            meter.watch(process.pid)
            try:
                yield process
            finally:
                process.kill()


def done(process: subprocess.Popen[str]) -> Done:
    stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def test_calibrated_from_end_to_end(home: Path, tmp_path: Path) -> None:
    log, copy = tmp_path / "plug.csv", tmp_path / "copy.json"
    with calibrating(log, "--max-minutes", MINUTES, "--output", str(copy)) as process:
        found = done(process)
    assert found.returncode == 0, found.stderr
    told = found.stderr.splitlines()
    assert told[0].startswith("calibrating against recording takes ")
    assert " steps of " in told[0]
    *table, fit, spread, band, where = found.stdout.splitlines()
    assert [line.split()[0] for line in table] == ["W", *sorted_mixes(copy)]
    assert [line.split()[0] for line in (fit, spread, band, where)] == [
        "fit", "spread", "band", "kept",
    ]  # fmt: skip
    record = json.loads(copy.read_text())
    assert record["line"]["b_w"]["central"] == pytest.approx(IDLE_W, rel=0.05)
    net_w = record["line"]["a"]["central"] * record["table_w"]
    assert net_w == pytest.approx(CPU_W, rel=0.1)
    assert record["low_ratio"] <= CPU_W / net_w <= record["high_ratio"]
    assert [path.read_text() for path in home.rglob("*.json")] == [copy.read_text()]

    with closing(open_meter([os.getpid()], name="cpu-time")) as meter:
        assert (meter.sensor.name, meter.sensor.grade) == ("cpu-time", "C")
        assert meter.sensor.low_ratio == record["low_ratio"]
    shown = CliRunner().invoke(app, ["calibrate", "--show"])
    assert (shown.exit_code, shown.stdout) == (0, found.stdout)
    assert CliRunner().invoke(app, ["calibrate", "--forget", "--quiet"]).exit_code == 0
    assert list(home.rglob("*.json")) == []
    refused = CliRunner().invoke(app, ["calibrate", "--show"])
    assert isinstance(refused.exception, InputError)
    assert str(refused.exception).startswith("this machine is not calibrated; run: joulewise ")


def sorted_mixes(record: Path) -> list[str]:
    """Return the mixes of a record, the one with the fewest watts per busy CPU first."""
    steps = json.loads(record.read_text())["steps"]

    def watts(mix: str) -> float:
        own = [step for step in steps if step["mix"] == mix]
        (idle,) = (step for step in own if step["cpus"] == 0)
        above_j = [
            step["reference_j"] - idle["reference_j"] / idle["seconds"] * step["seconds"]
            for step in own
        ]
        busy = [(j, step["cpu_s"]) for j, step in zip(above_j, own, strict=True) if step["cpus"]]
        return float(sum(j / cpu_s for j, cpu_s in busy))

    return sorted({str(step["mix"]) for step in steps}, key=watts)


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task")
    return [
        int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()
    ]


def test_interrupted_it_leaves_no_process_and_keeps_nothing(home: Path, tmp_path: Path) -> None:
    with calibrating(tmp_path / "plug.csv") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("[ "):
                break
        crew = children_of(process.pid)
        process.send_signal(signal.SIGINT)
        found = done(process)
    assert found.returncode == 130
    assert found.stdout == ""
    assert found.stderr.splitlines()[-1] == "joulewise: interrupted; nothing was kept"
    assert len(crew) >= 2
    deadline_s = time.monotonic() + PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in crew):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert list(home.rglob("*.json")) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give one of --reference NAME or FILE, --show and --forget"),
        (["--reference", "rapl", "--max-minutes", "0"], "must be above 0"),
        (["--reference", "cpu-time"], "is an estimate itself"),
    ],
)
@pytest.mark.usefixtures("home")
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str) -> None:
    refused = CliRunner().invoke(app, ["calibrate", *arguments])
    assert isinstance(refused.exception, UsageError)
    assert words in str(refused.exception)
    assert refused.stdout == ""


def test_a_home_that_cannot_be_written_is_told_before_minutes_are_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JOULEWISE_HOME", str(tmp_path / "file"))
    refused = joulewise("calibrate", "--reference", "absent.csv")
    assert refused.returncode == 1
    assert "set JOULEWISE_HOME to another folder" in only_line(refused)
