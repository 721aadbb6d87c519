"""Who wins where several candidates were tested, and what the record says of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from joulewise.core.energy import Interval
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.records import Artifact, Bundle
from joulewise.core.settings import Settings, Usage
from joulewise.meter.bill import Bill
from joulewise.outcome import Outcome, record
from joulewise.report.verdict import verdict_lines
from joulewise.search.choose import Choice
from joulewise.workload.task import Task
from joulewise.workload.workload import open_workload
from tests.meter.test_bill import Purse
from tests.models import make_job
from tests.report.bundles import AS_FOUND, BASELINE, INT8, make_claim, make_trials

CHEAPER = Recipe(steps=INT8.steps, run=RunSettings(runtime="onnxruntime", threads=2))


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search whose every recipe gave the same file."""
    folder = tmp_path_factory.mktemp("session")
    job = make_job(folder / "job", items=300)
    usage, settings = Usage(expected_items=1000), Settings(margin=0.05)
    workload = open_workload(job.model, str(job.data), usage, settings, folder / "data")
    made = Artifact(files={"model.onnx": "0" * 64}, format="onnx", size_bytes=1)
    return SimpleNamespace(
        workload=workload,
        settings=settings,
        host=read_host(),
        anchor=BASELINE,
        judge=SimpleNamespace(task=Task(metric="top1")),
        made=lambda _: made,
    )


def told(session: Any, *passed: bool, spent_j: float = 0.1) -> Bundle:
    """Return the record of a run that tested INT8, then CHEAPER."""
    bill = Bill(Purse())
    joules = Interval(low=spent_j, central=spent_j, high=spent_j)
    bill.add("trials", joules, 1.0)
    trials = make_trials(chosen=AS_FOUND)
    as_found, baseline, first = trials[:3]
    second = next(trial for trial in make_trials(chosen=CHEAPER) if trial.recipe == INT8)
    second = second.__class__(**{**vars(second), "recipe": CHEAPER, "reason": None})
    claims = tuple(
        make_claim(recipe, BASELINE, ratio=ratio, holds=holds)
        for recipe, ratio, holds in zip((INT8, CHEAPER), (0.4, 0.3), passed, strict=False)
    )
    outcome = Outcome(
        trials=(*trials, second),
        choice=Choice(as_found=as_found, baseline=baseline, candidates=(first, second)),
        claims=claims,
        smallest_margin=0.01,
        warnings=(),
    )
    return record(session, outcome, bill)


@pytest.mark.parametrize(
    ("passed", "winner"),
    [((True, True), CHEAPER), ((True, False), INT8), ((False,), AS_FOUND), ((True,), INT8)],
    ids=["both pass", "the cheaper fails", "the surer fails", "no time for the cheaper"],
)
def test_the_cheapest_that_passed_wins(
    session: Any, passed: tuple[bool, ...], winner: Recipe
) -> None:
    bundle = told(session, *passed)
    assert bundle.recipe == winner
    assert len(bundle.claims) == len(passed)
    assert (bundle.verdict == "keep") == (winner == AS_FOUND)
    assert (bundle.claim is None) == (winner == AS_FOUND)
    reasons = {str(trial.recipe): trial.reason for trial in bundle.trials}
    for recipe, holds in zip((INT8, CHEAPER), passed, strict=False):
        assert (reasons[str(recipe)] == "failed the final test") is not holds
    assert verdict_lines(bundle)


def test_break_even_is_that_of_the_winner(session: Any) -> None:
    surer, both = told(session, True, False), told(session, True, True)
    for bundle, ratio in ((surer, 0.4), (both, 0.3)):
        even = bundle.ledger.break_even_items
        assert even is not None
        assert even.central == pytest.approx(0.1 / (0.00102 * (1 - ratio)))


def test_what_does_not_pay_back_is_refused(session: Any) -> None:
    bundle = told(session, True, True, spent_j=100.0)
    assert bundle.verdict == "keep"
    assert "pays back" in bundle.summary
