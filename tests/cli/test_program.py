"""What can be seen of the program from outside, on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import joulewise as package
from tests.cli.program import Done, joulewise, only_line

HEAVY = {
    "altair", "nncf", "numpy", "onnx", "onnxruntime", "openvino", "optuna", "plotly",
    "scipy", "torch",
}  # fmt: skip
HELP_CPU_S = 0.5


def python(code: str) -> tuple[str, str, str]:
    """Return the arguments that run `code`."""
    return (sys.executable, "-c", code)


def measured(done: Done) -> tuple[float, float]:
    """Return net joules and CPU seconds of a measured command."""
    record = json.loads(done.stdout)
    cpu_s = sum(block["cpu_s"] for block in record["measurement"]["blocks"])
    return record["net_j_per_item"]["central"], cpu_s


def test_version() -> None:
    done = joulewise("--version")
    assert (done.returncode, done.stdout) == (0, f"joulewise {package.__version__}\n")


def test_help_needs_little_cpu_time(tmp_path: Path) -> None:
    with (tmp_path / "help").open("wb") as stream:
        process = subprocess.Popen([sys.executable, "-m", "joulewise", "--help"], stdout=stream)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    assert usage.ru_utime + usage.ru_stime < HELP_CPU_S
    told = (tmp_path / "help").read_text()
    for command in ("optimize", "demo", "verify", "measure", "carbon", "doctor"):
        assert f"  {command} " in told


@pytest.mark.parametrize("command", ["optimize", "demo", "verify", "measure", "doctor"])
def test_help_of_each_command(command: str) -> None:
    done = joulewise(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_import_loads_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import joulewise"],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "joulewise" in loaded
    assert not {name.partition(".")[0] for name in loaded} & HEAVY


def test_program_starts_without_anything_heavy() -> None:
    code = "import joulewise.cli, sys; print(*sys.modules)"
    done = subprocess.run(python(code), capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & HEAVY


def test_public_names_are_there() -> None:
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


def test_doctor_names_every_back_end() -> None:
    done = joulewise("doctor")
    assert done.returncode == 0
    for name in ("rapl", "cpu-time", "onnxruntime", "static_int8"):
        assert f" {name} " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("ready: joules of grade ")


def test_doctor_in_json() -> None:
    done = joulewise("doctor", "--json")
    record = json.loads(done.stdout)
    assert record["ready"] is True
    assert {"meter", "estimate", "runtime", "pass", "report"} == {
        each["kind"] for each in record["findings"]
    }
    assert all(each["works"] or each["fix"] for each in record["findings"])


def test_measured_command_keeps_its_streams_and_exit_code() -> None:
    code = "import sys; sys.stdout.write('a\\nb'); sys.stderr.write('c\\n'); sys.exit(7)"
    done = joulewise("measure", "--meter", "cpu-time", "--", *python(code))
    assert done.returncode == 7
    assert done.stdout == "a\nb"
    told = done.stderr.splitlines()
    assert told[0] == "c"
    assert [line.split()[0] for line in told[1:]] == ["command", "energy", "time", "sensor"]


def test_options_after_the_dashes_belong_to_the_command() -> None:
    code = "import sys; print(sys.argv[1:])"
    done = joulewise("measure", "--meter", "cpu-time", "--", *python(code), "--json", "-q")
    assert done.stdout == "['--json', '-q']\n"


def test_measured_command_in_json() -> None:
    done = joulewise(
        "measure", "--json", "--meter", "cpu-time", "--", *python("raise SystemExit(5)")
    )
    record = json.loads(done.stdout)
    assert done.returncode == record["exit_code"] == 5
    assert record["measurement"]["sensor"]["name"] == "cpu-time"
    net_j = record["net_j_per_item"]
    assert 0 < net_j["low"] <= net_j["central"] <= net_j["high"]


def test_sleeping_costs_far_less_than_working() -> None:
    nap = "import time; time.sleep(1.0)"
    work = "import time\nwhile time.process_time() < 1.0: pass"
    options = ("measure", "--json", "--meter", "cpu-time", "--")
    asleep_j, asleep_s = measured(joulewise(*options, *python(nap)))
    busy_j, busy_s = measured(joulewise(*options, *python(work)))
    assert busy_s > 1.0
    assert busy_j / asleep_j == pytest.approx(busy_s / asleep_s)
    assert asleep_j < busy_j / 4


def test_command_that_does_not_exist_is_one_line() -> None:
    done = joulewise("measure", "--", "no-such-command-here")
    assert "cannot run 'no-such-command-here': command not found" in only_line(done)
    assert done.returncode == 2


def test_model_without_data_is_one_line() -> None:
    done = joulewise("measure", "model.onnx")
    assert "--data" in only_line(done)
    assert done.returncode == 2


def test_missing_model_is_one_line(tmp_path: Path) -> None:
    done = joulewise("measure", tmp_path / "no.onnx", "--data", "no.npz", "--quiet")
    assert "there is no model at" in only_line(done)
    assert done.returncode == 1
