"""Models for LiteRT: what they answer, what they are called, and what cannot be converted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from onnx import helper

from joulewise.compress.litert import KINDS, Litert
from joulewise.compress.process import ENVIRONMENT
from joulewise.core.child import Child
from joulewise.core.errors import ProgramError
from joulewise.core.recipe import RunSettings
from joulewise.export.litert import LiteRt
from joulewise.testing import models
from joulewise.workload.store import Store

ROWS = 4
Convert = Callable[[Path, Store, str], Path]


@pytest.fixture(scope="module")
def worker() -> Iterator[Child]:
    with Child("joulewise.compress.worker", ENVIRONMENT) as child:
        yield child


@pytest.fixture
def convert(worker: Child, tmp_path: Path) -> Convert:
    def one(model: Path, items: Store, int8: str) -> Path:
        folder = tmp_path / f"{int8}-from-{model.suffix[1:]}"
        folder.mkdir()
        (made,) = worker.ask(
            "apply", name="litert", parameters={"int8": int8}, source=str(model),
            stores={"calibrate": str(items.folder)}, original=None, seed=0,
            checkpoint=str(tmp_path / "progress"), training_s=None, values=False,
            batch_items=ROWS, folder=str(folder),
        )  # fmt: skip
        assert [path.name for path in folder.iterdir()] == [made]
        return folder / str(made)

    return one


@pytest.mark.parametrize("make", [models.conv_classifier, models.mlp_classifier])
def test_all_kinds_do_the_same_job_on_float_inputs(
    make: Callable[[Path], Path], convert: Convert, tmp_path: Path
) -> None:
    model = make(tmp_path / "model.onnx")
    items = models.labelled_store(tmp_path / "items", model, 60)
    wanted = models.reference_answers(model, items.batch(0, 60))
    for kind in KINDS:
        path = convert(model, items, kind)
        batches = [items.batch(row, ROWS) for row in range(0, 60, ROWS)]
        shapes = {"x": batches[0]["x"].shape}
        program = LiteRt().open(path, RunSettings(runtime="litert", threads=1), shapes)
        scores = np.concatenate([program.run(batch)[0] for batch in batches])
        assert scores.dtype == np.float32
        assert np.mean(np.argmax(scores, axis=1) == wanted) >= (1.0 if kind == "no" else 0.9)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_what_was_converted_before_is_only_rounded(
    kind: str, convert: Convert, tmp_path: Path
) -> None:
    model = models.conv_classifier(tmp_path / "model.onnx")
    items = models.labelled_store(tmp_path / "items", model, 12)
    converted = convert(model, items, "no")
    before = converted.read_bytes()
    assert convert(converted, items, kind).read_bytes() == convert(model, items, kind).read_bytes()
    assert converted.read_bytes() == before


def test_a_plain_interpreter_takes_inputs_by_their_names(convert: Convert, tmp_path: Path) -> None:
    """Without joulewise, and in whatever order; integers may have become smaller."""
    model = models.masked_pooling(tmp_path / "model.onnx")
    items = models.masked_store(tmp_path / "items", 8)
    path = convert(model, items, "no")
    batch = items.batch(0, ROWS)
    runner = Interpreter(str(path)).get_signature_runner()
    types = {name: details["dtype"] for name, details in runner.get_input_details().items()}
    assert set(types) == {"ids", "attention_mask"}
    found = runner(**{name: batch[name].astype(types[name]) for name in reversed(types)})
    (expected,) = models.reference_outputs(model, batch)
    convert(model, items, "static")  # calibrates with such inputs
    np.testing.assert_allclose(found["output_0"], expected, rtol=1e-4, atol=1e-5)


def test_what_has_no_products_is_not_passed_off_as_quantized(
    convert: Convert, tmp_path: Path
) -> None:
    model = models.pointwise(tmp_path / "model.onnx")
    items = models.vector_store(tmp_path / "items", 8)
    with pytest.raises(ProgramError, match="no operator that this pass can quantize"):
        convert(model, items, "dynamic")


def test_an_operator_that_torch_does_not_know_is_one_line(convert: Convert, tmp_path: Path) -> None:
    nodes = [helper.make_node("Det", ["x"], ["scores"])]
    shapes: dict[str, list[int | str]] = {"x": ["n", 2, 2]}
    model = models.save_model(tmp_path / "m.onnx", nodes, {}, shapes, {"scores": ["n"]})
    items = models.vector_store(tmp_path / "items", 8)
    with pytest.raises(ProgramError, match="Det") as caught:
        convert(model, items, "no")
    assert "\n" not in str(caught.value)


def test_an_unknown_kind_names_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="no, dynamic, static"):
        Litert(int8="all")
