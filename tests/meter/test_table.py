from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import pytest

from joulewise.core.energy import Grade, Meter
from joulewise.core.errors import MissingExtraError, SensorError, UsageError
from joulewise.core.host import Host, read_host
from joulewise.core.registry import Entry, Registry
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.table import METERS, MeterType, open_meter, probe_meters

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


class WorkingMeter(CpuTimeMeter):
    grade: Grade = "B"  # type: ignore[misc]


class BrokenMeter:
    grade: Grade = "A"

    @staticmethod
    def probe() -> str | None:
        return "no cable; plug it in"

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> Meter:
        raise AssertionError(f"opened on {pids} of {host.short}")


def table(**rows: Entry) -> Registry[MeterType]:
    return Registry("meter", rows, group="joulewise.none")


def row(name: str, requires: tuple[str, ...] = ()) -> Entry:
    return Entry(target=f"{__name__}:{name}", summary=name, requires=requires, extra="x")


ESTIMATE = Entry(target="joulewise.meter.cpu_time:CpuTimeMeter", summary="estimate")
BROKEN, WORKING, ABSENT = (
    row("BrokenMeter"),
    row("WorkingMeter"),
    row("None", ("not_there_at_all",)),
)


def test_best_grade_that_works_is_opened() -> None:
    meters = table(absent=ABSENT, estimate=ESTIMATE, broken=BROKEN, working=WORKING)
    assert isinstance(open_meter([os.getpid()], table=meters), WorkingMeter)


def test_state_of_every_meter_best_grade_first() -> None:
    states = probe_meters(table(absent=ABSENT, estimate=ESTIMATE, broken=BROKEN, working=WORKING))
    assert [(state.name, state.grade) for state in states] == [
        ("broken", "A"),
        ("working", "B"),
        ("estimate", "D"),
        ("absent", None),
    ]
    reasons = [state.reason for state in states]
    assert reasons[:3] == ["no cable; plug it in", None, None]
    assert "pip install" in str(reasons[3])


def test_named_meter_that_does_not_work_says_why() -> None:
    with pytest.raises(SensorError, match="the meter broken does not work here: no cable"):
        open_meter([os.getpid()], name="broken", table=table(broken=BROKEN))


def test_named_meter_without_its_package_says_how_to_install() -> None:
    with pytest.raises(MissingExtraError, match="pip install"):
        open_meter([os.getpid()], name="absent", table=table(absent=ABSENT))


def test_no_meter_that_works_says_all_reasons() -> None:
    with pytest.raises(SensorError, match=r"no meter works here .*broken: no cable"):
        open_meter([os.getpid()], table=table(broken=BROKEN))


def test_unknown_name_is_a_usage_error_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown meter 'rapp'; did you mean 'rapl'"):
        open_meter([os.getpid()], name="rapp")


def test_built_in_table_has_both_meters_and_opens_here() -> None:
    assert {state.name for state in probe_meters()} >= {"rapl", "cpu-time"}
    meter = open_meter([os.getpid()], name="cpu-time", host=read_host())
    assert meter.sensor.name == "cpu-time"


@pytest.mark.parametrize("name", ["rapl", "cpu-time"])
def test_grade_of_the_type_is_known_before_opening(name: str) -> None:
    assert METERS.load(name).grade in "ABD"
