"""Calibration items as torch tensors, in the order in which a network takes its inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.workload.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from joulewise.learn.network import Network

__all__ = ["labels_at", "tensors", "tensors_of"]


def tensors(network: Network, batch: Mapping[str, np.ndarray[Any, Any]]) -> tuple[Tensor, ...]:
    """Return one tensor per input of a network."""
    import torch

    return tuple(torch.from_numpy(np.array(batch[name])) for name in network.inputs)


def tensors_of(
    network: Network, store: Store, size: int, limit: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yield batches of exactly `size` items that cover the first `limit` items of a split."""
    for batch in store.batches(size, limit):
        yield tensors(network, batch)


def labels_at(store: Store, size: int, limit: int) -> Iterator[Tensor]:
    """Yield the labels of the batches of `tensors_of`; raises TypeError where there are none."""
    import torch

    labels = np.asarray(store.labels)
    for start in range(0, min(limit, store.items), size):
        yield torch.from_numpy(labels[np.arange(start, start + size) % store.items])
