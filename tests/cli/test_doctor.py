from __future__ import annotations

from pathlib import Path

import pytest

from joulewise.cli import doctor
from joulewise.core.energy import Component, Grade, Meter
from joulewise.core.errors import SensorError
from joulewise.meter.table import MeterStatus
from tests.nvml import Card, NvmlStub


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
    assert "best grade of joules here: CPU D, GPU B, whole machine none" in printed


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
