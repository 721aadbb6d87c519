from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise

import pytest

from joulewise.core.errors import SensorError, UsageError
from joulewise.core.host import read_host
from joulewise.meter.plug import PLUG, named
from joulewise.meter.polled import PolledMeter
from joulewise.meter.table import open_meter
from tests.server import Instrument, Reply

GEN2 = {
    "id": 0,
    "source": "init",
    "output": True,
    "apower": 15.8,
    "voltage": 231.2,
    "current": 0.123,
    "aenergy": {"total": 9492.468, "by_minute": [11.1, 12.2, 13.3], "minute_ts": 1_700_000_000},
    "temperature": {"tC": 40.1, "tF": 104.2},
}
"""As in shelly-api-docs.shelly.cloud, Switch."""

TASMOTA = {
    "StatusSNS": {
        "Time": "2026-01-01T00:00:00",
        "ENERGY": {
            "TotalStartTime": "2025-01-01T00:00:00",
            "Total": 12.345,
            "Power": 27,
            "ApparentPower": 30,
            "Factor": 0.94,
            "Voltage": 234,
        },
    }
}
"""As in tasmota.github.io/docs, JSON Status Responses."""

METER = {"power": 40.5, "overpower": 0.0, "is_valid": True, "counters": [1, 2, 3], "total": 600}
GEN1 = {"wifi_sta": {"connected": True}, "relays": [{"ison": True}], "meters": [METER]}
"""As in shelly-api-docs.shelly.cloud/gen1."""

GEN2_PAGE, TASMOTA_PAGE = "/rpc/Switch.GetStatus?id=0", "/cm?cmnd=Status%208"


@pytest.fixture
def server() -> Iterator[Instrument]:
    with Instrument() as server:
        yield server


def opened(server: Instrument, rest: str = "") -> PolledMeter:
    separator = "&" if "?" in rest else "?"
    kind = named(f"{server.url}{rest}{separator}update_s=1")
    return kind.attach([os.getpid()], read_host())


@pytest.mark.parametrize(
    ("page", "reply", "rest", "maker"),
    [
        (GEN2_PAGE, GEN2, "", "Shelly Gen2+"),
        (GEN2_PAGE, GEN2, "/", "Shelly Gen2+"),
        ("/rpc/PM1.GetStatus?id=1", GEN2, "/rpc/PM1.GetStatus?id=1", "Shelly Gen2+"),
        (TASMOTA_PAGE, TASMOTA, "", "Tasmota"),
        (TASMOTA_PAGE, TASMOTA, "/cm?cmnd=Status 8", "Tasmota"),
        ("/status", GEN1, "", "Shelly Gen1"),
        ("/meter/0", METER, "/meter/0", "Shelly Gen1"),
    ],
)
def test_plug_is_known_by_its_answer(
    server: Instrument, page: str, reply: object, rest: str, maker: str
) -> None:
    server.pages[page] = reply
    meter = opened(server, rest)
    sensor = meter.sensor
    meter.close()
    assert sensor.source.startswith(f"{maker}: {server.url}/")
    assert (sensor.name, sensor.grade, meter.component) == ("plug", "A", "machine")
    assert (sensor.rails, sensor.resolution_j, sensor.includes_idle) == (("plug",), None, True)
    assert sensor.boundary == "all that the plug 127.0.0.1 feeds, idle included"
    assert "?" not in sensor.source


@pytest.mark.parametrize(
    ("page", "before", "after", "step_j", "joules"),
    [
        (GEN2_PAGE, GEN2, GEN2 | {"aenergy": {"total": 9493.468}}, 3.6, 3600.0),
        (
            TASMOTA_PAGE,
            TASMOTA,
            {"StatusSNS": {"ENERGY": {"Power": 1, "Total": 12.346}}},
            3600,
            3600,
        ),
        ("/meter/0", METER, METER | {"total": 602}, 60.0, 120.0),
    ],
)
def test_counter_of_a_plug(
    server: Instrument, page: str, before: object, after: object, step_j: float, joules: float
) -> None:
    server.pages[page] = before
    rest = f"{page}{'&' if '?' in page else '?'}read=energy"
    meter = opened(server, rest)
    server.pages[page] = after
    assert meter.read().total_j == pytest.approx(joules)
    assert meter.sensor.resolution_j == step_j
    meter.close()


def test_kwh_that_are_rounded_come_in_steps(server: Instrument) -> None:
    """Readings 15 s apart at 60 W, on a counter that shows whole watt-hours."""
    true_wh = iter(quarter / 4 for quarter in range(100))
    server.pages["/e"] = lambda: Reply(body=f'{{"kwh": "{next(true_wh) // 1 / 1000:.3f}"}}')
    meter = opened(server, "/e?path=kwh&unit=kWh")
    readings = [meter.read().total_j for _ in range(20)]
    meter.close()
    steps_wh = {round((after - before) / 3600, 6) for before, after in pairwise(readings)}
    assert steps_wh == {0.0, 1.0}
    assert readings[-1] - readings[0] == pytest.approx(19 * 15 * 60, abs=3600.0)


def test_any_field_of_any_page(server: Instrument) -> None:
    server.pages["/data?id=7"] = {"load": {"now": ["1500", "2500"]}}
    meter = opened(server, "/data?id=7&path=load.now.1&unit=mW")
    assert meter.sensor.source.startswith(f"the field load.now.1: {server.url}/data;")
    before, after = meter.read(), meter.read()
    meter.close()
    passed_s = after.time_s - before.time_s
    assert after.total_j - before.total_j == pytest.approx(2.5 * passed_s)


@pytest.mark.parametrize(
    ("pages", "rest", "message"),
    [
        ({}, "", "answers like no Shelly or Tasmota .*404.*name its page and field"),
        ({"/x": {"watts": 1}}, "/x", "no Shelly or Tasmota with a power meter; name its page"),
        ({"/x": "<html>"}, "/x", "does not answer in JSON"),
        ({"/x": {"watts": 1}}, "/x?path=power&unit=W", "no power among its fields watts"),
        ({"/x": {"w": "off"}}, "/x?path=w&unit=W", "gives no number for w but 'off'"),
        ({"/x": {"w": -3}}, "/x?path=w&unit=W", "plug shows -3.000 W"),
        ({"/meter/0": METER | {"is_valid": False}}, "/meter/0", "figures are not valid"),
        ({GEN2_PAGE: Reply(status=401)}, GEN2_PAGE, "401 .*JOULEWISE_PLUG_USER"),
        ({GEN2_PAGE: {"id": 0, "output": True}}, "", "no Shelly or Tasmota with a power meter"),
    ],
)
def test_what_cannot_be_read_says_why_in_one_line(
    server: Instrument, pages: dict[str, object], rest: str, message: str
) -> None:
    server.pages |= pages
    with pytest.raises(SensorError, match=message) as caught:
        opened(server, rest)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("read=volts", "write read=power or read=energy"),
        ("path=a", "path= and unit= belong together"),
        ("path=a&unit=horses", "unit=horses is unknown"),
        ("update_s=often", "no time above 0"),
        ("insecure=yes", "write insecure=1"),
    ],
)
def test_options_that_are_not_understood(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        named(f"http://h/?{options}")


def test_without_an_address_it_says_how() -> None:
    assert "--meter plug:http://" in str(PLUG.probe())
    with pytest.raises(SensorError, match="no plug is named"):
        open_meter([], name="plug")
    with pytest.raises(SensorError, match="no plug is named"):
        PLUG.attach([], read_host())


def test_plug_is_watched_once_however_often_it_is_opened(server: Instrument) -> None:
    figures = iter(range(1, 1000))
    server.pages["/e"] = lambda: {"j": next(figures)}
    kind = named(f"{server.url}/e?path=j&unit=J")
    kind.attach([], read_host()).close()
    watched = len(server.asked)
    meter = kind.attach([], read_host())
    meter.close()
    assert len(server.asked) - watched == 2
    assert meter.sensor.update_period_s == pytest.approx(0.2, abs=0.15)
    assert meter.sensor.resolution_j == 1.0


def test_opened_by_name(server: Instrument) -> None:
    server.pages[GEN2_PAGE] = GEN2
    meter = open_meter([os.getpid()], name=f"plug:{server.url}?update_s=2")
    assert meter.sensor.update_period_s == 2.0
    meter.close()
