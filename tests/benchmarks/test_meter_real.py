from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scipy import stats

from benchmarks.meter_real import (
    CASES,
    SLEEP,
    WORK,
    Bill,
    BilledAs,
    Effort,
    Record,
    Twin,
    extremes,
    findings,
    main,
    output,
    python,
)
from joulewise.core.claim import Ratio
from joulewise.core.energy import Interval
from joulewise.core.errors import ProgramError
from joulewise.core.records import load

ROOT = Path(__file__).parents[2]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")

WATTS = 4.0


def bill(number: int, case: str, way: BilledAs, cpu_s: float, told_cpu_s: float | None) -> Bill:
    seconds, idle_w = 10.0, 2.0
    net_j, idle_j = WATTS * cpu_s, idle_w * seconds
    return Bill(
        round=number,
        case=case,
        billed_as=way,
        told_cpu_s=told_cpu_s,
        seconds=seconds,
        net_j=Interval(low=net_j / 2, central=net_j, high=2 * net_j),
        gross_j=Interval(low=idle_j, central=net_j + idle_j, high=2 * (net_j + idle_j)),
        idle_left_out_j=idle_j,
    )


def twin(seed: int, verdict: str) -> Twin:
    ratio = Ratio(
        value=1.0, low=0.9, high=1.1, sampling_low=0.9, sampling_high=1.1, confidence=0.95,
        pairs=5, grade="D", objective="net of idle",
    )  # fmt: skip
    return Twin(seed=seed, rounds=5, ended_by="precision", verdict=verdict, ratio=ratio)


def test_findings_of_bills_whose_joules_are_known() -> None:
    """Neighbours make round 1 take thrice the CPU time, of which the work tells nine tenths."""
    bills = []
    for number, slow in enumerate((1.0, 3.0)):
        for way in ("command", "window"):
            bills.append(bill(number, SLEEP, way, 0.01, None))
            for case, (children, share) in CASES.items():
                cpu_s = slow * max(children, 1) * share
                bills.append(bill(number, case, way, cpu_s, 0.9 * cpu_s))
    verdicts = ["no difference"] * 18 + ["fewer", "more"]
    found = findings(bills, [twin(seed, verdict) for seed, verdict in enumerate(verdicts)])
    assert found.sleep_net_w == pytest.approx(WATTS * 0.01 / 10)
    assert found.sleep_idle_ratio == pytest.approx(20 / 20.04)
    assert (found.w_per_cpu.low, found.w_per_cpu.high) == pytest.approx((WATTS / 0.9,) * 2)
    assert (found.children_ratio.low, found.children_ratio.high) == pytest.approx((2, 2))
    assert found.children_cpu_ratio.central == pytest.approx(2)
    assert (found.called, found.allowed) == (2, 3)


def test_what_is_allowed_is_hardly_ever_exceeded_by_a_procedure_that_errs_in_5_percent() -> None:
    allowed = findings([bill(0, SLEEP, "window", 0.0, None), *children()], [])
    assert allowed.allowed == 0
    for twins in (2, 20, 200):
        found = findings(
            [bill(0, SLEEP, "window", 0.0, None), *children()],
            [twin(seed, "no difference") for seed in range(twins)],
        )
        assert stats.binom.sf(found.allowed, twins, 0.05) <= 0.05
        assert stats.binom.sf(found.allowed - 1, twins, 0.05) > 0.05


def children() -> list[Bill]:
    return [
        bill(0, case, "window", cpu_s, cpu_s) for case, cpu_s in (("1 child", 1), ("2 children", 2))
    ]


def test_extremes() -> None:
    assert extremes([3.0, 1.0, 2.0, 9.0]) == Interval(low=1.0, central=2.5, high=9.0)


@linux
def test_the_work_tells_the_cpu_time_of_its_children() -> None:
    itself, child = (float(output(python(WORK, each, 2_000_000))) for each in (0, 1))
    nothing = float(output(python(WORK, 0, 0)))
    assert min(itself, child) > 2 * nothing > 0


def test_a_command_that_fails_is_one_line() -> None:
    with pytest.raises(ProgramError, match=r"failed: .*gone$"):
        output(python("raise SystemExit('gone')"))


@linux
def test_a_record_of_real_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "record.json"
    main(["--rounds", "1", "--twins", "1", "--scale", "0.02", "-o", str(path)])
    record = load(Record, path)
    assert record.effort == Effort(rounds=1, twins=1).scaled(0.02)
    assert record.findings == findings(record.bills, record.twins)
    bills = {(each.case, each.billed_as): each for each in record.bills}
    assert len(bills) == 2 * (1 + len(CASES))
    for way in ("command", "window"):
        sleeper, worker = bills[SLEEP, way], bills["1 child", way]
        assert sleeper.seconds >= 0.2
        assert sleeper.net_j.central < worker.net_j.central
    joules = record.findings.w_per_cpu
    assert joules.high < 2 * joules.low
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == ["sleep", "work", "2", "twins"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--rounds", "0"], "nothing would be measured"), (["--scale", "0"], "a scale of 0 is none")],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_the_record_shows_what_the_documents_say() -> None:
    record = load(Record, ROOT / "records" / "meter-real.json")
    found = record.findings
    assert found == findings(record.bills, record.twins)
    assert len(record.twins) == 20
    assert found.called <= found.allowed
    assert found.sleep_idle_ratio is not None
    assert found.sleep_idle_ratio > 0.99
    assert record.effort.sleep_s == 10
    assert found.w_per_cpu.high / found.w_per_cpu.low < 1.02
    assert found.children_ratio.central == pytest.approx(found.children_cpu_ratio.central, rel=0.02)
