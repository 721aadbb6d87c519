from __future__ import annotations

from pathlib import Path

import pytest

from joulewise.core.errors import SensorError
from joulewise.meter.jetson import JetsonMeter, probe
from tests.clock import FAR_S, Clock
from tests.sysfs import write


def orin_nano(root: Path) -> Path:
    """The rails of an Orin Nano or NX, with the sums over channels."""
    return write(
        root / "hwmon1",
        name="ina3221",
        in1_label="VDD_IN",
        in1_input=5000,
        curr1_input=1000,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=5000,
        curr2_input=400,
        in3_label="VDD_SOC",
        in3_input=5000,
        curr3_input=200,
        in7_label="sum of shunt voltages",
        in7_input=8,
        curr4_input=1600,
    )


def test_nested_rails_are_never_added(tmp_path: Path) -> None:
    chip, clock = orin_nano(tmp_path), Clock()
    meter = JetsonMeter(tmp_path, period_s=FAR_S, clock=clock)
    write(chip, curr1_input=3000)
    clock.now_s += 2.0
    assert meter.read().rails_j == {"VDD_IN": pytest.approx(20.0)}
    meter.close()


def test_first_nano(tmp_path: Path) -> None:
    write(
        tmp_path / "hwmon0", name="ina3221", in1_label="POM_5V_IN", in1_input=5000, curr1_input=500
    )
    assert probe(tmp_path) is None
    meter = JetsonMeter(tmp_path)
    assert meter.sensor.rails == ("POM_5V_IN",)
    meter.close()


def test_module_without_a_rail_for_its_input_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0", name="ina3221", in1_label="VDD_GPU_SOC", in2_label="NC")
    write(tmp_path / "hwmon1", name="ina3221", in2_label="VDDQ_VDD2_1V8AO")
    assert "none of the rails VDD_GPU_SOC, VDDQ_VDD2_1V8AO is the module's" in str(probe(tmp_path))


def test_no_jetson(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0", name="k10temp")
    assert "no INA3221" in str(probe(tmp_path))


def test_vanishing_sensor(tmp_path: Path) -> None:
    chip = orin_nano(tmp_path)
    meter = JetsonMeter(tmp_path, period_s=FAR_S)
    (chip / "curr1_input").unlink()
    with pytest.raises(SensorError, match="curr1_input"):
        meter.read()
    meter.close()
