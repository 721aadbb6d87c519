from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from joulewise.compress.low_rank import LowRank, root, truncated
from joulewise.compress.material import Material
from joulewise.compress.passes import check_step
from joulewise.core.errors import PassError, UsageError
from joulewise.core.recipe import Step
from joulewise.learn.factors import input_moments, matrices
from joulewise.learn.graph import plain
from joulewise.learn.network import Network, open_network
from joulewise.testing import models
from joulewise.workload.store import write_store
from tests.learn.graphs import IMAGE, TOKENS, WIDTH, Chain, attention, written

Array = np.ndarray[Any, np.dtype[Any]]

NUMBERS = itertools.count()
ITEMS = 192
"""A multiple of the batch, as the last one is filled up from the start."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def material(folder: Path, x: Array) -> Material:
    store = write_store(
        folder / "items", {"x": x.astype(np.float32)}, {"x": "float32"}, None, np.arange(len(x))
    )
    return Material(calibrate=store)


def split(step: LowRank, model: Path, known: Material) -> Path:
    folder = model.parent / f"split{next(NUMBERS)}"
    folder.mkdir()
    assert step.apply(model, known, folder) == ("model.onnx",)
    return folder / "model.onnx"


def ranks(model: Path) -> dict[str, int]:
    """Return initializer that was split -> its rank."""
    network = open_network(model)
    names = {network.weight_of(key): len(layer.weight) for key, layer in network.layers.items()}
    return {
        name.removesuffix("/first"): width
        for name, width in names.items()
        if name.endswith("/first")
    }


def outputs(model: Path, x: Array) -> Array:
    (found,) = models.reference_outputs(model, {"x": x.astype(np.float32)})
    return np.asarray(found)


def of_rank(random: np.random.Generator, rank: int, *shape: int) -> Array:
    rows, columns = shape
    product: Array = random.standard_normal((rows, rank)) @ random.standard_normal((rank, columns))
    return np.asarray(product / np.sqrt(rank))


def linear(path: Path, weights: Array, bias: Array | None = None) -> Path:
    """Write x [n, in] -> y [n, out] with weights [in, out]."""
    nodes = [helper.make_node("MatMul", ["x", "weights"], ["y" if bias is None else "raw"])]
    held = {"weights": weights}
    if bias is not None:
        nodes.append(helper.make_node("Add", ["raw", "bias"], ["y"]))
        held["bias"] = bias
    return written(path, nodes, held, {"y": ["n", weights.shape[1]]}, [len(weights)])


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    weighted=st.booleans(),
    seed=st.integers(0, 999),
)
def test_error_is_the_sum_of_squares_left_out(
    rows: int, columns: int, weighted: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    weights = random.standard_normal((rows, columns))
    x = random.standard_normal((50, columns)) @ random.standard_normal((columns, columns))
    scale = root(x.T @ x / len(x)) if weighted else np.eye(columns)
    values, first, second = truncated(weights, scale if weighted else None)
    for rank in range(1, len(values) + 1):
        off = (weights - second[:, :rank] @ first[:rank]) @ scale
        left = np.square(values[rank:]).sum()
        assert np.square(off).sum() == pytest.approx(left, rel=1e-6, abs=1e-6)


@given(columns=st.integers(1, 12), seed=st.integers(0, 999))
def test_root_of_a_covariance(columns: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((50, columns))
    covariance = x.T @ x / len(x)
    scale = root(covariance)
    np.testing.assert_allclose(scale @ scale, covariance, atol=1e-9)
    np.testing.assert_allclose(scale, scale.T, atol=1e-12)


def test_no_other_factors_are_better_on_the_inputs() -> None:
    """Against random factors, the unweighted best, and steps away from the optimum."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((8, 10))
    x = random.standard_normal((300, 10)) * np.geomspace(5, 0.1, 10)
    covariance = x.T @ x / len(x)

    def lost(product: Array) -> float:
        return float(np.square(x @ (weights - product).T).sum())

    _, first, second = truncated(weights, root(covariance))
    first, second = first[:3], second[:, :3]
    best = lost(second @ first)
    _, plain_first, plain_second = truncated(weights)
    assert lost(plain_second[:, :3] @ plain_first[:3]) > 1.05 * best
    for size in (1e-3, 1e-1, 1):
        for _ in range(20):
            other = second + size * random.standard_normal(second.shape)
            assert lost(other @ (first + size * random.standard_normal(first.shape))) >= best


@pytest.mark.parametrize("inputs", [True, False])
@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul", "bare"])
def test_weights_of_low_rank_are_recovered(kind: str, inputs: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    chain = Chain(2)
    if kind in ("MatMul", "bare"):
        bias = random.standard_normal(20) if kind == "MatMul" else None
        model = linear(tmp_path / "m.onnx", of_rank(random, 3, 16, 20), bias)
        x = random.standard_normal((ITEMS, 16)) + 2
    elif kind == "Gemm":
        chain.add("Flatten").gemm(72, 30)
        chain.weights["head"] = of_rank(random, 3, 72, 30)
        model = chain.model(tmp_path / "m.onnx", {chain.value: ["n", 30]})
        x = random.standard_normal((ITEMS, *IMAGE))
    else:
        chain.conv(24).conv(16, name="thin", size=1)
        chain.nodes[-1].attribute.append(helper.make_attribute("strides", [2, 2]))
        chain.weights["thin"] = of_rank(random, 3, 16, 24)[..., None, None]
        model = chain.pooled_head().model(tmp_path / "m.onnx")
        x = random.standard_normal((ITEMS, *IMAGE))
    made = split(LowRank(energy=0.9999, inputs=inputs, align=1), model, material(tmp_path, x))
    name = {"Conv": "thin", "Gemm": "head"}.get(kind, "weights")
    assert ranks(made)[name] == 3
    np.testing.assert_allclose(outputs(made, x[:9]), outputs(model, x[:9]), rtol=1e-3, atol=1e-4)


def test_what_is_lost_of_the_mean_goes_into_the_bias(tmp_path: Path) -> None:
    """However few directions are kept, the mean of the outputs is what it was."""
    random = np.random.default_rng(1)
    x = random.standard_normal((ITEMS, 32)) + 5 * random.standard_normal(32)
    for bias in (None, random.standard_normal(24)):
        model = linear(tmp_path / "m.onnx", random.standard_normal((32, 24)), bias)
        made = split(LowRank(rank=2, align=1), model, material(tmp_path, x))
        before, after = outputs(model, x), outputs(made, x)
        np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), rtol=1e-3, atol=1e-3)
        assert np.abs(after - before).max() > 0.1


def test_error_of_the_outputs_is_the_energy_left_out(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((ITEMS, 32)) * np.geomspace(3, 0.03, 32) + 1
    model = linear(tmp_path / "m.onnx", random.standard_normal((32, 24)))
    made = split(LowRank(energy=0.9, align=1), model, material(tmp_path, x))
    before, after = outputs(model, x), outputs(made, x)
    ratio = np.square(after - before).sum() / np.square(before - before.mean(axis=0)).sum()
    (rank,) = ranks(made).values()
    assert 0.02 < ratio <= 0.1
    fewer = split(LowRank(rank=rank - 1, align=1), model, material(tmp_path / "2", x))
    worse = np.square(outputs(fewer, x) - before).sum()
    assert worse / np.square(before - before.mean(axis=0)).sum() > 0.09


def test_energy_is_kept_on_other_items_too(tmp_path: Path) -> None:
    """Fewer items than inputs: the directions in which none lies count as well."""
    random = np.random.default_rng(1)
    directions, _ = np.linalg.qr(random.standard_normal((128, 128)))
    x = random.standard_normal((96 + 4000, 128)) * np.geomspace(1, 0.1, 128) @ directions
    model = linear(tmp_path / "m.onnx", random.standard_normal((128, 96)))
    made = split(LowRank(energy=0.9, align=1), model, material(tmp_path, x[:96]))
    before, after = outputs(model, x[96:]), outputs(made, x[96:])
    assert np.square(after - before).sum() <= 0.11 * np.square(before).sum()


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_covariance_is_shrunk_by_the_rule(offset: float, tmp_path: Path) -> None:
    """Ledoit and Wolf's own sums over items: b2 / d2 of their section 3.3."""
    random = np.random.default_rng(1)
    x = (random.standard_normal((ITEMS, 24)) * np.geomspace(1, 0.1, 24) + offset).astype("f4")
    model = onnx.load(linear(tmp_path / "m.onnx", random.standard_normal((24, 16))))
    network = Network(plain(model))
    layers = matrices(network, plain(model).graph)
    batches = ((torch.from_numpy(part),) for part in np.split(x, 4))
    (found,) = input_moments(network, layers, batches).values()
    rows = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    sample = rows.T @ rows / ITEMS
    even = np.eye(24) * np.trace(sample) / 24
    noise = sum(np.square(np.outer(row, row) - sample).sum() for row in rows) / ITEMS**2
    part = noise / np.square(sample - even).sum()
    assert 0.05 < part < 0.5
    np.testing.assert_allclose(found.covariance, part * even + (1 - part) * sample, atol=1e-6)


def test_ranks_are_multiples(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    model = linear(tmp_path / "m.onnx", of_rank(random, 3, 64, 64))
    known = material(tmp_path, random.standard_normal((ITEMS, 64)))
    assert ranks(split(LowRank(energy=0.999), model, known)) == {"weights": 8}
    assert ranks(split(LowRank(rank=12), model, known)) == {"weights": 16}


def test_only_what_takes_fewer_multiplications(tmp_path: Path) -> None:
    """Of a transformer's layers those with 12 x 16 and 12 x 12 numbers, not the head."""
    model = attention(tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((40, TOKENS, WIDTH))
    found = ranks(split(LowRank(rank=5, align=1), model, material(tmp_path, x)))
    assert set(found) == {"embed", "query", "key", "value", "out", "wide", "narrow"}
    assert set(found.values()) == {5}


def test_inputs_that_never_vary(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    model = linear(tmp_path / "m.onnx", random.standard_normal((32, 24)))
    x = np.ones((ITEMS, 32))
    made = split(LowRank(rank=2, align=1), model, material(tmp_path, x))
    np.testing.assert_allclose(outputs(made, x), outputs(model, x), rtol=1e-3)


def test_weights_used_twice_are_left_alone(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    held = {"weights": of_rank(random, 2, 16, 16), "last": of_rank(random, 2, 16, 16)}
    nodes = [
        helper.make_node("MatMul", ["x", "weights"], ["a"]),
        helper.make_node("MatMul", ["a", "weights"], ["b"]),
        helper.make_node("MatMul", ["b", "last"], ["y"]),
    ]
    model = written(tmp_path / "m.onnx", nodes, held, {"y": ["n", 16]}, [16])
    known = material(tmp_path, random.standard_normal((ITEMS, 16)))
    assert set(ranks(split(LowRank(rank=2, align=1), model, known))) == {"last"}


def test_full_rank_is_one_line(tmp_path: Path) -> None:
    model = linear(tmp_path / "m.onnx", np.eye(16))
    known = material(tmp_path, np.random.default_rng(0).standard_normal((ITEMS, 16)))
    with pytest.raises(PassError, match="no layer has a rank at which two products take fewer"):
        split(LowRank(energy=0.9), model, known)


@pytest.mark.parametrize(
    "parameters", [{"energy": 0}, {"energy": 1}, {"rank": -1}, {"align": 0}, {"energy": "all"}]
)
def test_parameters_that_make_no_sense(parameters: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        check_step(Step(name="low_rank", parameters=parameters))


def test_the_graph_holds_nothing_that_is_not_used(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    model = linear(tmp_path / "m.onnx", of_rank(random, 3, 32, 32), random.standard_normal(32))
    known = material(tmp_path, random.standard_normal((ITEMS, 32)))
    graph = onnx.load(split(LowRank(rank=3, align=1), model, known)).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
