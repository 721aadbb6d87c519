"""The benchmark of agreement: intervals that overlap, and a tiny job with two seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import agreement
from benchmarks.agreement import JOBS, Record, Run, agreement_of, lines_of, main
from joulewise.core.records import load
from joulewise.core.settings import Settings
from tests.models import Job, make_job, shorten_plans
from tests.report.bundles import AS_FOUND, BASELINE, INT8, make_claim

KEPT = Run(
    seed=0,
    verdict="keep",
    recipe=AS_FOUND,
    baseline=BASELINE,
    ratio=None,
    ratio_as_found=None,
    difference=None,
)


def won(seed: int, ratio: float, *, quality: tuple[float, float] = (-0.002, 0.002)) -> Run:
    """Return a run whose winner needs `ratio` times the joules, known to 10 %."""
    claim = make_claim(INT8, BASELINE, ratio=ratio)
    known = replace(claim.ratio, value=ratio, low=ratio / 1.1, high=ratio * 1.1)
    return Run(
        seed=seed,
        verdict="cheaper",
        recipe=INT8,
        baseline=BASELINE,
        ratio=known,
        ratio_as_found=known,
        difference=replace(claim.difference, lower=quality[0], upper=quality[1]),
    )


def agreeing(*runs: Run) -> list[tuple[int, int]]:
    return [pair.seeds for pair in agreement_of("a job", runs).pairs if pair.agrees]


def test_pairs_agree_whose_intervals_overlap() -> None:
    assert agreeing(won(0, 0.5), won(1, 0.58), won(2, 0.65)) == [(0, 1), (1, 2)]


def test_equal_runs_agree_and_are_all_compared() -> None:
    found = agreement_of("a job", [won(seed, 0.5) for seed in range(4)])
    assert found.agrees
    assert len(found.pairs) == 6


def test_a_difference_of_quality_is_no_agreement() -> None:
    better = won(1, 0.5, quality=(0.003, 0.006))
    (pair,) = agreement_of("a job", [won(0, 0.5), better]).pairs
    assert pair.energy
    assert not pair.quality
    assert not pair.agrees


@pytest.mark.parametrize(("ratio", "agrees"), [(0.8, False), (0.95, True)])
def test_keeping_agrees_with_what_may_have_won_nothing(ratio: float, agrees: bool) -> None:
    assert agreement_of("a job", [KEPT, won(1, ratio)]).agrees is agrees


@pytest.mark.slow
def test_two_seeds_of_a_tiny_job_are_run_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: Job = make_job(tmp_path / "job")
    settings = Settings(
        margin=0.05, runtimes=("onnxruntime",), meter="cpu-time", lossless_only=True
    )
    tiny = agreement.Job(model=lambda: made.model, data=str(made.data), settings=settings)
    monkeypatch.setattr(agreement, "JOBS", {"tiny": tiny})
    shorten_plans(monkeypatch)
    code = exit_code("tiny", "--seeds", "3", "4", "-o", str(tmp_path / "agreement.json"))
    record = load(Record, tmp_path / "agreement.json")
    (found,) = record.agreements
    assert [run.seed for run in found.runs] == [3, 4]
    assert [pair.seeds for pair in found.pairs] == [(3, 4)]
    assert code == (0 if found.agrees else 3)
    told = capsys.readouterr()
    assert told.out.splitlines() == lines_of(record)
    assert [line.split(":")[0] for line in told.err.splitlines()] == [
        "tiny, seed 3",
        "tiny, seed 4",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("chess",), "no job 'chess'"), (("demo", "--seeds", "1", "1"), "give two or more")],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]


def exit_code(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_three_jobs_are_there() -> None:
    assert list(JOBS) == ["demo", "appliances", "text angle"]
    assert JOBS["demo"].model().is_file()


def test_the_record_is_of_all_jobs_and_all_runs_agree() -> None:
    record = load(Record, Path(__file__).parents[2] / "records" / "agreement.json")
    assert [each.job for each in record.agreements] == list(JOBS)
    for each in record.agreements:
        assert [run.seed for run in each.runs] == list(agreement.SEEDS)
        assert each == agreement_of(each.job, each.runs)
        assert each.agrees
