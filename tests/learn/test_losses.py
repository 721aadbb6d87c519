from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from joulewise.learn.losses import (
    comparable,
    form_of,
    label_loss,
    layer_distance,
    relative_error,
    teacher_loss,
)

GENERATOR = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_teacher_loss_is_the_divergence(temperature: float) -> None:
    """Oracle: scipy's relative entropy of the softened distributions."""
    ours, theirs = 3 * normal(7, 5), 3 * normal(7, 5)
    p, q = (softmax(x.double().numpy() / temperature, axis=1) for x in (theirs, ours))
    expected = np.mean(entropy(p, q, axis=1)) * temperature**2
    assert teacher_loss(ours, theirs, temperature).item() == pytest.approx(expected, rel=1e-5)
    assert teacher_loss(theirs, theirs, temperature).item() == pytest.approx(0, abs=1e-6)


def test_hot_teacher_loss_is_half_the_squared_distance_of_centred_scores() -> None:
    """Source: Hinton et al. 2015, equation 4, for temperatures far above the scores."""
    ours, theirs = normal(6, 4), normal(6, 4)
    off = (ours - ours.mean(1, keepdim=True)) - (theirs - theirs.mean(1, keepdim=True))
    expected = off.square().sum(dim=1).mean().item() / (2 * 4)
    found = teacher_loss(ours.double(), theirs.double(), 1e3).item()
    assert found == pytest.approx(expected, rel=1e-2)


def test_label_loss_is_the_cross_entropy() -> None:
    scores, targets = normal(5, 3), torch.eye(3)[torch.tensor([0, 2, 1, 1, 0])]
    logs = np.log(softmax(scores.double().numpy(), axis=1))
    expected = -np.mean(np.sum(logs * targets.numpy(), axis=1))
    assert label_loss(scores, targets).item() == pytest.approx(expected, rel=1e-5)


def test_relative_error_knows_no_scale() -> None:
    ours, theirs = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]])
    assert relative_error(ours, theirs).item() == pytest.approx(16 / 9)
    assert relative_error(1e3 * ours, 1e3 * theirs).item() == pytest.approx(16 / 9)
    assert relative_error(torch.zeros(1, 2), torch.zeros(1, 2)).item() == 0


def test_forms_are_told_apart() -> None:
    rows = normal(6, 5)
    assert form_of(rows) == "scores"
    assert form_of(rows.softmax(dim=1)) == "probabilities"
    assert form_of(rows.log_softmax(dim=1)) == "scores"
    assert form_of(rows.sigmoid()) == "values"
    assert form_of(torch.nn.functional.normalize(rows, dim=1)) == "values"
    assert form_of(rows[:, :1]) == "values"
    assert form_of(rows.argmax(dim=1)) == "values"
    assert form_of(normal(2, 3, 4, 4)) == "values"


def test_probabilities_become_scores_with_the_same_distribution() -> None:
    rows = 2 * normal(6, 5)
    found = comparable([rows.softmax(dim=1), torch.arange(6), rows], "probabilities")
    assert len(found) == 2
    assert torch.allclose(found[0].softmax(dim=1), rows.softmax(dim=1), atol=1e-6)
    certain = comparable([torch.tensor([[1.0, 0.0]])], "probabilities")[0]
    assert certain.isfinite().all()


def test_attention_compares_places_not_channels() -> None:
    maps = normal(3, 4, 5, 6)
    repeated = torch.cat([maps, maps], dim=1)
    assert layer_distance(10 * repeated, maps, spatial=True).item() == pytest.approx(0, abs=1e-6)
    left, right = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    left[..., 0], right[..., 1] = 1, 1
    assert layer_distance(left, right, spatial=True).item() == pytest.approx(2)


@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4)])
def test_likeness_knows_no_rotation(shape: tuple[int, ...]) -> None:
    rows = normal(*shape)
    rotation = torch.linalg.qr(normal(4, 4)).Q
    wider = torch.cat([rows @ rotation, torch.zeros(*shape[:-1], 3)], dim=-1)
    assert layer_distance(wider, rows, spatial=False).item() == pytest.approx(0, abs=1e-6)
    assert layer_distance(rows.flip(-2), rows, spatial=False).item() > 0.01
