from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from joulewise.compress.drop_blocks import DropBlocks, spaced
from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.core.errors import PassError, UsageError
from joulewise.core.recipe import Step
from joulewise.demo import MODEL
from joulewise.learn.blocks import Block, residual_blocks
from joulewise.learn.graph import plain
from joulewise.testing import models
from joulewise.workload.store import write_store
from tests.learn.graphs import TOKENS, WIDTH, Chain, attention

Array = np.ndarray[Any, np.dtype[Any]]

NUMBERS = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blocks(model: Path) -> tuple[Block, ...]:
    return residual_blocks(plain(onnx.load(model)))


def images(folder: Path, model: Path) -> Material:
    return Material(calibrate=models.labelled_store(folder / "items", model, 40))


def dropped(step: DropBlocks, model: Path, known: Material) -> Path:
    folder = model.parent / f"dropped{next(NUMBERS)}"
    folder.mkdir()
    assert step.apply(model, known, folder) == ("model.onnx",)
    return folder / "model.onnx"


def left(model: Path) -> set[str]:
    """Return which residual blocks of `residual_classifier` a model still has."""
    names = {tensor.name for tensor in onnx.load(model).graph.initializer}
    return {name.split(".")[0] for name in names if name.startswith("block")}


def silenced(model: Path, *weights: str) -> Path:
    """Write a model with some weights zero."""
    made = onnx.load(model)
    for tensor in made.graph.initializer:
        if tensor.name in weights:
            zero = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(zero, tensor.name))
    target = model.with_name("silenced.onnx")
    onnx.save(made, target)
    return target


def test_blocks_of_a_resnet(tmp_path: Path) -> None:
    """The ReLU after a sum belongs to its block: what comes out is like what went in."""
    found = blocks(models.residual_classifier(tmp_path / "m.onnx"))
    assert found == tuple(Block(start=f"block{n}", end=f"block{n + 1}") for n in range(3))


def test_blocks_of_the_demo_network() -> None:
    """Three stages of two blocks, of which the first changes the shape."""
    found = blocks(MODEL)
    assert found == tuple(
        Block(start=f"relu_{first}", end=f"relu_{first + 2}") for first in (2, 6, 10)
    )


@pytest.mark.parametrize("norm", [True, False])
def test_a_layer_of_a_transformer_is_one_block(norm: bool, tmp_path: Path) -> None:
    """Attention and feed-forward take turns."""
    found = blocks(attention(tmp_path / "m.onnx", layers=3, norm=norm))
    end = ".normal" if norm else ""
    first = "embed.normal" if norm else "embed.out"
    ends = [f"fed{end}", f"1.fed{end}", f"2.fed{end}"]
    assert found == tuple(
        Block(start=start, end=end) for start, end in zip([first, *ends], ends, strict=False)
    )


def test_a_layer_after_a_lone_block_is_not_part_of_it(tmp_path: Path) -> None:
    chain = Chain().conv(6)
    start = chain.value
    chain.conv(6).add("Relu").conv(6).add("Add", start)
    end = chain.value
    model = chain.conv(6).add("Relu").pooled_head().model(tmp_path / "m.onnx")
    assert blocks(model) == (Block(start=start, end=end),)


def test_no_blocks_where_something_inside_is_used_outside(tmp_path: Path) -> None:
    chain = Chain().conv(6).add("Relu")
    start = chain.value
    inside = chain.conv(6).add("Relu").value
    model = chain.conv(6).add("Add", start).add("Mul", inside).pooled_head()
    assert blocks(model.model(tmp_path / "m.onnx")) == ()


def test_a_block_that_adds_nothing_goes_first(tmp_path: Path) -> None:
    model = models.residual_classifier(tmp_path / "m.onnx")
    known = images(tmp_path, model)
    counts = [left(dropped(DropBlocks(count=count), model, known)) for count in (1, 2, 3)]
    assert counts == [{"block1", "block3"}, {"block1"}, set()]
    assert left(dropped(DropBlocks(ratio=0.5), model, known)) == counts[1]  # 1.5, rounded up


def test_the_rest_computes_what_it_did(tmp_path: Path) -> None:
    model = models.residual_classifier(tmp_path / "m.onnx")
    known = images(tmp_path, model)
    made = dropped(DropBlocks(keep="1"), model, known)
    assert left(made) == {"block2"}
    x = {"x": known.calibrate.batch(0, 5)["x"]}
    still = silenced(model, "block1.second", "block3.second")
    (found,), (expected,) = (models.reference_outputs(path, x) for path in (made, still))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_layers_of_a_transformer_go(tmp_path: Path) -> None:
    model = attention(tmp_path / "m.onnx", layers=3, norm=False)
    x = np.random.default_rng(0).standard_normal((20, TOKENS, WIDTH)).astype(np.float32)
    store = write_store(tmp_path / "items", {"x": x}, {"x": "float32"}, None, np.arange(20))
    made = dropped(DropBlocks(count=2, order="spaced"), model, Material(calibrate=store))
    ends = [f"{at}{name}{end}" for at in ("1.", "2.") for name in ("out", "narrow")
            for end in ("", ".bias")]  # fmt: skip
    still = silenced(model, *ends)
    (found,), (expected,) = (models.reference_outputs(path, {"x": x}) for path in (made, still))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("total", "kept", "expected"),
    [(12, 6, (0, 2, 4, 7, 9, 11)), (6, 3, (0, 2, 5)), (5, 5, (0, 1, 2, 3, 4)), (4, 1, (0,)),
     (4, 0, ())],
)  # fmt: skip
def test_evenly_spaced(total: int, kept: int, expected: tuple[int, ...]) -> None:
    assert spaced(total, kept) == expected


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (DropBlocks(count=4), "4 blocks cannot go: the graph has 3"),
        (DropBlocks(keep="0,3"), "block 3 cannot be kept: the graph has 3, 0 to 2"),
        (DropBlocks(keep="0, 1, 2"), "the graph has 3 blocks, all of which are kept"),
    ],
)
def test_what_cannot_be_done_is_one_line(step: DropBlocks, message: str, tmp_path: Path) -> None:
    model = models.residual_classifier(tmp_path / "m.onnx")
    with pytest.raises(PassError, match=message):
        dropped(step, model, images(tmp_path, model))


@pytest.mark.parametrize(
    "parameters",
    [{}, {"count": -1}, {"count": 1, "keep": "0"}, {"keep": "0,x"}, {"keep": "-1"},
     {"keep": "0,,1"}, {"count": 1, "order": "luck"}, {"count": "two"},
     {"ratio": 1.5}, {"ratio": 0.5, "count": 1}],
)  # fmt: skip
def test_parameters_that_make_no_sense(parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        check_step(Step(name="drop_blocks", parameters=parameters))


def test_one_block_to_keep_may_be_a_number(tmp_path: Path) -> None:
    check_step(Step(name="drop_blocks", parameters={"keep": 0}))
    model = models.residual_classifier(tmp_path / "m.onnx")
    step = DropBlocks(keep=0)  # type: ignore[arg-type]  # as a recipe gives it
    assert left(dropped(step, model, images(tmp_path, model))) == {"block1"}
