from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from joulewise.compress.material import Material
from joulewise.compress.process import apply_step
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.records import Artifact, Bundle
from joulewise.report.card import render_card
from joulewise.report.page import render_page
from joulewise.report.snippet import run_requirement, run_snippet
from joulewise.testing.models import conv_classifier, labelled_store, reference_outputs
from tests.report.bundles import make_bundle, make_workload


@pytest.mark.parametrize("verdict", ["cheaper", "rerun", "keep"])
def test_card_tells_what_how_and_where(verdict: str) -> None:
    card = render_card(make_bundle(verdict))
    assert card.startswith("---\ntags:\n- joulewise\n")
    assert "joulewise verify DIR" in card
    assert "AMD EPYC 7B13" in card
    assert "a" * 64 in card
    assert "- **cost**: the search took 4.12 kJ" in card


def test_card_claims_no_carbon() -> None:
    assert "co2" not in render_card(make_bundle()).lower()


def test_metric_without_a_hub_name_is_left_out() -> None:
    bundle = make_bundle(workload=replace(make_workload(), metric="agreement"))
    assert "metrics:" not in render_card(bundle)
    assert "metrics:\n- accuracy\n" in render_card(make_bundle())


def test_card_escapes_foreign_text() -> None:
    workload = make_workload(model="a`b\n# x", classes=())
    card = render_card(make_bundle(workload=workload, summary="<script> *now* [x](y)"))
    assert "<script>" not in card
    assert r"&lt;script> \*now\* \[x\](y)" in card
    assert r"``a`b\n# x``" in card


def test_page_and_card_show_the_same_script() -> None:
    bundle = make_bundle("rerun")
    assert run_snippet(bundle) in render_card(bundle)
    assert "session.intra_op.allow_spinning" in render_page(bundle)


def test_script_of_a_model_in_openvino_format() -> None:
    script = run_snippet(make_bundle("cheaper"))
    assert "read_model('model/model.xml')" in script
    assert "'INFERENCE_NUM_THREADS': '1'" in script
    assert run_requirement(make_bundle("cheaper")) == "openvino==2025.0.0 numpy"


def test_script_of_an_onnx_model_run_by_openvino() -> None:
    recipe = Recipe(run=RunSettings(runtime="openvino", precision="f32"))
    script = run_snippet(make_bundle("rerun", recipe=recipe))
    assert "read_model('model/model.onnx')" in script
    assert "'INFERENCE_PRECISION_HINT': 'f32'" in script


def test_unknown_version_is_not_pinned() -> None:
    assert run_requirement(make_bundle("rerun", packages={})) == "onnxruntime numpy"


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_script_runs(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(runtime)
    np = pytest.importorskip("numpy")
    monkeypatch.chdir(tmp_path)
    bundle = _demo_bundle(tmp_path, runtime)
    scope: dict[str, Any] = {}
    exec(run_snippet(bundle), scope)  # noqa: S102  what the card tells users to run
    assert scope["predict"](np.zeros((32, 1, 28, 28), np.float32)).shape == (32, 10)


def test_script_of_a_litert_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np = pytest.importorskip("numpy")
    monkeypatch.chdir(tmp_path)
    model = conv_classifier(tmp_path / "model.onnx")
    items = labelled_store(tmp_path / "items", model, 8)
    made = apply_step(Step(name="litert"), model, Material(calibrate=items), tmp_path / "made")
    recipe = Recipe(steps=(Step(name="litert"),), run=RunSettings(runtime="litert"))
    artifact = replace(made, files={f"made/{made.main}": "a" * 64})
    bundle = make_bundle("cheaper", recipe=recipe, artifact=artifact, packages={})
    assert run_requirement(bundle) == "ai-edge-litert numpy"
    scope: dict[str, Any] = {}
    exec(run_snippet(bundle), scope)  # noqa: S102  what the card tells users to run
    x = items.batch(0, 1)["x"]
    (expected,) = reference_outputs(model, {"x": x})
    np.testing.assert_allclose(scope["predict"](x), expected, rtol=1e-4, atol=1e-5)


def _demo_bundle(folder: Path, runtime: str) -> Bundle:
    model = resources.files("joulewise.demo") / "fashion_mnist.onnx"
    (folder / "model.onnx").write_bytes(model.read_bytes())
    run = RunSettings(runtime=runtime, threads=1, spinning=False, graph="all", precision="f32")
    artifact = Artifact(files={"model.onnx": "a" * 64}, format="onnx", size_bytes=1)
    return make_bundle("rerun", recipe=Recipe(run=run), artifact=artifact)
