from __future__ import annotations

from dataclasses import replace

import pytest

from joulewise.core.energy import Block, Interval, Measurement, Reading, Sensor

GROSS = Sensor(
    name="rapl",
    grade="B",
    boundary="CPU package",
    rails=("package-0",),
    includes_idle=True,
    resolution_j=1e-6,
    update_period_s=0.001,
    low_ratio=0.9,
    high_ratio=1.2,
    pair_ratio=1.0,
    source="invented",
)
NET = replace(GROSS, name="cpu-time", grade="D", includes_idle=False)
BLOCKS = (
    Block(items=100, seconds=2.0, reading_j=30.0),
    Block(items=300, seconds=3.0, reading_j=50.0, cpu_s=2.5),
)


def banded(central: float) -> object:
    return pytest.approx({"low": 0.9 * central, "central": central, "high": 1.2 * central})


def of(sensor: Sensor, idle_w: float | None) -> Measurement:
    return Measurement(sensor=sensor, blocks=BLOCKS, idle_w=idle_w)


def test_items_add_up_over_blocks() -> None:
    assert of(GROSS, None).items == 400


def test_gross_of_a_gross_sensor_is_its_reading() -> None:
    assert vars(of(GROSS, 4.0).gross_j_per_item) == banded(80 / 400)


def test_net_of_a_gross_sensor_takes_idle_off() -> None:
    assert vars(of(GROSS, 4.0).net_j_per_item) == banded((80 - 4 * 5) / 400)


def test_net_of_a_net_sensor_is_its_reading() -> None:
    assert vars(of(NET, 4.0).net_j_per_item) == banded(80 / 400)


def test_gross_of_a_net_sensor_adds_idle() -> None:
    assert vars(of(NET, 4.0).gross_j_per_item) == banded((80 + 4 * 5) / 400)


def test_net_of_a_gross_sensor_is_missing_where_idle_is_unknown() -> None:
    assert of(GROSS, None).net_j_per_item is None


def test_gross_of_a_net_sensor_is_missing_where_idle_is_unknown() -> None:
    assert of(NET, None).gross_j_per_item is None


def test_what_the_sensor_gives_needs_no_idle() -> None:
    assert vars(of(GROSS, None).gross_j_per_item) == vars(of(NET, None).net_j_per_item)


def test_net_is_never_negative() -> None:
    assert of(GROSS, 1000.0).net_j_per_item == Interval(low=0.0, central=0.0, high=0.0)


def test_scaling_an_interval_scales_its_three_values() -> None:
    scaled = Interval(low=1.0, central=2.0, high=4.0).scaled(0.5)
    assert scaled == Interval(low=0.5, central=1.0, high=2.0)


def test_a_reading_adds_its_rails_up() -> None:
    assert Reading(time_s=0.0, rails_j={"package-0": 1.5, "package-1": 2.0}).total_j == 3.5
