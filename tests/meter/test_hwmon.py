from __future__ import annotations

from pathlib import Path

import pytest

from joulewise.core.errors import SensorError
from joulewise.meter.hwmon import HwmonMeter, find_cards, probe
from tests.clock import FAR_S, Clock
from tests.sysfs import write


@pytest.fixture
def clock() -> Clock:
    return Clock()


def amd(root: Path, number: int = 0, watts: int = 100) -> Path:
    return write(
        root / f"hwmon{number}", name="amdgpu", in0_label="vddgfx", power1_average=watts * 10**6
    )


def intel(root: Path, number: int = 0, driver: str = "i915") -> Path:
    return write(root / f"hwmon{number}", name=driver, energy1_input=5_000_000)


@pytest.mark.parametrize("driver", ["i915", "xe"])
def test_intel_counts_microjoules(tmp_path: Path, clock: Clock, driver: str) -> None:
    card = intel(tmp_path, driver=driver)
    meter = HwmonMeter(tmp_path, period_s=FAR_S, clock=clock)
    write(card, energy1_input=7_500_000)
    assert meter.read().rails_j == {f"{driver}-0": pytest.approx(2.5)}
    assert meter.sensor.high_ratio == 1.1
    meter.close()


def test_inner_channel_is_not_added(tmp_path: Path, clock: Clock) -> None:
    card = write(intel(tmp_path, driver="xe"), energy2_input=1_000_000)
    meter = HwmonMeter(tmp_path, period_s=FAR_S, clock=clock)
    write(card, energy1_input=6_000_000, energy2_input=1_900_000)
    assert meter.read().total_j == pytest.approx(1.0)
    meter.close()


def test_amd_power_is_integrated_in_a_wider_band(tmp_path: Path, clock: Clock) -> None:
    card = amd(tmp_path, watts=100)
    meter = HwmonMeter(tmp_path, period_s=FAR_S, clock=clock)
    write(card, power1_average=300_000_000)
    clock.now_s += 0.5
    assert meter.read().total_j == pytest.approx(100.0)
    assert (meter.sensor.low_ratio, meter.sensor.resolution_j) == (0.7, None)
    meter.close()


def test_amd_counter_is_preferred(tmp_path: Path) -> None:
    write(amd(tmp_path), energy1_input=1)
    assert [rail.unit for rail in find_cards(tmp_path)] == ["J"]


def test_newer_amd_cards_tell_power1_input(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0", name="amdgpu", power1_input=30_000_000)
    assert find_cards(tmp_path)[0].read() == pytest.approx(30.0)


def test_each_card_once_in_order_of_number(tmp_path: Path) -> None:
    intel(tmp_path, 10)
    amd(tmp_path, 2)
    write(tmp_path / "hwmon3", name="i915_gt0", energy1_input=1)
    write(tmp_path / "hwmon4", name="k10temp")
    assert [rail.name for rail in find_cards(tmp_path)] == ["amdgpu-0", "i915-1"]


def test_graphics_inside_the_processor_are_refused(tmp_path: Path) -> None:
    write(amd(tmp_path), in1_label="vddnb")
    assert "includes the CPU" in str(probe(tmp_path))


def test_graphics_inside_the_processor_are_left_out_beside_a_card(tmp_path: Path) -> None:
    write(amd(tmp_path, 0), in1_label="vddnb")
    amd(tmp_path, 1)
    assert [rail.name for rail in find_cards(tmp_path)] == ["amdgpu-0"]


def test_no_card(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0", name="k10temp")
    (tmp_path / "hwmon1").mkdir()
    assert "no AMD or Intel card" in str(probe(tmp_path))


def test_card_without_joules_or_power(tmp_path: Path) -> None:
    write(tmp_path / "hwmon0", name="i915")
    assert "neither energy1_input nor power1_average" in str(probe(tmp_path))


def test_value_that_is_no_number(tmp_path: Path) -> None:
    write(intel(tmp_path), energy1_input="?")
    assert "not a number" in str(probe(tmp_path))


def test_card_that_works(tmp_path: Path) -> None:
    intel(tmp_path)
    assert probe(tmp_path) is None


def test_vanishing_card(tmp_path: Path, clock: Clock) -> None:
    card = intel(tmp_path)
    meter = HwmonMeter(tmp_path, period_s=FAR_S, clock=clock)
    (card / "energy1_input").unlink()
    with pytest.raises(SensorError, match="is its driver still loaded"):
        meter.read()
    meter.close()


def test_file_for_root_only_says_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    intel(tmp_path)
    real = Path.read_text

    def refuse(path: Path, encoding: str | None = None, errors: str | None = None) -> str:
        if path.name == "energy1_input":
            raise PermissionError
        return real(path, encoding, errors)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert "sudo chmod a+r" in str(probe(tmp_path))
