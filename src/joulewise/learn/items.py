"""Items of a split as torch tensors, in the order in which a network takes its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from joulewise.workload.store import Store

__all__ = ["Items", "Rows"]

Rows = np.ndarray[Any, np.dtype[np.int64]]
"""Numbers of items, int64 [n]."""

IMAGE_AXES = 4


@dataclass(frozen=True, kw_only=True)
class Items:
    """A split, read by rows.

    Args:
        store: where the items lie.
        names: columns of the store in the order of the network's inputs.
        channels_last: whether images get the memory layout that convolutions like best; their
            axes stay as they are.
    """

    store: Store
    names: tuple[str, ...]
    channels_last: bool = False

    @property
    def count(self) -> int:
        """Number of items."""
        return self.store.items

    @property
    def labels(self) -> Rows | None:
        """Labels, None where there are none."""
        return self.store.labels

    @property
    def targets(self) -> np.ndarray[Any, np.dtype[np.float64]] | None:
        """Labels that are values, None where there are none."""
        return self.store.targets

    def at(self, rows: Rows) -> tuple[Tensor, ...]:
        """Return the items at `rows`, one tensor per input."""
        return tuple(self._tensor(name, rows) for name in self.names)

    def chunks(self, size: int) -> Iterator[Rows]:
        """Yield the numbers of all items in order, `size` at a time."""
        for start in range(0, self.count, size):
            yield np.arange(start, min(start + size, self.count))

    def _tensor(self, name: str, rows: Rows) -> Tensor:
        values = np.ascontiguousarray(self.store.inputs[name][rows], self.store.dtypes[name])
        tensor = torch.from_numpy(values)
        if self.channels_last and tensor.ndim == IMAGE_AXES:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor
