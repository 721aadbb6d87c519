"""Networks whose graph takes a fixed number of items, trained with more of them at a time."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from joulewise.learn.batch_norm import FEWEST_ITEMS, freeze

__all__ = ["FixedBatch", "takes_more"]

SAME_RATIO = 1e-4
"""Largest relative L2 difference that the order of float32 sums explains."""

CANNOT_RUN = (IndexError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What torch raises on shapes that do not fit."""


class FixedBatch(nn.Module):
    """A network that is given its fixed number of items again and again, until all are through.

    Args:
        network: takes and gives tensors whose first axis is `items` long.
        items: that number.
    """

    def __init__(self, network: nn.Module, items: int) -> None:
        super().__init__()
        self.network = network
        self.items = items

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for any number of items; the last batch is filled from the start."""
        count = len(inputs[0])
        index = torch.arange(count + -count % self.items) % count
        parts = [self.network(*(x[rows] for x in inputs)) for rows in index.split(self.items)]
        return tuple(torch.cat(outputs)[:count] for outputs in zip(*parts, strict=True))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; batch normalisation keeps its statistics where batches are too small."""
        super().train(mode)
        if self.items < FEWEST_ITEMS:
            freeze(self)
        return self


def takes_more(network: nn.Module, inputs: tuple[Tensor, ...], items: int) -> bool:
    """Return whether a network gives the same for more items than its graph is fixed to.

    Args:
        network: in evaluation mode.
        inputs: some more items than that.
        items: what the graph is fixed to.
    """
    with torch.no_grad():
        expected = FixedBatch(network, items)(*inputs)
        try:
            found = network(*inputs)
        except CANNOT_RUN:
            return False
    return all(_same(x, y) for x, y in zip(found, expected, strict=True))


def _same(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    off = (found.double() - expected.double()).norm()
    return bool(off <= SAME_RATIO * expected.double().norm())
