"""Split linear layers and 1x1 convolutions into two thin ones.

The best product of two thin matrices is the truncated singular value decomposition. Where inputs
are looked at, it is taken of the weights times the square root of the inputs' covariance, and the
bias takes up what is lost of their mean: then what is least is the mean squared error of the
layer's outputs.

Source: Eckart and Young 1936, doi:10.1007/BF02288367; weighted by inputs as in Wang et al. 2024,
section 3.1 (arXiv:2403.07378). differs: about the mean, with a symmetric square root of a
covariance that is shrunk, as calibration items are few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.compress.batches import tensors_of
from joulewise.compress.material import Material
from joulewise.compress.searched import searched
from joulewise.core.child import tell
from joulewise.core.errors import PassError

if TYPE_CHECKING:
    from joulewise.learn.factors import Factors, Moments

__all__ = ["LowRank", "root", "truncated"]

Array = np.ndarray[Any, np.dtype[np.float64]]

SAMPLED_ITEMS, SAMPLED_BATCH_ITEMS = 256, 16
"""Most calibration items that are looked at, and how many at a time."""

FLAT_RATIO = 1e-6
"""Directions of the inputs with less than this part of the largest variance count as that."""


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Replace weights by a product of two thin matrices wherever that takes fewer multiplications.

    Args:
        energy: share of the sum of squared singular values that is kept, (0, 1).
        rank: instead of `energy`, the rank of every layer; 0 goes by `energy`.
        inputs: weigh directions by how much the inputs vary in them.
        align: ranks are rounded up to multiples of it, which kernels like.
    """

    energy: float = searched(0.95, 0.9, 0.8)
    rank: int = 0
    inputs: bool = True
    align: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.energy < 1:
            raise ValueError("energy is a share between 0 and 1")
        if self.rank < 0 or self.align < 1:
            raise ValueError("rank is a whole number from 0, align from 1")

    def apply(self, source: Path, material: Material, folder: Path) -> tuple[str, ...]:
        """Write ``model.onnx``; raises PassError where no layer has a low enough rank."""
        import onnx

        from joulewise.learn.factors import input_moments, matrices, with_factors
        from joulewise.learn.graph import plain
        from joulewise.learn.network import Network, check_same, save_network

        model = plain(onnx.load(source))
        network = Network(model).eval()
        size = network.fixed_items or SAMPLED_BATCH_ITEMS
        few = material.calibrate.batch(0, size)
        check_same(network, source, few)
        layers = matrices(network, model.graph)
        tell((0.1, "looking at what layers read"))
        batches = tensors_of(network, material.calibrate, size, SAMPLED_ITEMS)
        moments = input_moments(network, layers, batches) if self.inputs else {}
        tell((0.5, "splitting layers"))
        factors = {}
        for name, layer in layers.items():
            found = self._split(layer.weights, moments.get(name))
            if found is not None:
                factors[name] = found
        if not factors:
            raise PassError(
                "no layer has a rank at which two products take fewer multiplications than one; "
                "ask for less energy, or leave this step out"
            )
        made = Network(with_factors(model, layers, factors))
        target = folder / "model.onnx"
        save_network(made, target)
        check_same(made, target, few)
        return (target.name,)

    def _split(self, weights: Array, moments: Moments | None) -> Factors | None:
        """Return the factors of weights [out, in], None where they take more multiplications."""
        from joulewise.learn.factors import Factors

        varies = moments is not None and bool(np.any(np.diag(moments.covariance) > 0))
        scale = root(moments.covariance) if moments is not None and varies else None
        values, first, second = truncated(weights, scale)
        energy = np.cumsum(values**2)
        rank = self.rank or int(np.searchsorted(energy, self.energy * energy[-1]) + 1)
        rank = min(math.ceil(rank / self.align) * self.align, len(values))
        if rank * sum(weights.shape) >= weights.size:
            return None
        first, second = first[:rank], second[:, :rank]
        offset = None if moments is None else (weights - second @ first) @ moments.mean
        return Factors(first=first, second=second, offset=offset)


def truncated(weights: Array, scale: Array | None = None) -> tuple[Array, Array, Array]:
    """Return singular values, and matrices of which the first r rows and columns are the best.

    Args:
        weights: [out, in].
        scale: square root of the inputs' covariance, [in, in]; None where all directions count the
            same.

    Returns:
        values [k], first [k, in] and second [out, k]. The error of ``second[:, :r] @ first[:r]``,
        squared and summed over weights (with `scale`, over outputs on average), is the sum of the
        squares of the values from r on.
    """
    seen = weights if scale is None else weights @ scale
    left, values, right = np.linalg.svd(seen, full_matrices=False)
    half = np.sqrt(values)
    first = half[:, None] * right
    if scale is not None:
        first = np.linalg.solve(scale.T, first.T).T
    return values, first, left * half


def root(covariance: Array) -> Array:
    """Return the symmetric square root of a covariance, [in, in], with no direction left flat."""
    variances, directions = np.linalg.eigh(covariance)
    scale = np.sqrt(np.maximum(variances, FLAT_RATIO * variances[-1]))
    found: Array = (directions * scale) @ directions.T
    return found
