from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from joulewise.compress.cascade import Cascade
from joulewise.compress.compose import graphs
from joulewise.compress.gate import Gate
from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.stages import METADATA_KEY
from joulewise.core.errors import PassError, UsageError
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.records import Artifact
from joulewise.report.snippet import run_snippet
from joulewise.testing import models
from joulewise.workload.store import Store, write_store
from tests.report.bundles import make_bundle

Array = npt.NDArray[Any]


def run(path: Path, x: Array) -> list[Array]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [np.asarray(values) for values in session.run(None, {"x": x})]


def blurred(source: Path, path: Path, spread: float = 2.5) -> Path:
    """Write a model with noise on the weights of its last layer: a crude first stage."""
    model = onnx.load(source)
    for tensor in model.graph.initializer:
        if tensor.name == "head":
            head = numpy_helper.to_array(tensor)
            noise = np.random.default_rng(7).normal(0, spread * head.std(), head.shape)
            tensor.CopyFrom(numpy_helper.from_array((head + noise).astype(np.float32), "head"))
    onnx.save(model, path)
    return path


def mixed_store(folder: Path, model: Path, items: int, seed: int = 0) -> Store:
    """Write items between two typical ones, so that models are sure of some and not of others."""
    near, _ = models.labelled_items(model, items, seed=seed)
    random = np.random.default_rng(seed + 1)
    share = random.uniform(0.5, 1, (items, 1, 1, 1)).astype(np.float32)
    x = share * near + (1 - share) * near[random.permutation(items)]
    labels = models.reference_answers(model, x)
    wrong = random.permutation(items)[: items // 20]
    labels[wrong] = (labels[wrong] + 1) % models.CLASSES
    return write_store(folder, {"x": x}, {"x": "float32"}, labels, np.arange(items))


class Case:
    """A crude and a good model of one job, and items for them."""

    def __init__(self, folder: Path, *, batch: int | None = None, items: int = 400) -> None:
        self.original = models.conv_classifier(folder / "original.onnx", batch=batch)
        self.first = blurred(self.original, folder / "first.onnx")
        self.items = mixed_store(folder / "items", self.original, items)
        self.material = Material(calibrate=self.items, original=self.original)
        self.folder = folder

    def apply(self, **parameters: Any) -> Path:
        made = self.folder / "made"
        made.mkdir(exist_ok=True)
        assert Cascade(**parameters).apply(self.first, self.material, made) == ("model.onnx",)
        assert [path.name for path in made.iterdir()] == ["model.onnx"]
        return made / "model.onnx"

    def x(self, items: int) -> Array:
        return np.asarray(self.items.inputs["x"][:items], np.float32)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def note(path: Path) -> dict[str, Any]:
    (entry,) = [x for x in onnx.load(path).metadata_props if x.key == METADATA_KEY]
    found: dict[str, Any] = json.loads(entry.value)
    return found


def test_threshold_keeps_the_loss_and_says_how(case: Case) -> None:
    made = case.apply(loss=0.02)
    said, x = note(made), case.x(400)
    scores = run(case.first, x)[0]
    gate = Gate(signal="margin", threshold=said["threshold"], probabilities=False)
    deferred = gate.deferred(scores)
    assert said["deferred_ratio"] == pytest.approx(np.mean(deferred))
    assert 0.05 < said["deferred_ratio"] < 0.95
    assert said["items"] == 400
    assert said["confidence"] == pytest.approx(0.95)
    assert said["lost"] - said["gained"] <= 0.02 * 400
    wanted = np.where(deferred[:, None], run(case.original, x)[0], scores)
    np.testing.assert_allclose(run(made, x)[0], wanted, rtol=1e-4, atol=1e-4)


def test_labels_count_where_there_are_any(case: Case) -> None:
    """Where the first stage's answers are the labels it loses nothing; in agreement it does."""
    labels = np.argmax(run(case.first, case.x(400))[0], axis=1)
    case.material = replace(case.material, calibrate=replace(case.items, labels=labels))
    with pytest.raises(PassError, match="leave the second stage out"):
        case.apply(loss=0.02)
    case.material = replace(case.material, calibrate=replace(case.items, labels=None))
    assert note(case.apply(loss=0.02))["deferred_ratio"] > 0.05


def test_search_items_help_where_the_others_are_few(case: Case, tmp_path: Path) -> None:
    search = mixed_store(tmp_path / "search", case.original, 300, seed=5)
    case.material = replace(case.material, search=search)
    assert note(case.apply(loss=0.02))["items"] == 400
    assert note(case.apply(loss=0.005))["items"] == 700


def test_second_stage_can_be_made_by_steps(case: Case) -> None:
    made = case.apply(second="static_int8(operators=compute)", threshold=3.0)
    chosen = onnx.load(made).graph.node[-1]
    (branch,) = [a.g for a in chosen.attribute if a.name == "then_branch"]
    assert "QuantizeLinear" in {node.op_type for node in branch.node}
    x = case.x(64)
    agree = np.argmax(run(made, x)[0], axis=1) == np.argmax(run(case.original, x)[0], axis=1)
    assert np.mean(agree) > 0.9


@pytest.mark.parametrize("batch", [1, 4])
def test_fixed_batch(tmp_path: Path, batch: int) -> None:
    case = Case(tmp_path, batch=batch, items=101)
    for threshold, model in ((0.0, case.first), (1e30, case.original)):
        made, x = case.apply(threshold=threshold), case.x(batch)
        dims = onnx.load(made).graph.input[0].type.tensor_type.shape.dim
        assert dims[0].dim_value == batch
        np.testing.assert_allclose(run(made, x)[0], run(model, x)[0], rtol=1e-5, atol=1e-5)


def baked(path: Path, source: Path) -> Path:
    """Write a model of batch 4 that cannot run with another: a size of 4 is among its constants."""
    model = onnx.load(source)
    (flatten,) = [node for node in model.graph.node if node.op_type == "Flatten"]
    flatten.CopyFrom(helper.make_node("Reshape", [flatten.input[0], "sizes"], list(flatten.output)))
    model.graph.initializer.append(numpy_helper.from_array(np.array([4, 96]), "sizes"))
    onnx.save(model, path)
    return path


def test_second_stage_whose_batch_is_baked_in_gets_whole_batches(tmp_path: Path) -> None:
    case = Case(tmp_path, batch=4, items=100)
    original = baked(tmp_path / "baked.onnx", case.original)
    case.material = replace(case.material, original=original)
    x = case.x(4)
    scores = run(case.first, x)[0]
    gate = Gate(signal="margin", threshold=0.0, probabilities=False)
    median = float(np.median(gate.confidence(scores)))
    deferred = replace(gate, threshold=median).deferred(scores)
    assert deferred.sum() == 2
    made = case.apply(threshold=median)
    kinds = [node.op_type for g in graphs(onnx.load(made).graph) for node in g.node]
    assert kinds.count("Gather") == 1  # of the answers
    wanted = np.where(deferred[:, None], run(original, x)[0], scores)
    np.testing.assert_allclose(run(made, x)[0], wanted, rtol=1e-4, atol=1e-4)


def test_items_that_look_at_each_other_are_not_torn_apart(case: Case) -> None:
    """A second stage that subtracts the mean of its batch answers otherwise in smaller batches."""
    model = onnx.load(case.original)
    mean = helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1)
    model.graph.node.insert(0, mean)
    model.graph.node.insert(1, helper.make_node("Sub", ["x", "mean"], ["centred"]))
    model.graph.node[2].input[0] = "centred"
    onnx.save(model, case.original)
    with pytest.raises(PassError, match="as they do alone"):
        case.apply(threshold=3.0)


def test_weights_in_other_files_come_along(tmp_path: Path) -> None:
    case = Case(tmp_path)
    case.material = replace(
        case.material,
        original=models.conv_classifier(tmp_path / "apart.onnx", external=True),
    )
    made, x = case.apply(threshold=1e30), case.x(5)
    np.testing.assert_allclose(run(made, x)[0], run(case.original, x)[0], rtol=1e-5, atol=1e-5)


def test_original_cannot_be_its_own_first_stage(case: Case) -> None:
    case.first = case.original
    for original in (case.original, None):
        case.material = replace(case.material, original=original)
        with pytest.raises(PassError, match="before the cascade"):
            case.apply(threshold=1.0)


def test_models_of_other_inputs_are_refused(case: Case, tmp_path: Path) -> None:
    case.first = models.mlp_classifier(tmp_path / "mlp.onnx")
    with pytest.raises(PassError, match="take the same inputs"):
        case.apply(threshold=1.0)


def two_outputs(source: Path, *, extra: str) -> None:
    """Give a model a second output: a row per item, one row for all, or of another shape."""
    model = onnx.load(source)
    node = {
        "rows": helper.make_node("Flatten", ["maps"], ["more"]),
        "one row": helper.make_node("ReduceSum", ["scores", "axis"], ["more"], keepdims=1),
        "ranks": helper.make_node("Identity", ["maps"], ["more"]),
    }[extra]
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axis"))
    model.graph.node.append(node)
    shape = ["n", 6, 8, 8] if extra == "ranks" else ["k", "c"]
    model.graph.output.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, shape))
    onnx.save(model, source)


def test_other_outputs_are_merged_the_same_way(case: Case) -> None:
    for path in (case.first, case.original):
        two_outputs(path, extra="rows")
    made, x = case.apply(threshold=3.0), case.x(7)
    ours, theirs = run(case.first, x), run(case.original, x)
    deferred = Gate(signal="margin", threshold=3.0, probabilities=False).deferred(ours[0])
    for found, one, two in zip(run(made, x), ours, theirs, strict=True):
        wanted = np.where(deferred[:, None], two, one)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("extras", "words"),
    [
        (("one row", "one row"), "row per item"),
        (("rows", "ranks"), "shapes"),
        (("rows", None), "shapes"),
    ],
)
def test_other_outputs_that_cannot_be_merged_are_one_line(
    case: Case, extras: tuple[str | None, ...], words: str
) -> None:
    for path, extra in zip((case.first, case.original), extras, strict=True):
        if extra:
            two_outputs(path, extra=extra)
    with pytest.raises(PassError, match=words) as caught:
        case.apply(threshold=3.0)
    assert "\n" not in str(caught.value)


def test_models_without_scores_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores"])]
    ends: list[dict[str, Any]] = [{"x": ["n", 16]}, {"scores": ["n", 1]}]
    paths = []
    for name in ("first", "original"):
        weights = {"w": np.full((16, 1), len(name))}
        paths.append(models.save_model(tmp_path / f"{name}.onnx", nodes, weights, *ends))
    store = models.vector_store(tmp_path / "items", 20)
    with pytest.raises(PassError, match="score per class"):
        Cascade(threshold=1.0).apply(
            paths[0], Material(calibrate=store, original=paths[1]), tmp_path
        )


def test_openvino_models_are_refused(case: Case, tmp_path: Path) -> None:
    case.first = tmp_path / "model.xml"
    case.first.write_text("<net/>")
    with pytest.raises(PassError, match="static_int8 in place of nncf_int8"):
        case.apply(threshold=1.0)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"second": "static_int8(operators=compute"}, "recipe"),
        ({"second": "static_int8(bits=4)"}, "bits"),
        ({"second": "nothing"}, "nothing"),
        ({"signal": "mood"}, "mood"),
        ({"threshold": "high"}, "cannot be meant"),
        ({"loss": 2.0}, "loss"),
    ],
)
def test_parameters_that_cannot_be_meant_are_told_before_work(
    parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        check_step(Step(name="cascade", parameters=parameters))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_script_of_the_bundle_runs_it(
    case: Case, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deferred items of a batch of four get the second stage's answers there as well."""
    pytest.importorskip(runtime)
    made = case.apply(threshold=3.0)
    monkeypatch.chdir(made.parent)
    settings = RunSettings(runtime=runtime, threads=1, precision="f32")
    bundle = make_bundle(
        "rerun",
        recipe=Recipe(run=settings),
        artifact=Artifact(files={"model.onnx": "a" * 64}, format="onnx", size_bytes=1),
    )
    bundle = replace(bundle, workload=replace(bundle.workload, batch_items=4))
    scope: dict[str, Any] = {}
    exec(run_snippet(bundle), scope)  # noqa: S102  what the card tells users to run
    x = case.x(4)
    np.testing.assert_allclose(scope["predict"](x), run(made, x)[0], rtol=1e-3, atol=1e-3)


def test_items_of_training_are_never_judged_with(case: Case, tmp_path: Path) -> None:
    """Not even opened: a first stage that was trained on them is too sure of them."""
    empty = Store(folder=tmp_path, items=0, inputs={}, dtypes={}, labels=None)
    case.material = replace(case.material, train=empty)
    assert note(case.apply(loss=0.02))["items"] == 400
