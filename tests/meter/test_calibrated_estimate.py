"""The estimate from CPU time where the machine is calibrated, as meter, table and doctor see it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.cli import doctor
from joulewise.core.energy import Meter
from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import read_host
from joulewise.meter.calibrate import calibrate
from joulewise.meter.calibration import Calibration
from joulewise.meter.calibration_store import Kept, forget, keep
from joulewise.meter.command import measure_command
from joulewise.meter.cpu_time import CpuTimeMeter, calibrated_sensor, probe
from joulewise.meter.table import open_meter, probe_meters
from joulewise.testing.meter_contract import MeterContract, Spend
from tests.meter.calibrations import EXACT, fitted, staircase

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

RAPL = replace(
    EXACT, name="rapl", grade="B", boundary="all CPU packages and DRAM, idle included, whoever",
    low_ratio=0.9, high_ratio=1.1, pair_ratio=1.05, source="powercap; a judgement",
)  # fmt: skip


def of_this_machine() -> Calibration:
    return fitted(staircase(exponent=0.9), RAPL, read_host())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOULEWISE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def calibration(home: Path) -> Kept:
    assert home.exists()
    return keep(of_this_machine())


class TestCalibratedEstimate(MeterContract):
    @pytest.fixture
    def meter(self, calibration: Kept) -> Iterator[Meter]:
        assert calibration.path.exists()
        meter = CpuTimeMeter.attach([os.getpid()], read_host())
        assert meter.grade == "C"
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self) -> Spend:
        def burn() -> None:
            end_s = time.process_time() + 0.01
            while time.process_time() < end_s:
                pass

        return burn


def test_joules_idle_and_band_are_those_of_the_calibration(calibration: Kept) -> None:
    known = calibration.calibration
    meter = CpuTimeMeter.attach([os.getpid()], read_host())
    assert meter.joules_of(10.0) == pytest.approx(10 * known.net_w)
    assert meter.idle_w == known.idle_w
    sensor = meter.sensor
    assert (sensor.name, sensor.grade, sensor.includes_idle) == ("cpu-time", "C", False)
    assert (sensor.low_ratio, sensor.high_ratio) == (known.low_ratio, known.high_ratio)
    assert (sensor.pair_ratio, sensor.load_ratio) == (known.pair_ratio, known.load_ratio)


def test_sensor_names_reference_date_and_record(calibration: Kept) -> None:
    sensor = calibrated_sensor(calibration)
    assert sensor.boundary == (
        "all CPU packages and DRAM, above idle as rapl counts it, by CPU time of the process and "
        "its children"
    )
    assert sensor.source == (
        f"calibrated on 2026-11-20 against rapl (grade B), record {calibration.digest[:12]}: "
        "powercap; a judgement"
    )


def test_table_and_commands_take_it_as_grade_c(calibration: Kept) -> None:
    (state,) = [each for each in probe_meters() if each.name == "cpu-time"]
    assert (state.grade, state.reason) == ("C", None)
    found = measure_command([sys.executable, "-c", "sum(range(10**6))"], meter_name="cpu-time")
    block = found.measurement.blocks[0]
    assert found.measurement.sensor.grade == "C"
    assert block.cpu_s is not None
    assert block.reading_j == pytest.approx(block.cpu_s * calibration.calibration.net_w)


def test_grade_is_d_again_once_forgotten(calibration: Kept) -> None:
    assert open_meter([os.getpid()], name="cpu-time").sensor.grade == "C"
    assert forget(read_host()) == calibration.path
    assert CpuTimeMeter.grade == "D"
    assert open_meter([os.getpid()], name="cpu-time").sensor.grade == "D"


def test_a_damaged_calibration_is_never_a_silent_d(calibration: Kept) -> None:
    keep(calibration.calibration)
    calibration.path.write_bytes(calibration.path.read_bytes()[:100])
    reason = probe()
    assert reason is not None
    assert reason.endswith("calibrate again, or remove it with: joulewise calibrate --forget")
    with pytest.raises(SensorError, match=r"the meter cpu-time does not work here: .*--forget"):
        open_meter([os.getpid()], name="cpu-time")
    report = doctor.diagnose()
    told = {each.name: each for each in report.findings}
    assert (told["cpu-time"].works, told["cpu-time"].fix) == (False, reason)
    assert (told["calibration"].works, told["calibration"].fix) == (False, reason)


def finding() -> doctor.Finding:
    (found,) = [each for each in doctor.diagnose().findings if each.name == "calibration"]
    return found


def test_doctor_tells_state_and_age(calibration: Kept) -> None:
    found = finding()
    assert (found.works, found.fix) == (True, None)
    assert found.detail.startswith(
        f"cpu-time is of grade C: {calibration.calibration.net_w:.3g} W per busy CPU, calibrated "
        "against rapl on 2026-11-20 ("
    )


def test_doctor_tells_how_to_calibrate(home: Path) -> None:
    assert home.exists()
    found = finding()
    assert not found.works
    assert found.detail == "cpu-time is of grade D: it is not calibrated on this machine"
    assert str(found.fix).startswith("joulewise calibrate --reference rapl")


def test_doctor_warns_of_a_calibration_of_another_kernel(home: Path) -> None:
    assert home.exists()
    older = replace(read_host(), system="Linux 2.6")
    for day in ("01", "02"):
        keep(replace(of_this_machine(), host=older, created=f"2026-01-{day}T00:00:00+00:00"))
        older = replace(older, system="Linux 2.4")
    found = finding()
    assert not found.works
    assert found.detail.endswith(
        "the calibration of 2026-01-02 is of another machine and not used here (kernel Linux 2.4) "
        "and 1 more"
    )


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nvml", "counts graphics cards, of which CPU time tells nothing"),
        ("hwmon", "counts graphics cards"),
        ("cpu-time", r"is an estimate itself \(grade D\)"),
        ("rappl", "did you mean 'rapl'"),
    ],
)
@pytest.mark.usefixtures("home")
def test_what_is_no_reference_is_refused(reference: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        calibrate(reference)
