"""Change items at random while a model trains, so that few items teach more.

Only what the user names is done. The changes are those after which the teacher is asked again (a
flipped image gets the teacher's answer for the flipped image); labels are taken to stay right, so
name a flip only where left and right do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from joulewise.core.errors import PassError

__all__ = ["augment", "check_augmentation"]

IMAGE_AXES = 4
SHIFT_PARTS = 8
"""A shift is at most this part of an image's side."""


def check_augmentation(kind: str, inputs: Sequence[Tensor]) -> None:
    """Raise PassError where an augmentation does not fit a model's inputs.

    Args:
        kind: one of `joulewise.core.settings.AUGMENTATIONS`.
        inputs: a batch of the model's inputs, each [n, ...].
    """
    if kind == "mixup" and not all(x.is_floating_point() for x in inputs):
        raise PassError("mixup needs inputs of floats; choose augment=none")
    if kind in ("flip", "shift", "flip_shift") and not (
        len(inputs) == 1 and inputs[0].ndim == IMAGE_AXES and inputs[0].is_floating_point()
    ):
        raise PassError(
            f"{kind} needs one input of images, floats [n, channels, height, width]; "
            "choose augment=none"
        )


def augment(
    kind: str, inputs: Sequence[Tensor], targets: Tensor | None, generator: Generator
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return changed inputs and targets.

    Args:
        kind: "flip" mirrors half of the images left to right; "shift" moves each by up to an
            eighth of its sides and repeats its edge; "flip_shift" does both; "mixup" mixes each
            item with another one, in proportions uniform in [0, 1].
        inputs: each [n, ...].
        targets: probability of each class [n, classes], None where there are no labels.
        generator: source of chance.

    Source: mixup with alpha = 1, Zhang, Cisse, Dauphin and Lopez-Paz 2018, equation 1
    (arXiv:1710.09412); differs: a proportion of its own for each item.
    """
    if kind == "mixup":
        return _mixed(inputs, targets, generator)
    if kind == "none":
        return tuple(inputs), targets
    (images,) = inputs
    if kind in ("flip", "flip_shift"):
        images = _flipped(images, generator)
    if kind in ("shift", "flip_shift"):
        images = _shifted(images, generator)
    return (images,), targets


def _flipped(images: Tensor, generator: Generator) -> Tensor:
    chosen = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(chosen, images.flip(3), images)


def _shifted(images: Tensor, generator: Generator) -> Tensor:
    items, _, height, width = images.shape
    rows, columns = (_places(items, size, generator) for size in (height, width))
    first = torch.arange(items)[:, None, None]
    return images[first, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _places(items: int, size: int, generator: Generator) -> Tensor:
    """Return for each item which of `size` places each place is filled from, [items, size]."""
    most = size // SHIFT_PARTS
    shift = torch.randint(-most, most + 1, (items, 1), generator=generator)
    return (torch.arange(size) + shift).clamp(0, size - 1)


def _mixed(
    inputs: Sequence[Tensor], targets: Tensor | None, generator: Generator
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    items = len(inputs[0])
    other = torch.randperm(items, generator=generator)
    share = torch.rand(items, generator=generator)

    def mixed(x: Tensor) -> Tensor:
        part = share.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        return part * x + (1 - part) * x[other]

    return tuple(mixed(x) for x in inputs), None if targets is None else mixed(targets)
