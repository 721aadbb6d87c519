"""A model that forgot a rare class, planted in real jobs: the average passes, the slices do not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from joulewise.demo import DATA, MODEL
from tests.cli.program import ROOT, joulewise
from tests.workloads import file_types, text_angle

pytestmark = pytest.mark.slow

SHARE = 0.06
"""Of the items that are of the class that is forgotten; the margin is 10 points."""

Arrays = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A job in which one class is rare.

    Args:
        model: the original.
        arrays: items, and labels or slices.
        label: class that is forgotten.
        slice: how the slice is called that suffers.
        asked: options beside those of all jobs.
    """

    model: Path
    arrays: Arrays
    label: int
    slice: str
    asked: tuple[str, ...] = ()


def rarely(of_class: np.ndarray, arrays: Arrays) -> Arrays:
    """Return the items, with so few of a class that they are SHARE of all."""
    members, others = np.flatnonzero(of_class), np.flatnonzero(~of_class)
    kept = members[: round(len(others) * SHARE / (1 - SHARE))]
    rows = np.sort(np.concatenate([others, kept]))
    return {name: values[rows] for name, values in arrays.items()}


def demo() -> Planted:
    with np.load(DATA) as archive:
        x, y = archive["x"][:6000], archive["y"][:6000]
    return Planted(model=MODEL, arrays=rarely(y == 5, {"x": x, "y": y}), label=5, slice="5")


def angle() -> Planted:
    arrays = rarely((items := text_angle.items())["y"] == 1, items)
    return Planted(model=text_angle.model(), arrays=arrays, label=1, slice="1")


def types() -> Planted:
    """Magika has no labels here: its own answers are what is kept, and name the slices."""
    items = {"bytes": file_types.items()["bytes"][:900]}
    session = onnxruntime.InferenceSession(file_types.model())
    answers = session.run(None, items)[0].argmax(axis=1)
    shares = np.bincount(answers) / len(answers)
    label = int(np.abs(shares - SHARE).argmin())
    kind = np.where(answers == label, "rare", "common")
    return Planted(
        model=file_types.model(),
        arrays=rarely(answers == label, {**items, "kind": kind}),
        label=label,
        slice="rare",
        asked=("--slice", "kind"),
    )


@pytest.fixture
def plugged(tmp_path: Path) -> dict[str, str]:
    """The environment in which somebody's distribution with a pass is installed."""
    folder = tmp_path / "forgetful-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: forgetful\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[joulewise.passes]\nforgetful = tests.workloads.forgetful:Forgetful\n"
    )
    known = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT), known])}


@pytest.mark.parametrize("make", [demo, angle, types])
def test_a_class_that_was_forgotten_refuses_the_model(
    tmp_path: Path, plugged: dict[str, str], make: Callable[[], Planted]
) -> None:
    job = make()
    np.savez(tmp_path / "items.npz", **job.arrays)
    done = joulewise(
        "compress", job.model, "--recipe", f"forgetful(label={job.label})", "--margin", "10",
        "--data", tmp_path / "items.npz", *job.asked, "-o", tmp_path / "out", "--json",
        environment=plugged,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    claim = json.loads(done.stdout)["claim"]
    checks = {check["name"]: check for check in claim["checks"]}
    assert checks["quality"]["holds"]
    assert not checks["slices"]["holds"]
    assert checks["slices"]["detail"].startswith(f"{job.slice} -")
    assert claim["difference"]["worst_slice"] == job.slice
    assert claim["difference"]["worst_slice_value"] < -0.5
