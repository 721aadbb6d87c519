from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from joulewise.core.errors import SensorError
from joulewise.meter.battery import BatteryMeter, find_batteries, probe
from tests.clock import FAR_S, Clock
from tests.sysfs import write


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened() -> Iterator[list[BatteryMeter]]:
    meters: list[BatteryMeter] = []
    yield meters
    for meter in meters:
        meter.close()


def open_meter(root: Path, clock: Clock, opened: list[BatteryMeter]) -> BatteryMeter:
    opened.append(BatteryMeter(root, period_s=FAR_S, clock=clock))
    return opened[0]


def test_microwatt_hours(tmp_path: Path, clock: Clock, opened: list[BatteryMeter]) -> None:
    battery = write(tmp_path / "BAT0", status="Discharging", energy_now=50_000_000)
    meter = open_meter(tmp_path, clock, opened)
    write(battery, energy_now=49_980_000)
    assert meter.read().rails_j == {"BAT0": pytest.approx(72.0)}
    assert meter.sensor.resolution_j == 36.0


def test_charge_times_the_voltage_at_which_it_left(
    tmp_path: Path, clock: Clock, opened: list[BatteryMeter]
) -> None:
    battery = write(
        tmp_path / "BAT1", status="Discharging", charge_now=4_000_000, voltage_now=12_000_000
    )
    meter = open_meter(tmp_path, clock, opened)
    write(battery, charge_now=3_999_000, voltage_now=10_000_000)
    assert meter.read().total_j == pytest.approx(39.6)
    write(battery, voltage_now=9_000_000)
    assert meter.read().total_j == pytest.approx(39.6)


def test_power_alone_is_integrated(
    tmp_path: Path, clock: Clock, opened: list[BatteryMeter]
) -> None:
    write(tmp_path / "BAT0", status="Discharging", power_now=-8_000_000)
    meter = open_meter(tmp_path, clock, opened)
    clock.now_s += 3.0
    assert meter.read().total_j == pytest.approx(24.0)
    assert meter.sensor.resolution_j is None


def test_second_battery_that_rests_is_fine(tmp_path: Path) -> None:
    write(tmp_path / "BAT0", status="Discharging", energy_now=1)
    write(tmp_path / "BAT1", status="Not charging", energy_now=1)
    write(tmp_path / "hidpp_battery_0", status="Charging")
    assert [rail.name for rail in find_batteries(tmp_path)] == ["BAT0", "BAT1"]
    assert probe(tmp_path) is None


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_on_mains(tmp_path: Path, status: str) -> None:
    write(tmp_path / "BAT0", status=status, energy_now=1)
    assert f"on mains (the battery says {status}): unplug" in str(probe(tmp_path))


def test_plugged_in_while_measuring(
    tmp_path: Path, clock: Clock, opened: list[BatteryMeter]
) -> None:
    battery = write(tmp_path / "BAT0", status="Discharging", energy_now=5_000)
    meter = open_meter(tmp_path, clock, opened)
    write(battery, status="Charging")
    with pytest.raises(SensorError, match="on mains"):
        meter.read()
    write(battery, status="Discharging")
    with pytest.raises(SensorError, match="on mains"):
        meter.read()


def test_gauge_that_rises(tmp_path: Path, clock: Clock, opened: list[BatteryMeter]) -> None:
    battery = write(tmp_path / "BAT0", status="Discharging", energy_now=5_000)
    meter = open_meter(tmp_path, clock, opened)
    write(battery, energy_now=6_000)
    with pytest.raises(SensorError, match="BAT0 fell"):
        meter.read()


def test_no_battery(tmp_path: Path) -> None:
    assert "no battery" in str(probe(tmp_path))


def test_battery_without_figures(tmp_path: Path) -> None:
    write(tmp_path / "BAT0", status="Discharging")
    assert "has none of energy_now" in str(probe(tmp_path))
