from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from joulewise.core.errors import SensorError
from joulewise.core.host import read_host
from joulewise.meter import ipmi
from joulewise.meter.ipmi import IpmiKind, PowerReading, parse_reading
from joulewise.meter.rails import UnansweredError
from joulewise.meter.table import METERS, open_meter, probe_meters
from tests.clock import Clock
from tests.ipmi import printed, put_on_path


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(text: str, *, code: int = 0, errors: str = "") -> None:
        put_on_path(tmp_path, monkeypatch, text, code=code, errors=errors)

    return install


Install = Callable[..., None]


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        (printed(240, "00000001 Seconds."), PowerReading(power_w=240.0, period_s=1.0)),
        (printed(297, "00010000 Milliseconds"), PowerReading(power_w=297.0, period_s=10.0)),
        (printed(50, "00000000 Seconds."), PowerReading(power_w=50.0, period_s=None)),
        (
            printed(2064, "00000005 Seconds.").replace("UTC\n", "EDT "),
            PowerReading(power_w=2064.0, period_s=5.0),
        ),
    ],
)
def test_what_ipmitool_prints(text: str, reading: PowerReading) -> None:
    assert parse_reading(text) == reading


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (printed(212, "00000001 Seconds.", "deactivated"), "says that its power reading is deact"),
        ("", "printed no power but ''; does the BMC support DCMI"),
        ("Instantaneous power reading:   lots Watts", "printed no power"),
    ],
)
def test_what_is_no_power(text: str, message: str) -> None:
    with pytest.raises(SensorError, match=message):
        parse_reading(text)


def test_watts_of_the_bmc(install: Install) -> None:
    install(printed(240, "00000001 Seconds."))
    clock = Clock()
    meter = IpmiKind(clock=clock, sleep=clock.sleep).attach([os.getpid()], read_host())
    before = meter.read()
    clock.now_s += 2.5
    assert meter.read().total_j - before.total_j == pytest.approx(240.0 * 2.5)
    meter.close()
    sensor = meter.sensor
    assert (sensor.name, sensor.grade, sensor.rails) == ("ipmi", "A", ("machine",))
    assert sensor.update_period_s == 1.0


@pytest.mark.parametrize(
    ("period", "update_s"), [("00000005 Seconds.", 5.0), ("01987338 Seconds.", 10.0)]
)
def test_sampling_period_of_weeks_is_not_the_update_period(
    period: str, update_s: float, install: Install
) -> None:
    install(printed(240, period))
    reading = ipmi._reading()
    assert ipmi._sensor(reading.period_s).update_period_s == update_s


def test_failure_says_what_ipmitool_said_and_what_to_do(install: Install) -> None:
    install("", code=1, errors="Could not open device at /dev/ipmi0: No such file\nmore")
    with pytest.raises(
        UnansweredError, match=r"said: Could not open device .*modprobe ipmi"
    ) as caught:
        IpmiKind().attach([], read_host())
    assert "\n" not in str(caught.value)


def test_ipmitool_that_hangs(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipmi, "TIMEOUT_S", 0.05)
    install("", code=1, errors="$(sleep 1)")
    with pytest.raises(UnansweredError, match="no answer within"):
        IpmiKind().attach([], read_host())


def test_no_ipmitool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SensorError, match="the meter ipmi does not work here: ipmitool is not"):
        open_meter([], name="ipmi")
    with pytest.raises(SensorError, match="cannot run ipmitool"):
        IpmiKind().attach([], read_host())


def test_bmc_is_never_chosen_unasked(install: Install) -> None:
    install(printed(240, "00000001 Seconds."))
    states = {state.name: state for state in probe_meters(METERS)}
    assert states["ipmi"].reason is None
    assert states["ipmi"].by_name_only
