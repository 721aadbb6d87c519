"""A budget ends a run in time, with a bundle that is as good as any."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

from joulewise.bundle import file_checks, open_bundle
from joulewise.demo import DATA, MODEL
from joulewise.search.structure import teaches
from joulewise.testing.models import labelled_items
from tests.cli.program import fast, joulewise, only_line
from tests.models import make_job


def test_a_budget_that_is_too_small_for_all_still_gives_a_bundle(tmp_path: Path) -> None:
    job, out = make_job(tmp_path / "job"), tmp_path / "out"
    began = time.monotonic()
    done = fast(
        "optimize", job.model, "--data", job.data, "-o", out, "--margin", 5, "--json",
        "--meter", "cpu-time", "--max-minutes", 0.05,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 120
    bundle = json.loads(done.stdout)
    assert len(bundle["trials"]) >= 1
    assert "the budget ends the search" in done.stderr
    assert any("a longer one may find more" in warning for warning in bundle["warnings"])
    assert (out / "report.html").exists()
    assert not out.with_name("out.work").exists()


@pytest.mark.slow
def test_where_no_training_fits_the_rest_is_spent_on_what_trains_nothing(tmp_path: Path) -> None:
    job, out = make_job(tmp_path / "job"), tmp_path / "out"
    x, y = labelled_items(job.model, 400, seed=7)
    np.savez(tmp_path / "lessons.npz", x=x, y=y)
    done = fast(
        "optimize", job.model, "--data", job.data, "--train", tmp_path / "lessons.npz", "-o", out,
        "--margin", 5, "--runtime", "onnxruntime", "--proposals", 2, "--meter", "cpu-time",
        "--max-minutes", 1,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the budget ends the search" in done.stderr
    recipes = [trial.recipe for trial in open_bundle(out).trials]
    assert not any(map(teaches, recipes))
    varied = [s for r in recipes for s in r.steps if {"range", "per_channel"} & {*s.parameters}]
    assert varied


@pytest.mark.parametrize(("option", "unit"), [("--max-minutes", "s"), ("--max-joules", "J")])
def test_a_budget_of_nothing_is_one_line(tmp_path: Path, option: str, unit: str) -> None:
    done = joulewise("optimize", "model.onnx", "--data", "x.npz", "-o", tmp_path / "out", option, 0)
    assert only_line(done) == f"joulewise: a budget must be positive, not 0 {unit}"
    assert done.returncode == 2


@pytest.mark.slow
def test_a_minute_is_kept_within_half_a_minute_by_a_bundle_that_is_whole(tmp_path: Path) -> None:
    """All that could be tried takes longer, and measurements are as long as they are for users."""
    out, began = tmp_path / "out", time.monotonic()
    done = joulewise(
        "optimize", MODEL, "--data", DATA, "-o", out, "--max-minutes", 1, "--meter", "cpu-time"
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    assert seconds < 90
    assert "the budget ends the search" in done.stderr
    bundle = open_bundle(out)
    assert all(check.holds for check in file_checks(out, bundle))
    assert len(bundle.trials) >= 1
    assert not out.with_name("out.work").exists()
