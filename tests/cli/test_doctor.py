from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from joulewise.cli import doctor
from joulewise.core.energy import Component, Grade, Meter
from joulewise.core.errors import SensorError
from joulewise.meter.rapl import RaplMeter
from joulewise.meter.table import METERS, MeterStatus
from joulewise.testing.powercap import FakePowercap
from tests.nvml import Card, NvmlStub
from tests.server import Instrument


def status(name: str, grade: Grade, component: Component, reason: str | None = None) -> MeterStatus:
    return MeterStatus(name=name, summary=name, grade=grade, component=component, reason=reason)


CPU = status("cpu-time", "D", "cpu")
CARD = status("nvml", "B", "gpu")


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlStub:
    stub = NvmlStub(tmp_path)
    stub.install(monkeypatch)
    stub.set(Card(), Card())
    return stub


def on_machine_with(monkeypatch: pytest.MonkeyPatch, *states: MeterStatus) -> doctor.Report:
    monkeypatch.setattr(doctor, "probe_meters", lambda: states)
    return doctor.diagnose()


@pytest.mark.usefixtures("stub")
def test_sensor_that_works_is_described(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = on_machine_with(monkeypatch, CARD, CPU)
    assert report.findings[0].shortest_window_s == pytest.approx(10.0)
    assert report.findings[1].shortest_window_s == 0.0
    doctor._print(report)
    printed = capsys.readouterr().out
    assert "rails gpu-0, gpu-1; steps of 1.00 mJ; updated every 100 ms" in printed
    assert "good windows from 10.0 s" in printed
    assert "best grade of joules here: CPU D, DRAM none, GPU B, whole machine none" in printed


@pytest.mark.usefixtures("stub")
def test_grade_of_a_card_is_not_that_of_programs_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert on_machine_with(monkeypatch, CARD, CPU).best_grade == "D"
    alone = on_machine_with(monkeypatch, CARD)
    assert alone.best_grade is None
    assert not alone.ready


def test_sensor_that_cannot_be_opened_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pids: list[int], *, name: str) -> Meter:
        raise SensorError(f"{name} went away")

    monkeypatch.setattr(doctor, "open_meter", refuse)
    report = on_machine_with(monkeypatch, CARD)
    assert (report.findings[0].works, report.findings[0].fix) == (False, "nvml went away")


def test_sensor_that_does_not_work_keeps_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    state = status("rapl", "B", "cpu", reason="no counter")
    finding = on_machine_with(monkeypatch, state).findings[0]
    assert (finding.works, finding.fix, finding.sensor) == (False, "no counter", None)


def test_meter_that_must_be_named_says_how(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plug = replace(status("plug", "A", "machine", reason="name it as in"), lacks_argument=True)
    report = on_machine_with(monkeypatch, plug, CPU)
    doctor._print(report)
    printed = capsys.readouterr().out
    assert "--  meter    plug          grade A: plug\n" in printed
    assert "name it as in" in printed
    assert report.best_grades["machine"] is None
    assert report.best_grade == "D"


def test_meter_that_is_named_is_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    with Instrument() as server:
        server.pages["/p"] = {"w": 12.5}
        report = doctor.diagnose(f"plug:{server.url}/p?path=w&unit=W&update_s=2")
    (finding,) = [each for each in report.findings if each.name == "plug"]
    assert finding.works
    assert not finding.lacks_argument
    assert finding.shortest_window_s == pytest.approx(200.0)
    assert report.best_grades["machine"] == "A"
    doctor._print(report)
    assert "rails plug; updated every 2.00 s; good windows from" in capsys.readouterr().out


def test_meter_that_is_named_and_does_not_answer_says_why() -> None:
    with Instrument() as server:
        report = doctor.diagnose(f"redfish:{server.url}")
    (finding,) = [each for each in report.findings if each.name == "redfish"]
    assert not finding.works
    assert "answers 404" in str(finding.fix)


def test_grade_of_dram_is_that_of_its_rail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = FakePowercap(tmp_path)
    tree.add_zone("intel-rapl:0", "package-0")
    tree.add_zone("intel-rapl:0:0", "dram")
    monkeypatch.setattr(doctor, "open_meter", lambda _pids, *, name: RaplMeter(tree.root))  # noqa: ARG005
    report = on_machine_with(monkeypatch, status("rapl", "B", "cpu"))
    assert report.best_grades == {"cpu": "B", "dram": "B", "gpu": None, "machine": None}


@pytest.mark.parametrize("name", list(METERS))
def test_every_meter_is_in_the_table_with_its_fix_or_its_figures(name: str) -> None:
    (finding,) = [each for each in doctor.diagnose().findings if each.name == name]
    assert finding.works == (finding.fix is None) == (finding.sensor is not None)
    assert finding.works == (finding.shortest_window_s is not None)
    if finding.lacks_argument:
        assert f"--meter {name}:" in str(finding.fix) or f"--meter '{name}:" in str(finding.fix)
