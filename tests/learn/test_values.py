"""Learning from labels that are values: what is minimised, and that it comes to the closed form."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from joulewise.core.errors import PassError
from joulewise.learn.losses import value_loss
from joulewise.learn.plan import Lessons, Plan
from joulewise.learn.trainer import train
from joulewise.workload.store import Store, write_store

WEIGHTS = np.array([[2.0, -1.0], [0.5, 3.0], [0.0, 1.0]])
OFFSET = np.array([30.0, -20.0])


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from more, and wait for them where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Affine(nn.Module):  # type: ignore[misc]
    """Values that are linear in the input, with an offset."""

    def __init__(self, outputs: int = 2, *, squeeze: bool = False) -> None:
        super().__init__()
        self.layer, self.squeeze = nn.Linear(3, outputs), squeeze
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = self.layer(x)
        return (values[:, 0] if self.squeeze else values,)


def store(folder: Path, items: int, *, noise: float = 0.0, seed: int = 0) -> Store:
    """Write x [n, 3] and the values x @ WEIGHTS + OFFSET, with noise."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(items, 3)).astype(np.float32)
    y = x @ WEIGHTS + OFFSET + noise * random.normal(size=(items, 2))
    return write_store(folder, {"x": x}, {"x": "float32"}, None, np.arange(items), y)


def labelled(store: Store, labels: np.ndarray[Any, Any], folder: Path) -> Store:
    return write_store(folder, store.inputs, store.dtypes, None, np.arange(store.items), labels)


@pytest.mark.parametrize("shape", [(200,), (200, 1), (200, 5, 1)])
def test_the_loss_of_the_mean_is_one(shape: tuple[int, ...]) -> None:
    labels = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7 + 40
    variance = labels.reshape(200, -1).var(dim=0, correction=0).sum().item()
    mean = labels.mean(dim=0).expand(shape)
    assert value_loss(mean, labels, variance).item() == pytest.approx(1, rel=1e-5)
    assert value_loss(labels, labels, variance).item() == 0


def test_labels_are_learnt(tmp_path: Path) -> None:
    """Without a teacher; the offset is many times as large as what the input explains."""
    lessons = Lessons(
        train=store(tmp_path / "t", 320), search=store(tmp_path / "s", 100, seed=1), inputs=("x",)
    )
    student = Affine()
    found = train(student, lessons, Plan(epochs=20, batch_items=16, rate=1.0, weight_decay=0))
    assert found.measure == "negative error"
    assert found.precision == "f32"
    assert found.scores[-1] > -1e-3
    np.testing.assert_allclose(student.layer.weight.detach().numpy(), WEIGHTS.T, atol=0.1)
    np.testing.assert_allclose(student.layer.bias.detach().numpy(), OFFSET, atol=0.1)


def test_the_first_score_is_the_closed_form(tmp_path: Path) -> None:
    """A student that does not move answers 0: its error is the second moment over the variance."""
    data = store(tmp_path / "t", 200)
    lessons = Lessons(train=data, search=data, inputs=("x",))
    found = train(Affine(), lessons, Plan(epochs=1, batch_items=200, rate=1e-12))
    assert data.targets is not None
    expected = np.square(data.targets).sum() / 200 / data.targets.var(axis=0).sum()
    assert found.scores[0] == pytest.approx(-expected, rel=1e-4)
    assert found.losses[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("weight", "comes_to"), [(0.0, 10.0), (1.0, -10.0), (0.25, 5.0)])
def test_weight_of_labels_decides_between_them_and_the_teacher(
    tmp_path: Path, weight: float, comes_to: float
) -> None:
    """Teacher and labels differ by an offset only, so the best is their weighted mean."""
    teacher = Affine(1)
    with torch.no_grad():
        teacher.layer.weight.fill_(1.0)
        teacher.layer.bias.fill_(10.0)
    data = store(tmp_path / "x", 240)
    labels = data.inputs["x"].astype(np.float64).sum(axis=1) - 10.0
    student = Affine(1)
    lessons = Lessons(train=labelled(data, labels, tmp_path / "t"), inputs=("x",), teacher=teacher)
    train(student, lessons, Plan(epochs=20, batch_items=16, rate=0.5, label_weight=weight))
    assert student.layer.bias.item() == pytest.approx(comes_to, abs=0.3)


def test_one_value_per_item_needs_no_axis(tmp_path: Path) -> None:
    data = store(tmp_path / "x", 300)
    labels = data.inputs["x"].astype(np.float64)[:, :1] * 4
    same = labelled(data, labels, tmp_path / "t")
    student = Affine(1, squeeze=True)
    lessons = Lessons(train=same, search=same, inputs=("x",))
    found = train(student, lessons, Plan(epochs=10, batch_items=16, rate=0.5))
    assert found.scores[-1] > -1e-2


def test_mixed_items_have_mixed_values(tmp_path: Path) -> None:
    data = store(tmp_path / "t", 320)
    lessons = Lessons(train=data, search=data, inputs=("x",))
    plan = Plan(epochs=20, batch_items=16, rate=1.0, weight_decay=0, augment="mixup")
    assert train(Affine(), lessons, plan).scores[-1] > -1e-3


def test_what_is_said_to_be_values_is_not_taken_for_scores(tmp_path: Path) -> None:
    """As scores, the teacher's [n, 2] would be learned but for a constant per item."""
    teacher, student = Affine(), Affine()
    with torch.no_grad():
        teacher.layer.bias.copy_(torch.tensor([3.0, 4.0]))
    data = store(tmp_path / "x", 200)
    plain = write_store(tmp_path / "p", data.inputs, data.dtypes, None, np.arange(200))
    lessons = Lessons(train=plain, search=plain, inputs=("x",), teacher=teacher, values=True)
    found = train(student, lessons, Plan(epochs=10, batch_items=16, rate=0.5))
    assert found.measure == "negative error"
    np.testing.assert_allclose(student.layer.bias.detach().numpy(), [3, 4], atol=0.1)


def test_labels_that_teach_nothing(tmp_path: Path) -> None:
    data = store(tmp_path / "x", 64)
    same = labelled(data, np.full((64, 2), 3.0), tmp_path / "same")
    with pytest.raises(PassError, match="all labels are the same"):
        train(Affine(), Lessons(train=same, inputs=("x",)), Plan())
    short = labelled(data, np.arange(64.0), tmp_path / "short")
    with pytest.raises(PassError, match="1 labels per item, but the model gives 2"):
        train(Affine(), Lessons(train=short, inputs=("x",)), Plan())
