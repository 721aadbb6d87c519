from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from joulewise.core.errors import UsageError
from joulewise.core.host import read_host
from joulewise.meter import command
from joulewise.meter.command import measure_command
from joulewise.meter.power_table import power_of
from joulewise.meter.rapl import RaplMeter
from joulewise.testing.powercap import FakePowercap

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


def test_interrupt_reaches_the_child_and_is_still_reported() -> None:
    """Ctrl-C: the terminal sends SIGINT to both; here the child sends it to its parent."""
    before = signal.getsignal(signal.SIGINT)
    result = python(
        "import os, signal\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    assert result.exit_code == 128 + signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before


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
