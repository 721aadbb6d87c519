from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from joulewise.core.errors import SensorError
from joulewise.meter.nvml import NvmlMeter, probe
from tests.clock import FAR_S, Clock
from tests.nvml import Card, NvmlStub

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStub:
    stub = NvmlStub(tmp_path)
    stub.install(monkeypatch)
    return stub


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened() -> Iterator[list[NvmlMeter]]:
    meters: list[NvmlMeter] = []
    yield meters
    for meter in meters:
        meter.close()


def open_meter(clock: Clock, opened: list[NvmlMeter]) -> NvmlMeter:
    opened.append(NvmlMeter(period_s=FAR_S, clock=clock))
    return opened[0]


def test_one_card_counts_millijoules(stub: NvmlStub, clock: Clock, opened: list[NvmlMeter]) -> None:
    stub.set(Card(energy_mj=7_000_000))
    meter = open_meter(clock, opened)
    stub.set(Card(energy_mj=7_001_500))
    assert meter.read().rails_j == {"gpu-0": pytest.approx(1.5)}
    assert (meter.sensor.resolution_j, meter.sensor.update_period_s) == (1e-3, 0.1)


def test_counter_beyond_32_bits(stub: NvmlStub, clock: Clock, opened: list[NvmlMeter]) -> None:
    stub.set(Card(energy_mj=2**33))
    meter = open_meter(clock, opened)
    stub.set(Card(energy_mj=2**33 + 2**32))
    assert meter.read().total_j == pytest.approx(2**32 * 1e-3)


def test_two_cards_are_two_rails(stub: NvmlStub, clock: Clock, opened: list[NvmlMeter]) -> None:
    stub.set(Card(energy_mj=0), Card(energy_mj=100))
    meter = open_meter(clock, opened)
    stub.set(Card(energy_mj=1000), Card(energy_mj=3100))
    assert meter.read().rails_j == pytest.approx({"gpu-0": 1.0, "gpu-1": 3.0})


def test_without_counter_power_is_integrated_in_a_wider_band(
    stub: NvmlStub, clock: Clock, opened: list[NvmlMeter]
) -> None:
    stub.set(Card(energy_mj=None, power_mw=100_000))
    meter = open_meter(clock, opened)
    stub.set(Card(energy_mj=None, power_mw=200_000))
    clock.now_s += 2.0
    assert meter.read().total_j == pytest.approx(300.0)
    assert (meter.sensor.low_ratio, meter.sensor.high_ratio) == (0.6, 1.65)
    assert "gpu-0 sampled" in meter.sensor.boundary


def test_thread_samples_power(stub: NvmlStub) -> None:
    stub.set(Card(energy_mj=None, power_mw=100_000))
    meter = NvmlMeter(period_s=0.005)
    end_s = meter.read().time_s + 0.1
    while (reading := meter.read()).time_s < end_s:
        pass
    meter.close()
    assert reading.total_j > 0


def test_one_card_without_counter_widens_the_band_of_all(
    stub: NvmlStub, clock: Clock, opened: list[NvmlMeter]
) -> None:
    stub.set(Card(), Card(energy_mj=None))
    assert open_meter(clock, opened).sensor.high_ratio == 1.65


@pytest.mark.parametrize(
    ("card", "reason"),
    [
        (Card(mig=1), "gpu-0 is split by MIG"),
        (Card(energy_mj=None, power_mw=None), "neither an energy counter nor a power sensor"),
        (Card(lost=True), "GPU is lost"),
    ],
)
def test_card_that_cannot_be_read_says_why(stub: NvmlStub, card: Card, reason: str) -> None:
    stub.set(card)
    assert reason in str(probe())
    with pytest.raises(SensorError, match=reason):
        NvmlMeter()


def test_mig_off_is_fine(stub: NvmlStub) -> None:
    stub.set(Card(mig=0))
    assert probe() is None


def test_no_card(stub: NvmlStub) -> None:
    stub.set()
    assert "lists no card" in str(probe())


@pytest.mark.usefixtures("stub")
def test_no_driver() -> None:
    assert "nvidia-smi works here" in str(probe())


def test_vanishing_card(stub: NvmlStub, clock: Clock, opened: list[NvmlMeter]) -> None:
    stub.set(Card())
    meter = open_meter(clock, opened)
    stub.set(Card(lost=True))
    with pytest.raises(SensorError, match="cannot read gpu-0"):
        meter.read()


def test_counter_reset(stub: NvmlStub, clock: Clock, opened: list[NvmlMeter]) -> None:
    stub.set(Card(energy_mj=5_000))
    meter = open_meter(clock, opened)
    stub.set(Card(energy_mj=10))
    with pytest.raises(SensorError, match="gpu-0 fell"):
        meter.read()


def test_closed_meter_is_not_read(stub: NvmlStub) -> None:
    stub.set(Card())
    meter = NvmlMeter()
    meter.close()
    with pytest.raises(SensorError, match="closed"):
        meter.read()


def test_library_is_found_by_its_name(tmp_path: Path) -> None:
    pytest.importorskip("pynvml")
    stub = NvmlStub(tmp_path)
    stub.set(Card(energy_mj=42_000), Card())
    code = "from joulewise.meter.nvml import *; print(probe(), NvmlMeter().sensor.rails)"
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "NVML_STUB": str(stub.control)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "None ('gpu-0', 'gpu-1')"
