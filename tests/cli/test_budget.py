"""A budget ends a run in time, with a bundle that is as good as any."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from joulewise.bundle import file_checks, open_bundle
from joulewise.demo import DATA, MODEL
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
