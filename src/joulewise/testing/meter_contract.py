"""The promises of every meter, as tests; subclass it beside each new meter.

::

    class TestMyMeter(MeterContract):
        @pytest.fixture
        def meter(self) -> Iterator[Meter]: ...
        @pytest.fixture
        def spend(self) -> Spend: ...
"""

# ruff: noqa: S101  (these are tests)

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from joulewise.core.energy import Meter

__all__ = ["MeterContract", "Spend"]

Spend = Callable[[], None]
"""Spends some joules that the meter sees."""


class MeterContract:
    """What every meter promises; `meter` and `spend` are given by the subclass."""

    @pytest.fixture
    def meter(self) -> Iterator[Meter]:
        """Give an open meter, and close it afterwards."""
        raise NotImplementedError

    @pytest.fixture
    def spend(self) -> Spend:
        """Give a function that spends joules which the meter sees."""
        raise NotImplementedError

    def test_readings_never_fall(self, meter: Meter, spend: Spend) -> None:
        """A rail's joules stay or rise, and spending raises the total."""
        first = before = meter.read()
        for _ in range(3):
            spend()
            after = meter.read()
            assert all(after.rails_j[rail] >= j for rail, j in before.rails_j.items())
            before = after
        assert before.total_j > first.total_j

    def test_no_negative_joules(self, meter: Meter, spend: Spend) -> None:
        """No rail is below zero, before or after spending."""
        assert min(meter.read().rails_j.values()) >= 0
        spend()
        assert min(meter.read().rails_j.values()) >= 0

    def test_rails_are_those_of_the_sensor(self, meter: Meter) -> None:
        """A reading has exactly the rails that the sensor names, each once."""
        rails = meter.sensor.rails
        assert len(set(rails)) == len(rails) > 0
        assert set(meter.read().rails_j) == set(rails)

    def test_time_is_monotonic(self, meter: Meter, spend: Spend) -> None:
        """A later reading is never true at an earlier time."""
        before = meter.read()
        spend()
        assert meter.read().time_s >= before.time_s

    def test_sensor_says_what_it_covers_and_where_from(self, meter: Meter) -> None:
        """Name, boundary and source are never empty."""
        sensor = meter.sensor
        assert sensor.name.strip()
        assert sensor.boundary.strip()
        assert sensor.source.strip()

    def test_sensor_band_holds_the_reading(self, meter: Meter) -> None:
        """The band is around the reading and the pair ratio is a factor of at least 1."""
        sensor = meter.sensor
        assert 0 < sensor.low_ratio <= 1 <= sensor.high_ratio
        assert sensor.pair_ratio >= 1

    def test_idle_power_is_unknown_or_positive(self, meter: Meter) -> None:
        """Missing is None, never 0."""
        assert meter.idle_w is None or meter.idle_w > 0

    def test_closes_twice(self, meter: Meter) -> None:
        """Closing a closed meter does nothing."""
        meter.close()
        meter.close()
