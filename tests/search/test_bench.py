"""What is worth the final test, and what is found out about a candidate that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from joulewise.core.claim import Difference
from joulewise.core.recipe import Recipe
from joulewise.core.records import Artifact, describe_artifact
from joulewise.core.settings import Settings
from joulewise.core.statistics import lower_bound
from joulewise.pipeline import optimize
from joulewise.search import run, session
from joulewise.search.bench import _quality_reason, foreseen_bound
from tests.cli.bundles import add_waste
from tests.models import make_job, shorten_plans
from tests.trials import ONE_THREAD, int8


def difference(gained: int, lost: int, items: int) -> Difference:
    return Difference(
        value=(gained - lost) / items, lower=lower_bound(gained, lost, items, 0.95), upper=1.0,
        confidence=0.95, items=items, gained=gained, lost=lost, changed=gained + lost,
    )  # fmt: skip


def test_as_many_items_give_the_same_bound() -> None:
    found = difference(20, 25, 1000)
    assert foreseen_bound(found, 1000) == found.lower


@pytest.mark.parametrize(("gained", "lost"), [(20, 25), (0, 4), (11, 10)])
def test_more_items_narrow_it_and_fewer_widen_it(gained: int, lost: int) -> None:
    found = difference(gained, lost, 1000)
    assert foreseen_bound(found, 300) < found.lower < foreseen_bound(found, 3000)


def test_twice_the_items_are_twice_the_counts() -> None:
    assert foreseen_bound(difference(3, 7, 500), 1000) == lower_bound(6, 14, 1000, 0.95)


def test_no_more_answers_change_than_there_are_items() -> None:
    assert foreseen_bound(difference(1, 2, 3), 2) == lower_bound(1, 1, 2, 0.95)


def of_all(value: float, lower: float, items: int) -> Difference:
    return Difference(
        value=value, lower=lower, upper=2 * value - lower, confidence=0.95, items=items,
        gained=None, lost=None, changed=9, error=(value - lower) / 1.645,
    )  # fmt: skip


def test_a_bound_from_a_bootstrap_narrows_with_the_square_root_of_the_items() -> None:
    found = of_all(-0.002, -0.006, 1000)
    assert foreseen_bound(found, 1000) == pytest.approx(found.lower)
    assert foreseen_bound(found, 4000) == pytest.approx(-0.004)
    assert foreseen_bound(found, 250) == pytest.approx(-0.010)


def test_items_that_would_decide_follow_from_the_standard_error() -> None:
    """(z_95 + z_80)^2 times the variance of one item, over the square of the room."""
    found = of_all(-0.002, -0.006, 1000)
    error = (1.6449 + 0.8416) * (0.004 / 1.645) * 1000**0.5 / 0.003
    words = _quality_reason(found, "bound -0.60", 0.005)
    assert "quality -0.20 points (bound -0.60) on 1000 items" in words
    about = int(words.split("about ")[1].split(" items")[0].replace(",", ""))
    assert about == pytest.approx(error**2, rel=1e-3)


def test_candidate_that_costs_more_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that adds convolutions is told by them: they take longer than the original's."""
    job = make_job(tmp_path / "job", items=600)

    def wasteful(folder: Path) -> Artifact:
        folder.mkdir(parents=True)
        add_waste(job.model, folder / "model.onnx", layers=32)  # far above what interrupts a call
        return describe_artifact(folder, ["model.onnx"], "onnx")

    shorten_plans(monkeypatch)
    monkeypatch.setattr(run, "lossless_recipes", lambda *_: (Recipe(run=ONE_THREAD.run),))
    monkeypatch.setattr(run, "changed_recipes", lambda *_: (int8(),))
    monkeypatch.setattr(session, "apply_step", lambda *given: wasteful(given[3]))
    settings = Settings(margin=0.05, runtimes=("onnxruntime",), meter="cpu-time", proposals=0)
    bundle = optimize(job.model, str(job.data), tmp_path / "out", settings=settings)
    original, candidate = bundle.trials
    assert bundle.verdict == "keep"
    assert (original.profile, original.cause) == (None, None)
    assert candidate.profile is not None
    assert candidate.profile.work is None  # counts are of the original
    assert candidate.cause is not None
    assert candidate.cause.startswith("products (")
    assert "in the original" in candidate.cause
    assert candidate.reason is not None
    assert candidate.reason.endswith(candidate.cause)
    told = (tmp_path / "out" / "report.html").read_text()
    assert candidate.cause in told
