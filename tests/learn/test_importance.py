from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from joulewise.learn import importance
from joulewise.learn.graph import flexible
from joulewise.learn.network import Network
from joulewise.learn.structure import Group, cut_checked, prunable
from joulewise.testing import models
from tests.learn.graphs import IMAGE, Chain

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def opened(model: Path) -> Network:
    network = Network(flexible(onnx.load(model)))
    network.eval()
    return network


def images(count: int, seed: int = 0) -> tuple[Tensor]:
    random = np.random.default_rng(seed)
    return (torch.from_numpy(random.standard_normal((count, *IMAGE)).astype(np.float32)),)


def plain(folder: Path) -> Path:
    return Chain().conv(6).add("Relu").conv(8).add("Relu").pooled_head().model(folder / "m.onnx")


def flat(folder: Path) -> Path:
    return Chain().conv(6).add("Relu").flat_head().model(folder / "m.onnx")


def grouped(folder: Path) -> Path:
    chain = Chain().conv(8).add("Relu").conv(8, group=2).add("Relu")
    return chain.pooled_head().model(folder / "m.onnx")


def residual(folder: Path) -> Path:
    return models.residual_classifier(folder / "m.onnx")


def transposed(folder: Path) -> Path:
    chain = Chain().conv(6).add("Relu")
    weights = chain.tensor(chain.random.standard_normal((6, 5, 3, 3)))
    chain.add("ConvTranspose", weights, pads=[1] * 4).add("Relu")
    chain.width = 5
    return chain.pooled_head().model(folder / "m.onnx")


@pytest.mark.parametrize("make", [plain, flat, grouped, residual, transposed])
def test_magnitude_is_what_cutting_takes(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """A unit's squares are those that a layer has less of without it."""
    network = opened(make(tmp_path))
    shape = network.to_onnx().graph.input[0].type.tensor_type.shape.dim
    x = (torch.randn((2, *(dim.dim_value for dim in shape[1:]))),)
    groups = prunable(network, x)
    assert len(groups) > 0
    for group, found in zip(groups, importance.magnitude(network, groups), strict=True):
        lost = [_lost(network, group, unit, x) for unit in range(group.units)]
        keys = sorted({str(part.layer) for part in group.of("writes", "reads")})
        rows = np.array([[squares[key] for key in keys] for squares in lost])
        expected = np.sqrt((rows / np.maximum(rows.mean(axis=0), 1e-30)).mean(axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def _lost(network: Network, group: Group, unit: int, x: Sequence[Tensor]) -> dict[str, float]:
    """Return key of a layer -> squares of its weights that go with a unit."""
    smaller = cut_checked(network, {group: np.array([unit])}, x)
    return {
        key: _squares(layer) - _squares(smaller.layers[key])
        for key, layer in network.layers.items()
    }


def _squares(layer: nn.Module) -> float:
    return float(layer.weight.detach().double().square().sum())


def test_activation_is_the_mean_absolute_value(tmp_path: Path) -> None:
    chain = Chain().conv(6, name="a", size=1).add("Relu").conv(5, name="b", size=1)
    network = opened(chain.add("Relu").pooled_head().model(tmp_path / "m.onnx"))
    batches = [images(3, seed) for seed in range(4)]
    groups = prunable(network, batches[0])
    found = importance.activation(network, groups, iter(batches))
    x = np.concatenate([batch[0].numpy() for batch in batches])
    for group, scores in zip(groups, found, strict=True):
        weights, bias = (chain.weights[f"{group.name}{end}"] for end in ("", ".bias"))
        x = np.einsum("oi,nihw->nohw", weights[..., 0, 0], x) + bias[:, None, None]
        x = np.maximum(x, 0)
        mean = x.mean(axis=(0, 2, 3))
        np.testing.assert_allclose(scores, mean / mean.mean(), rtol=1e-4)


def linear(folder: Path) -> Network:
    """Return a network whose outputs are linear in every unit."""
    return opened(Chain().conv(6).conv(5).pooled_head().model(folder / "m.onnx"))


def test_taylor_is_exact_where_the_loss_is_linear(tmp_path: Path) -> None:
    network = linear(tmp_path)
    batches = [(images(3, seed), torch.tensor(float(seed + 1))) for seed in range(3)]
    groups = prunable(network, batches[0][0])

    def loss(outputs: Sequence[Tensor], weight: Tensor) -> Tensor:
        return weight * outputs[0][:, 1].sum()

    found = importance.taylor(network, groups, iter(batches), loss)
    for group, scores in zip(groups, found, strict=True):
        for unit in range(group.units):
            smaller = cut_checked(network, {group: np.array([unit])}, batches[0][0])
            changes = [loss(smaller(*x), w) - loss(network(*x), w) for x, w in batches]
            expected = np.mean([change.item() ** 2 for change in changes])
            assert scores[unit] == pytest.approx(expected, rel=1e-3)


def test_jacobian_is_how_far_all_outputs_move(tmp_path: Path) -> None:
    """Random signs: many draws of a sum of squares whose terms are known exactly."""
    network, x = linear(tmp_path), images(2)
    groups = prunable(network, x)
    draws = ((x, None) for _ in range(300))
    found = importance.taylor(network, groups, draws, importance.jacobian(3))
    (whole,) = network(*x)
    for group, scores in zip(groups, found, strict=True):
        for unit in range(group.units):
            (moved,) = cut_checked(network, {group: np.array([unit])}, x)(*x)
            expected = ((moved - whole).norm() / whole.norm()).square().item()
            assert scores[unit] == pytest.approx(expected, rel=0.35)


def test_jacobian_is_seeded(tmp_path: Path) -> None:
    network, x = linear(tmp_path), images(2)
    groups = prunable(network, x)

    def scores(seed: int) -> Array:
        loss = importance.jacobian(seed)
        return np.concatenate(importance.taylor(network, groups, iter([(x, None)]), loss))

    np.testing.assert_array_equal(scores(1), scores(1))
    assert not np.array_equal(scores(1), scores(2))


def test_cross_entropy_of_scores_and_of_their_probabilities() -> None:
    scores, labels = torch.randn(5, 4), torch.tensor([0, 3, 1, 1, 2])
    expected = -torch.log_softmax(scores, 1)[torch.arange(5), labels].mean()
    torch.testing.assert_close(importance.cross_entropy("scores")([scores], labels), expected)
    shares = torch.softmax(scores, 1)
    torch.testing.assert_close(
        importance.cross_entropy("probabilities")([shares], labels), expected
    )
