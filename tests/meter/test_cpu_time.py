from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.core.energy import Meter
from joulewise.core.host import Host
from joulewise.meter.cpu_time import CpuTimeMeter, cpu_time_sensor, probe
from joulewise.meter.power_table import INSTRUCTION_MIX_SPREAD_RATIO, POWER_TABLE, power_of
from joulewise.testing.meter_contract import MeterContract, Spend

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

HOST = Host(
    cpu="AMD EPYC 7763",
    vendor="AuthenticAMD",
    family=25,
    model=1,
    logical_cpus=4,
    instruction_sets=(),
    memory_bytes=None,
    hypervisor=True,
    system="Linux",
    architecture="x86_64",
)


def burn(cpu_s: float = 0.01) -> None:
    end_s = time.process_time() + cpu_s
    while time.process_time() < end_s:
        pass


class TestCpuTimeMeter(MeterContract):
    @pytest.fixture
    def meter(self) -> Iterator[Meter]:
        meter = CpuTimeMeter([os.getpid()], host=HOST)
        yield meter
        meter.close()

    @pytest.fixture
    def spend(self) -> Spend:
        return burn


def test_joules_are_cpu_seconds_times_central_watts() -> None:
    meter = CpuTimeMeter([os.getpid()], host=HOST, clock=lambda _pid: 1000.0)
    reading = meter.read()
    assert reading.total_j == pytest.approx(meter.joules_of(meter.cpu_s()))
    assert meter.joules_of(10.0) == pytest.approx(10 * power_of(HOST).net_w.central)


def test_band_is_the_rows() -> None:
    row = power_of(HOST)
    sensor = cpu_time_sensor(row)
    assert sensor.low_ratio * row.net_w.central == pytest.approx(row.net_w.low)
    assert sensor.high_ratio * row.net_w.central == pytest.approx(row.net_w.high)
    assert sensor.pair_ratio == INSTRUCTION_MIX_SPREAD_RATIO


def test_unknown_cpu_has_a_wider_band_than_any_row() -> None:
    unknown = cpu_time_sensor(power_of(replace(HOST, vendor=None)))
    for sensor in map(cpu_time_sensor, POWER_TABLE):
        assert unknown.low_ratio < sensor.low_ratio
        assert unknown.high_ratio > sensor.high_ratio


def test_idle_power_is_that_of_all_logical_cpus() -> None:
    meter = CpuTimeMeter([os.getpid()], host=HOST)
    assert meter.idle_w == pytest.approx(4 * power_of(HOST).idle_w.central)


def test_a_childs_joules_are_billed_to_its_parent() -> None:
    meter = CpuTimeMeter([os.getpid()], host=HOST)
    before_s = meter.cpu_s()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert meter.cpu_s() - before_s >= 0.25


def test_probe_accepts_this_machine() -> None:
    assert probe() is None


def test_probe_says_why_elsewhere(tmp_path: Path) -> None:
    assert "need Linux" in str(probe(platform="darwin"))
    assert "not mounted" in str(probe(proc=tmp_path, platform="linux"))
