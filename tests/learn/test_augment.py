from __future__ import annotations

import pytest
import torch

from joulewise.core.errors import PassError
from joulewise.core.settings import AUGMENTATIONS
from joulewise.learn.augment import augment, check_augmentation

IMAGES = torch.arange(1.0, 6 * 2 * 16 * 24 + 1).reshape(6, 2, 16, 24)
TARGETS = torch.eye(6)


def changed(kind: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    (images,), targets = augment(kind, [IMAGES], TARGETS, generator)
    assert images.shape == IMAGES.shape
    assert targets is not None
    return images, targets


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_the_same_generator_gives_the_same(kind: str) -> None:
    assert torch.equal(changed(kind, 3)[0], changed(kind, 3)[0])
    assert torch.equal(changed(kind, 3)[0], changed(kind, 4)[0]) == (kind == "none")


def test_flip_mirrors_some_images_left_to_right() -> None:
    images, targets = changed("flip")
    flipped = [torch.equal(new, old.flip(2)) for new, old in zip(images, IMAGES, strict=True)]
    kept = [torch.equal(new, old) for new, old in zip(images, IMAGES, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert any(flipped)
    assert any(kept)
    assert torch.equal(targets, TARGETS)


def test_shift_moves_up_to_an_eighth_and_repeats_the_edge() -> None:
    seen = set()
    for seed in range(20):
        for new, old in zip(changed("shift", seed)[0], IMAGES, strict=True):
            at = (new[0, 8, 12] == old[0]).nonzero()[0] - torch.tensor([8, 12])
            dy, dx = int(at[0]), int(at[1])
            seen.add((dy, dx))
            rows = (torch.arange(16) + dy).clamp(0, 15)
            columns = (torch.arange(24) + dx).clamp(0, 23)
            assert torch.equal(new, old[:, rows][:, :, columns])
    assert {dy for dy, _ in seen} == set(range(-2, 3))
    assert {dx for _, dx in seen} == set(range(-3, 4))


def test_mixup_mixes_items_and_targets_in_the_same_parts() -> None:
    """With targets that name the items, the mixture can be computed from the targets alone."""
    images, targets = changed("mixup")
    assert torch.allclose(targets.sum(dim=1), torch.ones(6))
    expected = torch.einsum("ni,ichw->nchw", targets, IMAGES)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-3)
    assert not torch.equal(images, IMAGES)


def test_without_labels() -> None:
    (rows,), targets = augment("mixup", [torch.rand(4, 3)], None, torch.Generator().manual_seed(0))
    assert rows.shape == (4, 3)
    assert targets is None


@pytest.mark.parametrize(
    ("kind", "inputs", "message"),
    [
        ("flip", [IMAGES[0]], "one input of images"),
        ("shift", [IMAGES, IMAGES], "one input of images"),
        ("flip_shift", [IMAGES.long()], "one input of images"),
        ("mixup", [torch.arange(4)], "inputs of floats"),
    ],
)
def test_what_does_not_fit_is_refused(kind: str, inputs: list[torch.Tensor], message: str) -> None:
    with pytest.raises(PassError, match=message):
        check_augmentation(kind, inputs)
