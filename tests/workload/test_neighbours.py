"""Nearest items against a loop over all pairs, and against answers that were planted."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joulewise.core.errors import InputError, UsageError
from joulewise.workload import neighbours
from joulewise.workload.neighbours import NOBODY, TIE, nearest, same_nearest
from joulewise.workload.task import Marks, Task

Array = npt.NDArray[Any]


def cosine(a: Array, b: Array) -> float:
    return math.fsum(a * b) / math.sqrt(math.fsum(a * a) * math.fsum(b * b))


def by_hand(vectors: Array) -> list[int]:
    found = []
    for number, row in enumerate(vectors):
        others = [(cosine(row, x), n) for n, x in enumerate(vectors) if n != number]
        best = max(c for c, _ in others)
        found.append(min(n for c, n in others if c >= best - TIE))
    return found


def random_vectors(items: int, size: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=(items, size)).astype(np.float32)


def neighbour(ours: Array, original: Array, labels: Array | None = None) -> Marks:
    metric = Task(metric="neighbour" if labels is None else "neighbour label")
    return metric.mark([ours], [original], labels=labels)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 6), st.integers(0, 999))
def test_nearest_is_what_a_loop_finds(items: int, size: int, seed: int) -> None:
    vectors = random_vectors(items, size, seed) * np.exp(random_vectors(items, 1, seed + 1))
    assert nearest(vectors).tolist() == by_hand(vectors.astype(np.float64))


@pytest.mark.parametrize("values", [1, 150, 10_000])
def test_blocks_change_nothing(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = random_vectors(70, 5)
    monkeypatch.setattr(neighbours, "BLOCK_VALUES", values)
    assert nearest(vectors).tolist() == by_hand(vectors.astype(np.float64))


def test_pairs_that_were_planted_find_each_other() -> None:
    """A permutation is hidden in noise of an eighth of its vectors' length."""
    half = random_vectors(200, 64)
    order = np.random.default_rng(1).permutation(200)
    vectors = np.concatenate([half, half[order] + random_vectors(200, 64, 2) / 8])
    partner = np.concatenate([np.argsort(order) + 200, order])
    np.testing.assert_array_equal(nearest(vectors), partner)


def test_turning_and_stretching_change_no_neighbour() -> None:
    vectors = random_vectors(80, 6)
    turned = 1e6 * vectors @ np.linalg.qr(random_vectors(6, 6, 3))[0]
    marks = neighbour(turned, vectors)
    assert marks.ours.all()
    assert not marks.changed.any()


def test_mixed_up_vectors_are_wrong() -> None:
    """Pairs of twins; where both twins' vectors go to others, nobody finds their twin."""
    twins = np.repeat(random_vectors(50, 32), 2, axis=0) + random_vectors(100, 32, 1) / 50
    marks = neighbour(np.roll(twins, 1, axis=0), twins)
    assert marks.theirs.all()
    assert not marks.ours.any()
    assert marks.changed.all()


def test_one_vector_for_all_is_right_by_chance_only() -> None:
    marks = neighbour(np.ones((100, 8)), random_vectors(100, 8))
    assert marks.ours.sum() <= 10


def test_any_of_equally_near_items_is_right() -> None:
    """Items 1 and 2 are copies, so both are nearest to 0; the candidate finds the second."""
    original = np.array([[1, 0], [1, 0.1], [1, 0.1], [0, 1]])
    ours = np.array([[1, 0], [1, 0.2], [1, 0.1], [0, 1]])
    assert nearest(ours)[0] == 2
    assert neighbour(ours, original).ours[0]
    assert not neighbour(np.array([[0, 1], [1, 0], [1, 0.1], [0, 1]]), original).ours[0]


def test_labels_of_neighbours() -> None:
    """By hand: angles 0, 10 | 40, 52 degrees; the candidate moves the second pair apart."""
    labels = np.array([7, 7, 3, 3])

    def at(*degrees: float) -> Array:
        return np.array([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])

    marks = neighbour(at(0, 10, 25, 52), at(0, 10, 40, 52), labels)
    assert marks.theirs.tolist() == [True, True, True, True]
    assert marks.ours.tolist() == [True, True, False, True]
    assert marks.changed.tolist() == [False, False, True, False]


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_what_has_no_direction_is_nobodys_neighbour(bad: float) -> None:
    vectors = random_vectors(30, 4)
    vectors[7] = bad
    found = nearest(vectors)
    assert found[7] == NOBODY
    assert 7 not in found
    assert not same_nearest(found, found, vectors)[7]
    rest = np.delete(np.arange(30), 7)
    assert found[rest].tolist() == rest[by_hand(vectors[rest].astype(np.float64))].tolist()


def test_a_single_item_has_no_neighbour() -> None:
    assert nearest(np.ones((1, 3))).tolist() == [NOBODY]


def test_quality_falls_with_noise() -> None:
    vectors = random_vectors(300, 16)
    noise = random_vectors(300, 16, 9)
    right = [neighbour(vectors + n * noise, vectors).ours.mean() for n in (0, 1e-6, 0.05, 0.5, 50)]
    assert right[0] == right[1] == 1
    assert all(a > b for a, b in pairwise(right[1:]))
    assert right[-1] < 0.05


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2)])
def test_vectors_have_one_row_per_item(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"needs one vector per item.*use --task values"):
        neighbour(np.ones(shape), np.ones(shape))


def test_labels_are_needed() -> None:
    with pytest.raises(UsageError, match="need labels"):
        Task(metric="neighbour label").mark([np.eye(3)], [np.eye(3)])
