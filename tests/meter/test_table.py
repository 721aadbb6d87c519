from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from joulewise.core.energy import Component, Grade, Meter
from joulewise.core.errors import MissingExtraError, SensorError, UsageError
from joulewise.core.host import Host, read_host
from joulewise.core.registry import Entry, Registry
from joulewise.meter.cpu_time import CpuTimeMeter
from joulewise.meter.table import METERS, MeterType, open_meter, open_meters, probe_meters

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


class WorkingMeter(CpuTimeMeter):
    grade: Grade = "B"


class CardMeter(WorkingMeter):
    component: Component = "gpu"  # type: ignore[misc]


class MachineMeter(WorkingMeter):
    component: Component = "machine"  # type: ignore[misc]


class UnopenableCard(CardMeter):
    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> CpuTimeMeter:  # noqa: ARG003
        raise SensorError("gone between probe and attach")


class BrokenMeter:
    grade: Grade = "A"
    component: Component = "cpu"

    @staticmethod
    def probe() -> str | None:
        return "no cable; plug it in"

    @classmethod
    def attach(cls, pids: Sequence[int], host: Host) -> Meter:
        raise AssertionError(f"opened on {pids} of {host.short}")


class MuteMeter:
    grade: Grade = "A"
    probe = BrokenMeter.probe
    attach = BrokenMeter.attach


@dataclass(frozen=True)
class Cable:
    argument: str
    grade: Grade = "A"

    def probe(self) -> str | None:
        return None if self.argument else "unplugged"

    def attach(self, pids: Sequence[int], host: Host) -> Meter:
        meter = CpuTimeMeter(pids, host=host)
        meter.sensor = replace(meter.sensor, name=self.argument)
        return meter


class CableMeter(BrokenMeter):
    named = Cable

    @staticmethod
    def probe() -> str | None:
        return "name one"


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


CARD, MACHINE = row("CardMeter"), row("MachineMeter")


def test_a_graphics_card_is_never_chosen_for_a_program_on_the_cpu() -> None:
    meter = open_meter([os.getpid()], table=table(card=CARD, estimate=ESTIMATE))
    assert not isinstance(meter, CardMeter)
    with pytest.raises(SensorError, match="no meter works here"):
        open_meter([os.getpid()], table=table(card=CARD))


def test_a_meter_of_the_machine_includes_the_cpu() -> None:
    meter = open_meter([os.getpid()], table=table(estimate=ESTIMATE, machine=MACHINE))
    assert isinstance(meter, MachineMeter)


def test_rows_say_which_meters_are_never_chosen_by_themselves() -> None:
    rows = {name for name in METERS if METERS[name].by_name_only}
    assert {"battery", "recording"} < rows
    assert rows == {state.name for state in probe_meters() if state.by_name_only}


def test_a_row_that_is_never_chosen_is_not_loaded_to_choose() -> None:
    gone = Entry(target="no_such_module:Meter", summary="gone", by_name_only=True)
    meters = table(gone=gone, estimate=ESTIMATE)
    open_meter([os.getpid()], table=meters).close()
    with pytest.raises(ModuleNotFoundError):
        open_meter([os.getpid()], name="gone", table=meters)


def test_kind_that_takes_an_argument_is_opened_with_it_and_never_unasked() -> None:
    meters = table(cable=row("CableMeter"), estimate=ESTIMATE)
    assert open_meter([os.getpid()], name="cable:a:b", table=meters).sensor.name == "a:b"
    assert open_meter([os.getpid()], table=meters).sensor.name == "cpu-time"
    with pytest.raises(SensorError, match="the meter cable does not work here: name one"):
        open_meter([os.getpid()], name="cable", table=meters)
    with pytest.raises(UsageError, match="takes no argument; write --meter estimate"):
        open_meter([os.getpid()], name="estimate:a", table=meters)


def test_argument_that_may_hold_a_secret_is_not_repeated() -> None:
    meters = table(cable=row("CableMeter"))
    with pytest.raises(SensorError) as caught:
        open_meter([os.getpid()], name="cable:", table=meters)
    assert str(caught.value) == "the meter cable does not work here: unplugged"


def test_kind_that_does_not_say_its_component_is_the_processors() -> None:
    states = probe_meters(table(mute=row("MuteMeter")))
    assert [state.component for state in states] == ["cpu"]


def test_one_meter_of_each_component() -> None:
    meters = table(estimate=ESTIMATE, machine=MACHINE, card=CARD, working=WORKING)
    kinds = [type(meter) for meter in open_meters([os.getpid()], table=meters)]
    assert kinds == [WorkingMeter, CardMeter]


def test_the_machine_only_where_nothing_else_works() -> None:
    meters = table(broken=BROKEN, machine=MACHINE)
    kinds = [type(meter) for meter in open_meters([os.getpid()], table=meters)]
    assert kinds == [MachineMeter]


def test_no_component_has_a_meter() -> None:
    with pytest.raises(SensorError, match="no cable"):
        open_meters([os.getpid()], table=table(broken=BROKEN))


def test_meters_already_open_are_closed_when_the_next_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(WorkingMeter, "close", lambda self: closed.append(self.sensor.name))
    with pytest.raises(SensorError, match="gone"):
        open_meters([os.getpid()], table=table(working=WORKING, card=row("UnopenableCard")))
    assert closed == ["cpu-time"]


def test_state_names_the_component() -> None:
    states = probe_meters(table(card=CARD, machine=MACHINE, absent=ABSENT))
    assert [state.component for state in states] == ["gpu", "machine", None]


@pytest.mark.parametrize("name", list(METERS))
def test_page_of_sensors_has_every_meter(name: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "sensors.md").read_text()
    (row,) = re.findall(rf"^\| `{name}(:[A-Z]+)?` \| ([^|]*) \|", page, re.MULTILINE)
    assert bool(row[0]) == hasattr(METERS.load(name), "named")
    assert row[1].startswith(METERS.load(name).grade)
