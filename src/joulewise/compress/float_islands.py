"""Nodes that are better left in float, found by measuring.

Every candidate is quantized alone, and the outputs are compared with those in float. The worst ones
are left in float: as many as asked for, or only as many as it takes to come near enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from joulewise.core.child import tell
from joulewise.learn.session import open_session

if TYPE_CHECKING:
    import onnx

__all__ = ["Comparison", "float_islands", "worst_first"]

Array = np.ndarray[Any, np.dtype[Any]]
Batch = Mapping[str, Array]
Quantize = Callable[[Sequence[str], Sequence[str]], "onnx.ModelProto"]
"""From the nodes to quantize (none for all) and those to leave, by name, the quantized graph."""


class Comparison:
    """Compares graphs with a float one on the same items.

    Args:
        model: the float graph.
        batches: the items.
    """

    def __init__(self, model: Path, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._wanted = self._outputs(model)
        self._sizes = [_squares(each) for each in self._wanted]

    def error(self, model: onnx.ModelProto) -> float:
        """Return how far the outputs are from those in float.

        Returns:
            Relative L2 difference over all items, of the output where it is largest.
        """
        found = self._outputs(model)
        ratios = [
            (_squares([a - b for a, b in zip(ours, wanted, strict=True)]) / (size or 1.0)) ** 0.5
            for ours, wanted, size in zip(found, self._wanted, self._sizes, strict=True)
        ]
        return max((x if np.isfinite(x) else float("inf") for x in ratios), default=0.0)

    def _outputs(self, model: Path | onnx.ModelProto) -> list[list[Array]]:
        """Return every float output, batch by batch."""
        session = open_session(model)
        names = [x.name for x in session.get_outputs() if x.type == "tensor(float)"]
        runs = [session.run(names, batch) for batch in self._batches]
        return [[run[place].astype(np.float64) for run in runs] for place in range(len(names))]


def float_islands(
    quantize: Quantize, nodes: Sequence[str], comparison: Comparison, most: int, tolerance: float
) -> tuple[str, ...]:
    """Return the nodes to leave in float, the worst one first.

    Args:
        quantize: quantizes some nodes.
        nodes: names of those that could be quantized.
        comparison: with the float graph.
        most: how many are left at most.
        tolerance: relative error of the outputs below which no more are left; 0 leaves `most`.
    """
    ordered = [name for name, _ in worst_first(quantize, nodes, comparison)]
    left, right = (0, most) if tolerance > 0 else (most, most)
    while left < right:
        middle = (left + right) // 2
        if comparison.error(quantize((), ordered[:middle])) <= tolerance:
            right = middle
        else:
            left = middle + 1
    return tuple(ordered[:left])


def worst_first(
    quantize: Quantize, nodes: Sequence[str], comparison: Comparison
) -> tuple[tuple[str, float], ...]:
    """Return each node with the error that it makes when it is quantized alone, worst first.

    Args:
        quantize: quantizes some nodes.
        nodes: names of those that could be quantized; of equal ones, the first comes first.
        comparison: with the float graph.
    """
    errors = {}
    for number, name in enumerate(nodes):
        tell((number / len(nodes), f"{number} of {len(nodes)} nodes quantized alone"))
        errors[name] = comparison.error(quantize((name,), ()))
    return tuple(sorted(errors.items(), key=lambda pair: -pair[1]))


def _squares(parts: Sequence[Array]) -> float:
    return float(sum(np.square(part).sum() for part in parts))
