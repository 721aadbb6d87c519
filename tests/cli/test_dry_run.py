"""A dry run writes nothing, and the run that follows lies within what it predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.bundles import add_waste
from tests.cli.program import fast, joulewise, only_line
from tests.models import make_job

ROOM = 2.0
"""Factor by which the run may leave the range: tests share the machine with others."""


def within(value: float, interval: dict[str, float]) -> bool:
    return interval["low"] / ROOM < value < ROOM * interval["high"]


def both(folder: Path, *options: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a dry run predicted, and the bundle of the run itself."""
    job = make_job(folder / "job")
    add_waste(job.model, job.model)
    command = (
        "optimize", job.model, "--data", job.data, "-o", folder / "out", "--margin", 5,
        "--meter", "cpu-time", "--proposals", 1, "--json", *options,
    )  # fmt: skip
    before = sorted(folder.rglob("*"))
    dry = fast(*command, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert sorted(folder.rglob("*")) == before
    done = fast(*command)
    assert done.returncode == 0, done.stderr
    return json.loads(dry.stdout), json.loads(done.stdout)


@pytest.mark.slow
def test_the_run_lies_within_what_was_predicted(tmp_path: Path) -> None:
    dry, bundle = both(tmp_path, "--runtime", "onnxruntime", "--lossless")
    found, ledger = dry["foreseen"], bundle["ledger"]
    assert found["recipes"]["central"] == len(bundle["trials"])
    assert within(sum(ledger["seconds"].values()), found["total_s"])
    assert within(sum(each["central"] for each in ledger["stages_j"].values()), found["total_j"])
    assert set(ledger["seconds"]) <= set(found["seconds"])
    assert dry["smallest_margin"] == bundle["smallest_margin"]
    assert found["sensor"]["grade"] == "D"
    assert found["memory_bytes"]["low"] > 10e6


@pytest.mark.slow
def test_a_run_that_trains_lies_within_what_was_predicted(tmp_path: Path) -> None:
    job = make_job(tmp_path / "lessons")
    with np.load(job.data) as items:
        lessons = {"x": items["x"] + np.float32(0.01), "y": items["y"]}
    np.savez(tmp_path / "lessons.npz", **lessons)
    dry, bundle = both(tmp_path, "--train", tmp_path / "lessons.npz", "--epochs", 2)
    found, ledger = dry["foreseen"], bundle["ledger"]
    assert found["seconds"]["training"]["low"] > 0
    trials = found["recipes"]
    assert trials["low"] <= len(bundle["trials"]) <= trials["high"]
    assert within(sum(ledger["seconds"].values()), found["total_s"])
    assert within(sum(each["central"] for each in ledger["stages_j"].values()), found["total_j"])
    assert within(ledger["seconds"]["training"], found["seconds"]["training"])


def test_text_says_that_it_is_predicted_and_from_what(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    done = fast(
        "optimize", job.model, "--data", job.data, "-o", tmp_path / "out", "--margin", 5,
        "--meter", "cpu-time", "--runtime", "onnxruntime", "--lossless", "--quiet", "--dry-run",
        "--max-minutes", 0.01,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == ""
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert list(lines) == ["recipes", "time", "memory", "energy", "proof", "stages", "from"]
    assert lines["time"].startswith("600 ms predicted")
    assert "cpu-time tells them, estimated, grade D" in lines["energy"]
    assert "hold-out items can certify" in lines["proof"]


def test_a_hold_out_that_is_too_small_is_told_as_by_the_run(tmp_path: Path) -> None:
    job = make_job(tmp_path, items=200)
    command = ("optimize", job.model, "--data", job.data, "-o", tmp_path / "out", "--quiet")
    dry, run = joulewise(*command, "--dry-run"), joulewise(*command)
    assert only_line(dry) == only_line(run)
    assert dry.returncode == run.returncode == 1


@pytest.mark.parametrize("option", ["--resume", "--mlflow"])
def test_what_a_dry_run_cannot_do_is_one_line(tmp_path: Path, option: str) -> None:
    out = tmp_path / "out"
    done = joulewise("optimize", "m.onnx", "--data", "x.npz", "-o", out, "--dry-run", option)
    words = "joulewise: a dry run keeps nothing; leave --resume and --mlflow out"
    assert only_line(done) == words
    assert done.returncode == 2
