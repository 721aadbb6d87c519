from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.core.energy import Sensor
from joulewise.core.errors import UsageError
from joulewise.core.host import read_host
from joulewise.meter import command
from joulewise.meter.command import measure_command
from joulewise.meter.polled import Instrument, PolledMeter, Watched
from joulewise.meter.power_table import power_of
from joulewise.meter.rapl import RaplMeter
from joulewise.testing.powercap import FakePowercap
from tests.clock import Clock

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"


def python(code: str, meter_name: str | None = "cpu-time") -> command.CommandMeasurement:
    return measure_command([sys.executable, "-c", code], meter_name=meter_name)


def cpu_s(result: command.CommandMeasurement) -> float:
    seconds = result.measurement.blocks[0].cpu_s
    assert seconds is not None
    return seconds


def test_cpu_time_is_that_of_the_child() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = python(BURN)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert cpu_s(result) >= 0.25
    assert cpu_s(result) == pytest.approx(spent_s, rel=0.2)


def test_grandchildren_that_were_waited_for_are_billed() -> None:
    result = python(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])")
    assert cpu_s(result) >= 0.25


def test_joules_are_cpu_time_times_the_tables_watts() -> None:
    result = python("pass")
    watts = power_of(read_host()).net_w.central
    (block,) = result.measurement.blocks
    assert block.reading_j == pytest.approx(cpu_s(result) * watts)
    assert block.items == 1
    assert result.measurement.sensor.grade == "D"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("raise SystemExit(7)", 7),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + 9),
    ],
)
def test_exit_code_is_passed_on(code: str, expected: int) -> None:
    assert python(code).exit_code == expected


def test_no_zombie_is_left() -> None:
    python("pass")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("name", ["no-such-command-at-all", "/etc/passwd"])
def test_command_that_cannot_be_run_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"cannot run '{name}': ") as caught:
        measure_command([name], meter_name="cpu-time")
    assert "\n" not in str(caught.value)


def test_no_command_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no command given"):
        measure_command([])


def test_streams_are_the_callers(capfd: pytest.CaptureFixture[str]) -> None:
    python("import sys; print('out'); print('err', file=sys.stderr)")
    assert capfd.readouterr() == ("out\n", "err\n")


INTERRUPTED = """
import signal, sys
from joulewise.meter.command import measure_command

before = signal.getsignal(signal.SIGINT)
child = (
    "import os, signal, time\\n"
    "os.kill(os.getppid(), signal.SIGINT)\\n"
    "time.sleep(0.5)\\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL)\\n"
    "os.kill(os.getpid(), signal.SIGINT)\\n"
)
result = measure_command([sys.executable, "-c", child], meter_name="cpu-time")
assert result.exit_code == 128 + signal.SIGINT, result.exit_code
assert signal.getsignal(signal.SIGINT) is before
"""


def test_interrupt_reaches_the_child_and_is_still_reported() -> None:
    """Ctrl-C: the terminal sends SIGINT to both; here the child sends it to its parent.

    That parent is a process of its own, as tests may run in one that must not be interrupted.
    """
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_child_can_be_interrupted_and_gets_broken_pipes() -> None:
    code = (
        "import signal\n"
        "lines = open('/proc/self/status').read().split('SigIgn:')[1].split()\n"
        "ignored = int(lines[0], 16)\n"
        "raise SystemExit(bool(ignored & 1 << signal.SIGINT - 1))\n"
    )
    assert python(code).exit_code == 0
    shell = "case $(trap) in *PIPE*) exit 1;; esac; kill -PIPE $$"
    assert measure_command(["sh", "-c", shell], meter_name="cpu-time").exit_code == 128 + 13


def test_runs_outside_the_main_thread() -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(python("pass").exit_code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_hardware_counter_is_read_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = FakePowercap(tmp_path)
    folder = tree.add_zone("intel-rapl:0", "package-0", start_uj=1_000_000)
    meter = RaplMeter(tmp_path)
    monkeypatch.setattr(command, "open_meters", lambda _pids: (meter,))
    result = python(f"open({str(folder / 'energy_uj')!r}, 'w').write('6000000')", None)
    assert result.measurement.blocks[0].reading_j == pytest.approx(5.0)
    assert result.measurement.sensor.grade == "B"


def test_other_components_are_billed_beside_the_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters, files = [], []
    for name in ("cpu", "gpu"):
        tree = FakePowercap(tmp_path / name)
        files.append(tree.add_zone("intel-rapl:0", "package-0", start_uj=0) / "energy_uj")
        meters.append(RaplMeter(tmp_path / name))
    meters[1].component = "gpu"  # type: ignore[misc]
    monkeypatch.setattr(command, "open_meters", lambda _pids: tuple(meters))
    code = "".join(
        f"open({str(f)!r}, 'w').write('{j}000000');" for f, j in zip(files, (5, 7), strict=True)
    )
    result = measure_command([sys.executable, "-c", code], idle_s=0.05)
    assert [part.component for part in result.parts] == ["cpu", "gpu"]
    assert [part.blocks[0].reading_j for part in result.parts] == pytest.approx([5.0, 7.0])
    assert [part.idle_w for part in result.parts] == [0.0, 0.0]
    assert [part.net_j.central for part in result.parts if part.net_j] == pytest.approx([5.0, 7.0])


def test_command_measured_from_a_fresh_process_prints_its_own_output_only() -> None:
    code = (
        "from joulewise.meter.command import measure_command\n"
        "raise SystemExit(measure_command(['echo', 'hi'], meter_name='cpu-time').exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"hi\n", b"")


def test_joules_and_seconds_of_a_slow_instrument_belong_together() -> None:
    """A reply that takes 2 s: 60 W flow in the seconds that are told, however few the command."""
    clock = Clock()

    def ask() -> dict[str, float]:
        clock.now_s += 2.0
        return {"plug": 60.0}

    sensor = Sensor(
        name="plug",
        grade="A",
        boundary="the fake",
        rails=(),
        includes_idle=True,
        resolution_j=None,
        update_period_s=1.0,
        low_ratio=1.0,
        high_ratio=1.0,
        pair_ratio=1.0,
        source="a test",
    )
    instrument = Instrument(ask=ask, kind="W", sensor=sensor)
    watched = Watched(round_trip_s=2.0, update_s=1.0, step_j=None)
    meter = PolledMeter(instrument, watched, clock=clock)
    block = command.bill_command([sys.executable, "-c", "pass"], meter).block
    meter.close()
    assert block.reading_j == pytest.approx(60.0 * block.seconds)
    assert block.seconds == pytest.approx(2.0)


def test_command_that_is_too_short_for_its_sensor_is_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = FakePowercap(tmp_path)
    tree.add_zone("intel-rapl:0", "package-0", start_uj=0)
    meter = RaplMeter(tmp_path)
    meter.sensor = replace(meter.sensor, update_period_s=60.0)
    monkeypatch.setattr(command, "open_meters", lambda _pids: (meter,))
    short, coarse = python("pass", None).measurement.warnings
    assert "the command lasted" in short
    assert "less than the 6e+03 s in which rapl counts 100 times" in short
    assert "the command holds 0 J, less than 10 steps of rapl" in coarse
