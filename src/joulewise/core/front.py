"""The Pareto front of trials: those that no other one equals or beats in all that counts.

What counts are joules, quality, latency and size, by their point values: no interval takes part, so
two ways that differ by less than their noise may both be on the front.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from joulewise.core.claim import Trial

__all__ = ["front", "non_dominated"]


def front(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Return the places, from 0, of the trials that none dominates.

    Only trials with an energy ratio and a quality take part, rejected ones among them: what loses
    more quality than was declared acceptable may still be the cheapest of its quality. A latency or
    a size that is not known counts as the worst: it keeps no trial off the front.

    Args:
        trials: of one search, so that their ratios have one anchor.
    """
    costs = [(place, cost) for place, t in enumerate(trials) if (cost := _cost(t)) is not None]
    kept = non_dominated([cost for _, cost in costs])
    return tuple(place for (place, _), stays in zip(costs, kept, strict=True) if stays)


def non_dominated(costs: Sequence[Sequence[float]]) -> tuple[bool, ...]:
    """Return for each point whether no other one is as low in all figures and lower in one.

    Args:
        costs: the points, each with the same figures in the same order; less is better.

    Source: Miettinen 1998, Nonlinear Multiobjective Optimization, definition 2.2.1.
    """
    return tuple(not any(_dominates(other, cost) for other in costs) for cost in costs)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def _cost(trial: Trial) -> tuple[float, float, float, float] | None:
    """Return energy ratio, loss of quality, p95 latency in s and size in bytes of a trial."""
    if trial.ratio is None or trial.quality is None:
        return None
    p95_s = None if trial.measurement is None else trial.measurement.latency_p95_s
    return (
        trial.ratio.value,
        -trial.quality.value,
        math.inf if p95_s is None else p95_s,
        math.inf if trial.size_bytes is None else trial.size_bytes,
    )
