from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.compress.prune import Prune
from joulewise.core.errors import PassError, UsageError
from joulewise.core.recipe import Step
from joulewise.demo import DATA, MODEL
from joulewise.learn.network import open_network
from joulewise.learn.structure import multiplications
from joulewise.testing import models
from joulewise.workload.store import write_store
from tests.learn.graphs import IMAGE, TOKENS, WIDTH, Chain, attention

Array = np.ndarray[Any, np.dtype[Any]]

IMPORTANCE = ["taylor", "magnitude", "activation"]
NUMBERS = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def material(folder: Path, shape: tuple[int, ...] = IMAGE, *, labelled: bool = True) -> Material:
    random = np.random.default_rng(0)
    x = random.standard_normal((40, *shape)).astype(np.float32)
    labels = random.integers(4, size=40) if labelled else None
    store = write_store(folder / "items", {"x": x}, {"x": "float32"}, labels, np.arange(40))
    return Material(calibrate=store)


def pruned(pruning: Prune, model: Path, known: Material) -> Path:
    folder = model.parent / f"pruned{next(NUMBERS)}"
    folder.mkdir()
    assert pruning.apply(model, known, folder) == ("model.onnx",)
    return folder / "model.onnx"


def widths(model: Path) -> dict[str, int]:
    """Return initializer of a layer's weights -> number of its outputs."""
    network = open_network(model)
    return {network.weight_of(key): len(layer.weight) for key, layer in network.layers.items()}


def work(model: Path) -> float:
    """Return the multiplications of one item."""
    network = open_network(model)
    network.eval()
    shape = network.to_onnx().graph.input[0].type.tensor_type.shape.dim
    one = torch.zeros((1, *(dim.dim_value for dim in shape[1:])))
    return sum(multiplications(network, (one,)).values())


def outputs(model: Path, x: Array) -> Array:
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def chain(folder: Path, *wide: int) -> Path:
    made = Chain()
    for number, width in enumerate(wide):
        made.conv(width, name=f"w{number}").add("Relu")
    return made.pooled_head().model(folder / "m.onnx")


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("importance", IMPORTANCE)
def test_ratio_of_multiplications_is_reached(ratio: float, importance: str, tmp_path: Path) -> None:
    """One channel less would have been too little; the dearest of one is 1/12 of a layer."""
    model = chain(tmp_path, 12, 16)
    made = pruned(Prune(ratio=ratio, importance=importance, align=1), model, material(tmp_path))
    left = work(made) / work(model)
    assert (1 - ratio) - 1 / 12 <= left <= 1 - ratio


@pytest.mark.parametrize("labelled", [True, False])
def test_widths_are_multiples(labelled: bool, tmp_path: Path) -> None:
    model = chain(tmp_path, 20, 32, 6)
    made = pruned(Prune(ratio=0.5), model, material(tmp_path, labelled=labelled))
    found = widths(made)
    assert found["w0"] in {20, 16, 8}
    assert found["w1"] in {32, 24, 16, 8}
    assert (found["w2"], found["head"]) == (6, 4), "narrower than one step already"
    assert work(made) <= 0.5 * work(model)


def test_same_share_of_every_group(tmp_path: Path) -> None:
    model = chain(tmp_path, 12, 16)
    made = pruned(Prune(ratio=0.25, scope="uniform", align=1), model, material(tmp_path))
    assert widths(made) == {"w0": 9, "w1": 12, "head": 4}


@pytest.mark.parametrize("importance", IMPORTANCE)
@pytest.mark.parametrize("labelled", [True, False])
def test_channels_that_do_nothing_go_first(importance: str, labelled: bool, tmp_path: Path) -> None:
    made = Chain().conv(12, name="a").add("Relu").conv(8, name="b").add("Relu").pooled_head()
    dead = [1, 2, 5, 7, 8, 11]
    for name in ("a", "a.bias"):
        made.weights[name][dead] = 0
    made.weights["b"][:, dead] = 0
    model = made.model(tmp_path / "m.onnx")
    known = material(tmp_path, labelled=labelled)
    result = pruned(Prune(ratio=0.45, importance=importance, align=1), model, known)
    (kept,) = (x for x in onnx.load(result).graph.initializer if x.name == "a")
    alive = np.delete(made.weights["a"], dead, axis=0).astype(np.float32)
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(kept), alive)
    x = np.random.default_rng(3).standard_normal((5, *IMAGE)).astype(np.float32)
    np.testing.assert_allclose(outputs(result, x), outputs(model, x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("costs", "expected"), [("800 0", (12, 16)), ("0 800", (16, 12))])
def test_measured_costs_say_where_channels_go(
    costs: str, expected: tuple[int, int], tmp_path: Path
) -> None:
    """A quarter of either group is a fifth of the multiplications."""
    model = chain(tmp_path, 16, 16)
    made = pruned(Prune(ratio=0.2, align=4, costs=costs), model, material(tmp_path))
    found = widths(made)
    assert (found["w0"], found["w1"]) == expected


def test_heads_go_whole(tmp_path: Path) -> None:
    model = attention(tmp_path / "m.onnx")
    known = material(tmp_path, (TOKENS, WIDTH))
    found = widths(pruned(Prune(ratio=0, heads=0.3), model, known))
    assert found["query"] == found["key"] == found["value"] == WIDTH * 2 // 3
    both = widths(pruned(Prune(ratio=0.2, heads=0.3, align=1), model, known))
    assert both["query"] == WIDTH * 2 // 3
    assert both["wide"] < 16


def test_same_bytes_every_time(tmp_path: Path) -> None:
    model, known = chain(tmp_path, 8, 8), material(tmp_path, labelled=False)
    first, second = (pruned(Prune(ratio=0.3, align=1), model, known) for _ in range(2))
    assert first.read_bytes() == second.read_bytes()


def test_the_demo_network_computes_what_is_left(tmp_path: Path) -> None:
    """Half of its multiplications; all widths stay multiples of eight."""
    with np.load(DATA) as data:
        x, labels = data["x"][:40].astype(np.float32), data["y"][:40].astype(np.int64)
    store = write_store(
        tmp_path / "items", {"pixels": x}, {"pixels": "float32"}, labels, np.arange(40)
    )
    folder = tmp_path / "made"
    folder.mkdir()
    Prune(ratio=0.5, importance="magnitude").apply(MODEL, Material(calibrate=store), folder)
    made = folder / "model.onnx"
    assert 0.46 <= work(made) / work(MODEL) <= 0.5
    assert all(width % 8 == 0 for name, width in widths(made).items() if name != "head.weight")


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        (Prune(ratio=0.97), "at most .* % can be pruned away here; ask for less"),
        (Prune(ratio=0.3, align=64), "at most 0 % can be pruned away here"),
        (Prune(ratio=0.3, scope="uniform", align=64), "in steps of 64 channels; ask for more"),
        (Prune(ratio=0.3, costs="500"), "costs are 1 numbers, but this graph has 2 groups"),
        (Prune(ratio=0, heads=0.5), "no attention heads of this graph can go"),
    ],
)
def test_what_cannot_be_done_is_one_line(pruning: Prune, message: str, tmp_path: Path) -> None:
    model = chain(tmp_path, 16, 16)
    with pytest.raises(PassError, match=message) as caught:
        pruned(pruning, model, material(tmp_path))
    assert "\n" not in str(caught.value)


def test_nothing_to_prune_is_one_line(tmp_path: Path) -> None:
    known = Material(calibrate=models.vector_store(tmp_path / "items", 8))
    with pytest.raises(PassError, match="no channels of this graph can go"):
        pruned(Prune(), models.pointwise(tmp_path / "m.onnx"), known)


@pytest.mark.parametrize(
    "parameters",
    [
        {"ratio": 1.0}, {"ratio": -0.1}, {"ratio": 0}, {"heads": 1}, {"ratio": "half"},
        {"importance": "luck"}, {"scope": "local"}, {"align": 0}, {"costs": "a b"},
        {"costs": "-1"}, {"costs": "nan"}, {"costs": "1001"}, {"costs": "5", "scope": "uniform"},
    ],
)  # fmt: skip
def test_parameters_that_make_no_sense(parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        check_step(Step(name="prune", parameters=parameters))


def test_costs_of_one_group_may_be_a_number() -> None:
    check_step(Step(name="prune", parameters={"costs": 500}))
