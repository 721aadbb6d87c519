from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from joulewise.core.errors import InputError, UsageError
from joulewise.workload.split import Splits, split, split_clusters

ITEMS = st.integers(10, 3000)
SEEDS = st.integers(0, 2**32)
RATIOS = st.floats(0.001, 0.999)


@given(ITEMS, SEEDS, RATIOS)
def test_every_item_is_in_exactly_one_split(items: int, seed: int, ratio: float) -> None:
    parts = split(items, seed=seed, search_ratio=ratio)
    together = np.concatenate([parts.calibrate, parts.search, parts.hold_out])
    np.testing.assert_array_equal(np.sort(together), np.arange(items))


@given(ITEMS, SEEDS, RATIOS)
def test_no_split_is_empty(items: int, seed: int, ratio: float) -> None:
    parts = split(items, seed=seed, search_ratio=ratio)
    assert min(len(parts.calibrate), len(parts.search), len(parts.hold_out)) >= 1


@given(ITEMS, SEEDS)
def test_the_same_seed_gives_the_same_splits(items: int, seed: int) -> None:
    first, second = split(items, seed=seed), split(items, seed=seed)
    np.testing.assert_array_equal(first.calibrate, second.calibrate)
    np.testing.assert_array_equal(first.search, second.search)
    np.testing.assert_array_equal(first.hold_out, second.hold_out)


@given(ITEMS, SEEDS)
def test_items_stay_in_their_order(items: int, seed: int) -> None:
    parts = split(items, seed=seed)
    assert all((np.diff(x) > 0).all() for x in (parts.calibrate, parts.search, parts.hold_out))


def test_another_seed_gives_other_splits() -> None:
    assert not np.array_equal(split(100, seed=0).search, split(100, seed=1).search)


@pytest.mark.parametrize(
    ("items", "sizes"), [(10, (1, 3, 6)), (1000, (100, 270, 630)), (16000, (512, 4646, 10842))]
)
def test_sizes(items: int, sizes: tuple[int, int, int]) -> None:
    parts = split(items, seed=0)
    assert (len(parts.calibrate), len(parts.search), len(parts.hold_out)) == sizes


def test_too_few_items() -> None:
    with pytest.raises(InputError, match="9 items are too few"):
        split(9, seed=0)


@pytest.mark.parametrize(
    ("seed", "calibrate_items", "ratio"), [(-1, 5, 0.3), (0, 0, 0.3), (0, 5, 0.0), (0, 5, 1.0)]
)
def test_parameters_out_of_range(seed: int, calibrate_items: int, ratio: float) -> None:
    with pytest.raises(UsageError, match="cannot split"):
        split(100, seed=seed, calibrate_items=calibrate_items, search_ratio=ratio)


CLUSTERS = st.lists(st.integers(0, 60), min_size=200, max_size=600).filter(
    lambda numbers: len(set(numbers)) >= 10
)


def parts_of(splits: Splits) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return splits.calibrate, splits.search, splits.hold_out


@given(CLUSTERS, SEEDS, RATIOS)
def test_no_cluster_is_in_two_splits(numbers: list[int], seed: int, ratio: float) -> None:
    clusters = np.array(numbers)
    parts = parts_of(split_clusters(clusters, seed=seed, search_ratio=ratio))
    together = np.concatenate(parts)
    np.testing.assert_array_equal(np.sort(together), np.arange(len(clusters)))
    held = [set(clusters[part].tolist()) for part in parts]
    assert all(held)
    assert sum(map(len, held)) == len(set(numbers))


@given(CLUSTERS, SEEDS)
def test_no_more_items_calibrate_than_asked_for(numbers: list[int], seed: int) -> None:
    clusters = np.array(numbers)
    whole, few = (split_clusters(clusters, seed=seed, calibrate_items=most) for most in (10_000, 5))
    assert len(few.calibrate) <= 5
    assert set(clusters[few.calibrate]) <= set(clusters[whole.calibrate]) or len(set(numbers)) > 50
    assert not set(clusters[few.calibrate]) & set(clusters[few.hold_out])


@given(st.integers(10, 500), SEEDS)
def test_clusters_of_one_item_are_split_like_items(items: int, seed: int) -> None:
    for one, other in zip(
        parts_of(split_clusters(np.arange(items), seed=seed)),
        parts_of(split(items, seed=seed)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_too_few_clusters() -> None:
    with pytest.raises(InputError, match="9 clusters are too few"):
        split_clusters(np.arange(900) % 9, seed=0)
