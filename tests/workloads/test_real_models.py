"""Real models on which int8 is a trap: what breaks or burns more must not be accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

import joulewise
from joulewise.compress.material import Material
from joulewise.compress.process import apply_step
from joulewise.core.claim import Trial
from joulewise.core.recipe import parse_steps
from joulewise.core.records import Bundle
from joulewise.learn.source import as_onnx
from joulewise.workload.store import Store, write_store
from tests.workloads import file_types, sentences, text_angle

Array = npt.NDArray[np.float32]

pytestmark = pytest.mark.slow

USUAL = joulewise.Settings(proposals=0, runtimes=("onnxruntime", "openvino"))
"""What is tried in any case where LiteRT is not there; `test_demo` tries all."""


def test_file_types_keep_their_answers(tmp_path: Path) -> None:
    """Every int8 variant of all operators breaks Magika, so none of them may win."""
    bundle = joulewise.optimize(
        file_types.model(), "tests.workloads.file_types:items", tmp_path / "out",
        settings=USUAL,
    )  # fmt: skip
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
        text_angle.model(), "tests.workloads.text_angle:items", tmp_path / "out",
        settings=USUAL,
    )  # fmt: skip
    assert bundle.workload.metric == "top1"
    assert not bundle.recipe.steps
    changed = [trial for trial in bundle.trials if trial.recipe.steps]
    assert all(trial.reason for trial in changed)
    assert len(changed) >= 5
    assert all(trial.state == "rejected" for trial in changed if trial.ratio is not None)


def test_int8_keeps_the_vectors_of_sentences(tmp_path: Path) -> None:
    """Smoothed MiniLM is nearer to the original than without, however it is quantized."""
    model = as_onnx(sentences.model(), "tests.workloads.sentences:items", tmp_path / "float")
    arrays = sentences.items()
    rows = np.arange(128)
    items = write_store(tmp_path / "items", arrays, dict.fromkeys(arrays, "int64"), None, rows)
    fresh = {name: values[256:384] for name, values in arrays.items()}
    vectors = {
        recipe: onnxruntime.InferenceSession(_made(recipe, model, items)).run(None, fresh)[0]
        for recipe in ("", *(f"{x}{y}" for x in ("", "smooth + ") for y in VECTORS))
    }
    for quantized, least in VECTORS.items():
        plain, smooth = (
            _cosines(vectors[recipe], vectors[""]).mean()
            for recipe in (quantized, f"smooth + {quantized}")
        )
        assert 0.98 < plain < smooth
        assert smooth > least


VECTORS = {"dynamic_int8": 0.995, "static_int8(operators=transformer)": 0.995}
"""Ways to quantize a transformer, and the least mean cosine once it was smoothed."""


def _made(recipe: str, model: Path, items: Store) -> Path:
    """Return the file that a recipe gives, the model itself for none."""
    for step in parse_steps(recipe) if recipe else ():
        folder = model.parent / f"{step.name}-{recipe}"
        model = folder / apply_step(step, model, Material(calibrate=items), folder).main
    return model


def _cosines(ours: Array, theirs: Array) -> Array:
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    cosines: Array = (ours * theirs).sum(axis=1) / lengths
    return cosines


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
