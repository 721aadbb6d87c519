"""Bounds of whatever is computed from all items together, by resampling them.

Why this way: the F1 score, a rank correlation or a perplexity has no exact paired test, but what
they would be on other items can be seen by drawing these items again. Clusters are drawn, never
parts of one, and both programs see the same draw, so what both share cancels. The bounds are BCa:
they keep their level to second order, and do not change when the statistic is transformed; where
clusters are few, their levels are widened as Student's t widens a mean's.

Invariant: the same statistic and number of clusters give the same bounds.

Source: Efron 1987, JASA 82, 171-185 (BCa); Field and Welsh 2007, JRSS B 69, 369-390 (clusters);
Hesterberg 2015, The American Statistician 69, 371-386, section 5.2 (expanded levels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = ["RESAMPLES", "Bounds", "Statistic", "bootstrap"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

Statistic = Callable[[Floats], Floats]
"""Takes how often each item counts, float64 [b, n]; gives one value per row, float64 [b]."""

RESAMPLES = 2000
"""Draws of all clusters: the share beyond a 95 % bound is then known to half a percent.

Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, ch. 14: at least 1,000.
"""

GROUPS = 400
"""Parts of the clusters that are left out in turn for the acceleration.

The third moment of what groups add is the sum of that of their clusters, so groups do as well; its
own error is about 0.65 in the number of groups (judgement).
"""

BLOCK_VALUES = 1 << 21
"""Counts that are held at a time: 16 MiB."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A statistic with its one-sided bounds.

    Args:
        value: on the clusters as they are.
        lower: one-sided lower confidence bound.
        upper: one-sided upper confidence bound.
        error: standard error.
    """

    value: float
    lower: float
    upper: float
    error: float


def bootstrap(
    statistic: Statistic,
    items: int,
    confidence: float,
    *,
    clusters: Numbers | None = None,
    seed: int = 0,
) -> Bounds:
    """Return a statistic with BCa bounds.

    Where no draw moves the statistic, both bounds are its value: what these clusters do not show
    at all is not in it, so whoever asks for a proof adds what may have remained unseen.

    Args:
        statistic: of the items, such as the difference of two programs' scores on them.
        items: how many there are.
        confidence: of each bound, in (0.5, 1).
        clusters: number of the cluster that each item belongs to, from 0 and without gaps,
            int64 [items]; None where every item is a cluster. At least two.
        seed: of the draws.

    Raises:
        ValueError: there are fewer than two clusters.

    Source: Efron 1987, equations 2.3 and 6.6; the bias correction counts half of the draws that are
    equal to the value. Hesterberg 2015, section 5.2: normal quantiles become those of Student's t,
    times the square root of n / (n - 1).
    """
    count = items if clusters is None else 1 + int(np.max(clusters, initial=-1))
    if count < 2:
        raise ValueError("one cluster does not tell how much others differ; give two or more")
    rows = max(1, BLOCK_VALUES // items)
    own = slice(None) if clusters is None else clusters
    value = float(statistic(np.ones((1, items)))[0])
    found = np.concatenate([statistic(drawn[:, own]) for drawn in _draws(count, rows, seed)])
    bias = _bias(found, value)
    acceleration = _acceleration([statistic(left[:, own]) for left in _without(count, rows)])
    wide = math.sqrt(count / (count - 1)) * float(special.stdtrit(count - 1, confidence))
    lower, upper = (float(np.quantile(found, _level(z, bias, acceleration))) for z in (-wide, wide))
    return Bounds(
        value=value,
        lower=min(lower, value),
        upper=max(upper, value),
        error=float(np.std(found)) * math.sqrt(count / (count - 1)),
    )


def _draws(clusters: int, rows: int, seed: int) -> Iterator[Floats]:
    """Yield how often each cluster is drawn, in blocks of so many rows that make RESAMPLES."""
    random = np.random.default_rng(seed)
    for first in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - first)
        drawn = random.integers(clusters, size=(count, clusters))
        places = drawn + clusters * np.arange(count)[:, None]
        counts = np.bincount(places.ravel(), minlength=count * clusters)
        yield counts.reshape(count, clusters).astype(np.float64)


def _bias(found: Floats, value: float) -> float:
    """Return how far the draws' median lies from the value, as a normal quantile."""
    near = 1e-12 * max(1.0, abs(value))  # sums in another order
    below = np.count_nonzero(found < value - near)
    equal = np.count_nonzero(np.abs(found - value) <= near)
    share = (below + 0.5 * equal) / len(found)
    least = 0.5 / len(found)
    return float(special.ndtri(min(1.0 - least, max(least, share))))


def _without(clusters: int, rows: int) -> Iterator[Floats]:
    """Yield which clusters count if one group after the other does not, in blocks of rows."""
    groups = min(GROUPS, clusters)
    group = np.random.default_rng(clusters).permutation(np.arange(clusters) % groups)
    for first in range(0, groups, rows):
        left_out = np.arange(first, min(first + rows, groups))
        yield (group != left_out[:, None]).astype(np.float64)


def _acceleration(without: Sequence[Floats]) -> float:
    """Return a sixth of the skewness of what groups add, from the statistic without each."""
    values = np.concatenate(without)
    added = np.mean(values) - values
    squares = float(np.sum(added**2))
    return float(np.sum(added**3)) / (6.0 * squares**1.5) if squares > 0 else 0.0


def _level(z: float, bias: float, acceleration: float) -> float:
    """Return the share of the draws below a bound."""
    scale = 1.0 - acceleration * (bias + z)
    if scale <= 0:  # so skewed that no quantile is far enough
        return float(z > 0)
    return float(special.ndtr(bias + (bias + z) / scale))
