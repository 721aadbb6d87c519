"""Disjoint splits of a data set, the same ones for the same seed.

Calibration and search see their own items only; the hold-out is the rest and is used once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from joulewise.core.errors import InputError, UsageError

__all__ = ["MINIMUM_ITEMS", "Splits", "split", "split_clusters"]

MINIMUM_ITEMS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """Indices of items, int64 [k], disjoint, each in ascending (the data's own) order.

    Args:
        calibrate: items from which passes take ranges and statistics.
        search: items on which candidates are compared.
        hold_out: items kept for the final test.
    """

    calibrate: npt.NDArray[np.int64]
    search: npt.NDArray[np.int64]
    hold_out: npt.NDArray[np.int64]


def split(
    items: int,
    *,
    seed: int,
    calibrate_items: int = 512,
    search_ratio: float = 0.3,
    search_items: int = 1,
) -> Splits:
    """Return splits that together hold each of `items` once.

    Args:
        items: number of items, at least 10.
        seed: of the permutation, not negative.
        calibrate_items: most items to calibrate with; never more than a tenth of all.
        search_ratio: share of the remaining items for the search, in (0, 1).
        search_items: give the search this many at least, up to half of the remaining items.

    Returns:
        Splits with at least one item in each.

    Raises:
        InputError: there are fewer than 10 items.
        UsageError: `seed`, `calibrate_items` or `search_ratio` is out of range.
    """
    if items < MINIMUM_ITEMS:
        raise InputError(f"{items} items are too few to split; give at least {MINIMUM_ITEMS}")
    if seed < 0 or calibrate_items < 1 or not 0 < search_ratio < 1:
        raise UsageError(
            f"cannot split with seed {seed}, {calibrate_items} calibration items and search ratio "
            f"{search_ratio}; use a seed >= 0, at least 1 item and a ratio between 0 and 1"
        )
    order = np.random.default_rng(seed).permutation(items)
    first = min(calibrate_items, max(1, items // 10))
    rest = items - first
    wanted = max(1, round(search_ratio * rest), min(search_items, rest // 2))
    second = first + min(wanted, rest - 1)
    calibrate, search, hold_out = np.split(order, [first, second])
    return Splits(calibrate=np.sort(calibrate), search=np.sort(search), hold_out=np.sort(hold_out))


def split_clusters(
    clusters: npt.NDArray[np.int64],
    *,
    seed: int,
    calibrate_items: int = 512,
    search_ratio: float = 0.3,
    search_clusters: int = 1,
) -> Splits:
    """Return splits that together hold each cluster once, whole; but see `calibrate_items`.

    Args:
        clusters: number of the cluster that each item belongs to, int64 [n].
        seed: of the permutation, not negative.
        calibrate_items: most items to calibrate with, from a tenth of the clusters at the most;
            what is beyond it of these is in no split.
        search_ratio: share of the remaining clusters for the search, in (0, 1).
        search_clusters: give the search this many at least, up to half of the remaining ones.

    Raises:
        InputError: there are fewer than 10 clusters.
        UsageError: `seed`, `calibrate_items` or `search_ratio` is out of range.
    """
    numbers, cluster = np.unique(clusters, return_inverse=True)
    if len(numbers) < MINIMUM_ITEMS:
        raise InputError(
            f"{len(numbers)} clusters are too few to split; give items of at least {MINIMUM_ITEMS}"
        )
    parts = split(
        len(numbers), seed=seed, calibrate_items=calibrate_items, search_ratio=search_ratio,
        search_items=search_clusters,
    )  # fmt: skip
    calibrate, search, hold_out = (
        np.flatnonzero(np.isin(cluster, part))
        for part in (parts.calibrate, parts.search, parts.hold_out)
    )
    if len(calibrate) > calibrate_items:
        random = np.random.default_rng(seed)
        calibrate = np.sort(random.choice(calibrate, calibrate_items, replace=False))
    return Splits(calibrate=calibrate, search=search, hold_out=hold_out)
