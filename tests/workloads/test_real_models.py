"""Real models on which int8 is a trap: what breaks or burns more must not be accepted."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

import joulewise
from joulewise.core.claim import Trial
from joulewise.core.records import Bundle
from tests.workloads import file_types, text_angle

pytestmark = pytest.mark.slow


def test_file_types_keep_their_answers(tmp_path: Path) -> None:
    """Every int8 variant of all operators breaks Magika, so none of them may win."""
    bundle = joulewise.optimize(
        file_types.model(), "tests.workloads.file_types:items", tmp_path / "out"
    )
    assert bundle.workload.metric == "agreement"
    for trial in _int8_of_all_operators(bundle):
        broken = trial.difference is not None and trial.difference.value < -bundle.margin
        assert trial.state == "failed" or broken, trial
        assert trial.recipe != bundle.recipe
        assert trial.reason
    compute = [t for t in bundle.trials if "operators=compute" in str(t.recipe)]
    assert any(trial.quality and trial.quality.value > 0.97 for trial in compute)
    assert _agrees_on_new_items(tmp_path / "out", bundle) >= 1 - bundle.margin


def test_text_angle_gains_from_the_runtime_at_most(tmp_path: Path) -> None:
    """No int8 variant pays on the PP-OCR angle classifier; each loser is told why."""
    bundle = joulewise.optimize(
        text_angle.model(), "tests.workloads.text_angle:items", tmp_path / "out"
    )
    assert bundle.workload.metric == "top1"
    assert not bundle.recipe.steps
    changed = [trial for trial in bundle.trials if trial.recipe.steps]
    assert len(changed) >= 5
    assert all(trial.reason for trial in changed)
    assert all(trial.state == "rejected" for trial in changed if trial.ratio is not None)


def _int8_of_all_operators(bundle: Bundle) -> list[Trial]:
    found = [
        trial
        for trial in bundle.trials
        for step in trial.recipe.steps
        if step.name == "nncf_int8" or step.parameters.get("operators") == "all"
    ]
    assert len(found) == 4
    return found


def _agrees_on_new_items(folder: Path, bundle: Bundle) -> float:
    """Run winner and original with plain ONNX Runtime on some items; return the agreement."""
    if bundle.artifact.format != "onnx":
        return 1.0  # the hold-out test has compared it already
    batch = {"bytes": file_types.items()["bytes"][:200]}
    answers = [
        onnxruntime.InferenceSession(str(path)).run(None, batch)[0].argmax(axis=1)
        for path in (folder / bundle.artifact.main, file_types.model())
    ]
    return float((answers[0] == answers[1]).mean())
