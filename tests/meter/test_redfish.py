from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import read_host
from joulewise.meter.polled import PolledMeter
from joulewise.meter.redfish import REDFISH, named
from tests.server import Instrument, Reply

CHASSIS = "/redfish/v1/Chassis"

POWER = {
    "@odata.id": f"{CHASSIS}/1/Power",
    "PowerControl": [
        {
            "MemberId": "0",
            "Name": "Server Power Control",
            "PowerConsumedWatts": 590,
            "PowerCapacityWatts": 1600,
            "PowerMetrics": {"IntervalInMin": 20, "AverageConsumedWatts": 587},
        },
        {"MemberId": "1", "Name": "CPU Sub-system Power", "PowerConsumedWatts": 200},
    ],
}

METRICS = {
    "@odata.id": f"{CHASSIS}/1/EnvironmentMetrics",
    "PowerWatts": {"DataSourceUri": f"{CHASSIS}/1/Sensors/Power", "Reading": 374.5},
    "EnergykWh": {"Reading": 325675},
}


@pytest.fixture
def bmc() -> Iterator[Instrument]:
    """One server with a chassis of its own and one inside it that tells no power."""
    with Instrument() as server:
        server.pages |= {
            CHASSIS: {
                "Members": [{"@odata.id": f"{CHASSIS}/1"}, {"@odata.id": f"{CHASSIS}/riser"}]
            },
            f"{CHASSIS}/1": {"Id": "1", "Power": {"@odata.id": f"{CHASSIS}/1/Power"}},
            f"{CHASSIS}/1/Power": POWER,
            f"{CHASSIS}/riser": {"Id": "riser"},
        }
        yield server


def opened(server: Instrument, rest: str = "") -> PolledMeter:
    return named(f"{server.url}{rest}{'&' if '?' in rest else '?'}update_s=1").attach(
        [os.getpid()], read_host()
    )


def watts(meter: PolledMeter) -> float:
    before, after = meter.read(), meter.read()
    return (after.total_j - before.total_j) / (after.time_s - before.time_s)


@pytest.mark.parametrize("rest", ["", "/", "/redfish/v1/", f"{CHASSIS}/1", f"{CHASSIS}/1/Power"])
def test_power_control_of_the_server(bmc: Instrument, rest: str) -> None:
    meter = opened(bmc, rest)
    assert watts(meter) == pytest.approx(590.0)
    meter.close()
    sensor = meter.sensor
    assert sensor.source.startswith(
        f"PowerControl.0.PowerConsumedWatts: {bmc.url}{CHASSIS}/1/Power;"
    )
    assert (sensor.name, sensor.grade, sensor.rails) == ("redfish", "A", ("chassis",))


def test_newer_metrics_come_first(bmc: Instrument) -> None:
    link = {"EnvironmentMetrics": {"@odata.id": f"{CHASSIS}/1/EnvironmentMetrics"}}
    bmc.pages[f"{CHASSIS}/1"] |= link
    bmc.pages[f"{CHASSIS}/1/EnvironmentMetrics"] = METRICS
    meter = opened(bmc)
    assert watts(meter) == pytest.approx(374.5)
    meter.close()


def test_counter_of_joules_is_the_best(bmc: Instrument) -> None:
    page = f"{CHASSIS}/1/EnvironmentMetrics"
    bmc.pages[page] = METRICS | {"EnergyJoules": {"Reading": 1000.0}}
    meter = opened(bmc, page)
    bmc.pages[page] = METRICS | {"EnergyJoules": {"Reading": 1012.5}}
    assert meter.read().total_j == pytest.approx(12.5)
    meter.close()


def test_kilowatt_hours_only_when_asked_for(bmc: Instrument) -> None:
    page = f"{CHASSIS}/1/EnvironmentMetrics"
    bmc.pages[page] = {"EnergykWh": {"Reading": 5}}
    with pytest.raises(SensorError, match="tells no EnergyJoules"):
        opened(bmc, page)
    meter = opened(bmc, f"{page}?read=kwh")
    bmc.pages[page] = {"EnergykWh": {"Reading": 6}}
    assert meter.read().total_j == pytest.approx(3.6e6)
    meter.close()


def test_power_that_is_null_is_no_power(bmc: Instrument) -> None:
    bmc.pages[f"{CHASSIS}/1/Power"] = {"PowerControl": [{"PowerConsumedWatts": None}]}
    with pytest.raises(SensorError, match=r"tells no .*PowerConsumedWatts"):
        opened(bmc)


def test_power_that_becomes_null_is_an_error(bmc: Instrument) -> None:
    meter = opened(bmc)
    bmc.pages[f"{CHASSIS}/1/Power"] = {"PowerControl": [{"PowerConsumedWatts": None}]}
    with pytest.raises(SensorError, match=r"no number for PowerControl\.0\.PowerConsumedWatts"):
        meter.read()
    meter.close()


def test_several_chassis_with_power_must_be_told_apart(bmc: Instrument) -> None:
    bmc.pages[f"{CHASSIS}/riser"] = {"Power": {"@odata.id": f"{CHASSIS}/riser/Power"}}
    bmc.pages[f"{CHASSIS}/riser/Power"] = POWER
    with pytest.raises(
        SensorError, match=r"name one: redfish:http.*/1/Power, redfish:http.*/riser"
    ):
        opened(bmc)


def test_link_to_another_host_is_not_followed(bmc: Instrument) -> None:
    bmc.pages[f"{CHASSIS}/1"] = {"Power": {"@odata.id": "https://192.0.2.1/Power"}}
    with pytest.raises(SensorError, match="tells no"):
        opened(bmc)


def test_credentials_are_asked_for_and_sent(
    bmc: Instrument, monkeypatch: pytest.MonkeyPatch
) -> None:
    bmc.pages[CHASSIS] = Reply(status=401)
    with pytest.raises(SensorError, match="set JOULEWISE_REDFISH_USER and JOULEWISE_REDFISH_PASS"):
        opened(bmc)
    monkeypatch.setenv("JOULEWISE_REDFISH_USER", "root")
    monkeypatch.setenv("JOULEWISE_REDFISH_PASSWORD", "calvin")
    meter = opened(bmc, f"{CHASSIS}/1")
    meter.close()
    assert bmc.sent[-1]["Authorization"].startswith("Basic ")
    assert "calvin" not in repr(meter.sensor)
    assert "root" not in repr(meter.sensor)


def test_options_that_are_not_understood() -> None:
    with pytest.raises(UsageError, match="read=volts is not understood; use one of joules, kwh"):
        named("https://bmc?read=volts")


def test_without_an_address_it_says_how() -> None:
    assert "--meter redfish:https://BMC" in str(REDFISH.probe())
