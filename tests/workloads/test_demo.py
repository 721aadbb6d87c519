"""The demo as a new user runs it, and what it must show on any machine of this kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from joulewise.core.records import Bundle, load
from joulewise.demo import DATA, MODEL

pytestmark = pytest.mark.slow


def joulewise(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "joulewise", *map(str, arguments)]
    return subprocess.run(command, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "out"
    done = joulewise("demo", "-o", folder)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "result", "energy", "quality", "cost", "ledger",
    ]  # fmt: skip
    return folder


def test_one_by_one(one_by_one: Path) -> None:
    bundle = load(Bundle, one_by_one / "joulewise.json")
    (claim,) = bundle.claims
    assert bundle.verdict == "cheaper"
    assert claim.holds
    assert claim.difference.lower > -0.005
    assert claim.ratio.value <= 0.85
    assert claim.ratio.high < 1
    assert claim.ratio_as_found.value <= 0.5


def test_in_batches(tmp_path: Path) -> None:
    done = joulewise("demo", "--batch", "32", "-o", tmp_path / "out", "--json")
    (claim,) = json.loads(done.stdout)["claims"]
    assert done.returncode == 0, done.stderr
    assert claim["difference"]["lower"] > -0.005
    assert claim["ratio"]["value"] <= 0.65
    assert claim["ratio"]["high"] < 1


def test_verify_holds_and_then_notices_what_was_altered(one_by_one: Path) -> None:
    done = joulewise("verify", one_by_one)
    assert done.returncode == 0, done.stdout
    bundle = load(Bundle, one_by_one / "joulewise.json")

    model = one_by_one / bundle.artifact.main
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = joulewise("verify", one_by_one)
    assert done.returncode == 3
    assert "was altered" in done.stdout
    model.write_bytes(whole)

    path = one_by_one / "evidence" / "hold_out" / "labels.npy"
    labels = np.load(path)
    np.save(path, np.random.default_rng(0).permutation(labels))
    done = joulewise("verify", one_by_one)
    assert done.returncode == 3
    assert "labels were altered" in done.stdout


def test_smaller_networks_are_taught_tried_and_billed(tmp_path: Path) -> None:
    """With a few lessons the narrow ones lose too much, and each is told why it lost."""
    images = np.load(DATA)
    parts = {"lessons": slice(0, 1500), "judged": slice(1500, 8000)}
    for name, part in parts.items():
        arrays = {key: images[key][part] for key in ("x", "y")}
        np.savez(tmp_path / f"{name}.npz", **arrays)
    done = joulewise(
        "optimize", MODEL, "--data", tmp_path / "judged.npz", "--train", tmp_path / "lessons.npz",
        "--epochs", "1", "--proposals", "1", "--runtime", "onnxruntime", "-o", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    bundle = load(Bundle, tmp_path / "out" / "joulewise.json")
    taught = [t for t in bundle.trials if "distill" in [step.name for step in t.recipe.steps]]
    assert {step.name for trial in taught for step in trial.recipe.steps} >= {
        "drop_blocks", "prune", "distill", "static_int8", "cascade",
    }  # fmt: skip
    assert not [trial for trial in taught if trial.state == "failed"]
    assert all(trial.reason for trial in taught if trial.recipe != bundle.recipe)
    assert 0 < bundle.ledger.stages_j["training"].low < bundle.ledger.total_j.low
    assert all(claim.difference.lower > -0.005 for claim in bundle.claims if claim.holds)
