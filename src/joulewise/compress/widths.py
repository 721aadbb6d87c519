"""How many channels each group keeps, so that the least important joules go.

Cost model: a layer costs its multiplications, times the share of its inputs that is left, times the
share of its outputs; so what a channel saves depends on how wide its neighbours still are. Where
the joules of groups were measured, a multiplication of a group counts as much as it was measured to
cost.

Source: bilinear in the widths as in Yang, Zhu and Liu 2019, section 3.2 (arXiv:1806.04321); the
step with the least lost for what it saves is taken first, as in Yang et al. 2018, algorithm 1
(arXiv:1804.03230).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from joulewise.core.errors import PassError

__all__ = ["Costs", "LayerCost", "Stairs", "gone_evenly", "gone_for", "measured"]

Scores = np.ndarray[Any, np.dtype[np.float64]]

LEAST_KEPT_RATIO = 0.1
"""No group keeps less than this share of its units: a judgement against layers that become
bottlenecks because a score calls nearly all of their channels unimportant."""


ROUNDING = 1e-9
"""What adding up shares may miss."""


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What a layer costs by the widths of the groups around it.

    Args:
        cost: at full width.
        reads: group -> part of the layer's inputs that one unit of it is.
        writes: group -> part of the layer's outputs that one unit of it is.
    """

    cost: float
    reads: Mapping[int, float]
    writes: Mapping[int, float]

    def at(self, gone: Sequence[int]) -> float:
        """Return the cost with so many units of each group gone."""
        left = [
            1.0 - sum(ratio * gone[group] for group, ratio in side.items())
            for side in (self.reads, self.writes)
        ]
        return self.cost * left[0] * left[1]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What a network costs by the widths of its groups, in multiplications.

    Args:
        layers: the layers.
    """

    layers: tuple[LayerCost, ...]

    def at(self, gone: Sequence[int]) -> float:
        """Return the cost with so many units of each group gone."""
        return sum(layer.at(gone) for layer in self.layers)

    def touched(self, group: int) -> tuple[LayerCost, ...]:
        """Return the layers that a group belongs to."""
        return tuple(x for x in self.layers if group in x.reads or group in x.writes)


@dataclass(frozen=True, kw_only=True)
class Stairs:
    """The numbers of units that a group may keep.

    Args:
        units: at full width.
        step: what is kept is a multiple of it; a group that has no more is left alone.
    """

    units: int
    step: int = 1

    def down(self, gone: int) -> int | None:
        """Return how many units are gone one step further down, None at the foot."""
        kept = (self.units - gone - 1) // self.step * self.step
        return self.units - kept if kept >= self._lowest else None

    def foot(self) -> int:
        """Return how many units are gone at the foot."""
        return max(0, self.units - math.ceil(self._lowest / self.step) * self.step)

    @property
    def _lowest(self) -> int:
        return max(self.step, math.ceil(LEAST_KEPT_RATIO * self.units))


def measured(costs: Costs, ratios: Sequence[float]) -> list[float]:
    """Return the part of a model's joules per multiplication of each group.

    Args:
        costs: of the model.
        ratios: by group, the part of the model's joules that goes if it alone has no width left.
    """
    sums = (sum(layer.cost for layer in costs.touched(n)) for n in range(len(ratios)))
    return [ratio / cost if cost else 0.0 for ratio, cost in zip(ratios, sums, strict=True)]


def gone_evenly(stairs: Sequence[Stairs], ratio: float) -> list[int]:
    """Return how many units of each group go if each loses the same share, as far as steps allow.

    Args:
        stairs: by group.
        ratio: share of the units that goes, in [0, 1).
    """
    gone = []
    for group in stairs:
        kept = max(1, round(group.units * (1 - ratio) / group.step)) * group.step
        gone.append(max(0, group.units - kept))
    return gone


def gone_for(
    costs: Costs,
    stairs: Sequence[Stairs],
    scores: Sequence[Scores],
    ratio: float,
    rates: Sequence[float] | None = None,
) -> list[int]:
    """Return how many units of each group go so that a share of the multiplications is saved.

    One step after the other: always the one that loses least importance for what it saves.

    Args:
        costs: of the network.
        stairs: by group.
        scores: importance of the units of each group, comparable between groups.
        ratio: share of the multiplications that goes, in [0, 1).
        rates: what a multiplication of each group costs, in one unit; None where all cost the
            same. What costs nothing goes last.

    Raises:
        PassError: not so much can be saved.
    """
    sums = [np.concatenate([[0.0], np.cumsum(np.sort(values))]) for values in scores]
    touched = [costs.touched(number) for number in range(len(stairs))]
    gone, saved = [0] * len(stairs), 0.0
    full = costs.at(gone)
    prices = [1.0] * len(stairs) if rates is None else rates
    while saved < (ratio - ROUNDING) * full:
        best: tuple[tuple[float, float], float, list[int]] | None = None
        for number, group in enumerate(stairs):
            lower = group.down(gone[number])
            if lower is None:
                continue
            after = [*gone[:number], lower, *gone[number + 1 :]]
            fewer = sum(layer.at(gone) - layer.at(after) for layer in touched[number])
            lost = sums[number][lower] - sums[number][gone[number]]
            if fewer > 0:
                gain = prices[number] * fewer
                rank = (lost / gain if gain > 0 else math.inf, lost / fewer)
                best = (rank, fewer, after) if best is None or rank < best[0] else best
        if best is None:
            raise PassError(
                f"at most {100 * saved / full if full else 0:.0f} % can be pruned away here; ask "
                "for less, or for smaller steps (align)"
            )
        saved, gone = saved + best[1], best[2]
    return gone
