"""Qualities by how often items count: accuracy, F1, rank correlation, likelihood, precision.

Why this way: each is computed for many such counts at once, so that the bootstrap
(`joulewise.core.bootstrap`) resamples without a loop over items. What does not depend on the counts
(an order, a logarithm) is computed once.

Invariant: a count of two is the same as the item given twice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import sparse

from joulewise.core.bootstrap import Statistic

__all__ = ["accuracy", "likelihood", "macro_f1", "mean_average_precision", "rank_correlation"]

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def accuracy(right: npt.NDArray[np.bool_]) -> Statistic:
    """Return the fraction of items that are answered right.

    Args:
        right: bool [n].
    """
    scores = right.astype(np.float64)

    def value(weights: Floats) -> Floats:
        return np.asarray(weights @ scores / np.maximum(weights.sum(axis=1), 1))

    return value


def macro_f1(chosen: Labels, labels: Labels) -> Statistic:
    """Return the F1 score, mean over the classes that occur among the labels.

    Args:
        chosen: class that was answered for each item, int64 [n]; negative for no answer.
        labels: int64 [n], not negative.

    Source: van Rijsbergen 1979, Information Retrieval, ch. 7: F1 of a class is twice its hits over
    its answers plus its labels; the mean as in Opitz and Burst 2019 (arXiv:1911.03347), eq. 3.
    """
    classes = int(max(labels.max(initial=0), chosen.max(initial=0))) + 1
    wanted = _one_hot(labels, classes)
    answered = _one_hot(chosen, classes)
    right = _one_hot(np.where(chosen == labels, labels, -1), classes)

    def value(weights: Floats) -> Floats:
        labelled = weights @ wanted
        scores = 2 * (weights @ right) / np.maximum(labelled + weights @ answered, 1)
        present = labelled > 0
        return np.asarray((scores * present).sum(axis=1) / np.maximum(present.sum(axis=1), 1))

    return value


def rank_correlation(values: Floats, wanted: Floats) -> Statistic:
    """Return Spearman's rank correlation; 0 where all values, or all that are wanted, are equal.

    Args:
        values: float64 [n]; NaN ranks lowest.
        wanted: labels, float64 [n].

    Source: Spearman 1904, American Journal of Psychology 15, 72-101; equal values share the mean of
    their ranks (Kendall 1945, Biometrika 33, 239-251).
    """
    rank = _ranks(np.where(np.isnan(values), -np.inf, values))
    wanted_rank = _ranks(wanted)

    def value(weights: Floats) -> Floats:
        middle = weights.sum(axis=1, keepdims=True) / 2
        ours, theirs = rank(weights) - middle, wanted_rank(weights) - middle
        product, *squares = (
            (weights * x * y).sum(axis=1)
            for x, y in ((ours, theirs), (ours, ours), (theirs, theirs))
        )
        scale = np.sqrt(squares[0] * squares[1])
        return np.asarray(np.where(scale > 0, product / np.where(scale > 0, scale, 1), 0.0))

    return value


def likelihood(losses: Floats, tokens: Labels) -> Statistic:
    """Return the mean logarithm of the probability of a right token: minus log perplexity, nats.

    Args:
        losses: sum of -log p over the tokens of each item, float64 [n], nats.
        tokens: how many there are in each, int64 [n].

    Source: Jelinek, Mercer, Bahl and Baker 1977, JASA 62 (S1), S63: perplexity.
    """
    sums = np.column_stack([losses, tokens.astype(np.float64)])

    def value(weights: Floats) -> Floats:
        total = weights @ sums
        return np.asarray(-total[:, 0] / np.maximum(total[:, 1], 1))

    return value


def mean_average_precision(scores: Floats, labels: Labels) -> Statistic:
    """Return the average precision, mean over the classes that some item has.

    It is the sum, over the scores of items of a class, of the precision at that score and above,
    over their number. Equal scores stand at the same place.

    Args:
        scores: float64 [n, k]; NaN stands last.
        labels: whether an item is of a class, 0 or 1, int64 [n, k].

    Source: Buckley and Voorhees 2000, SIGIR 33-40, of a ranking without ties.
    """
    lowest = np.where(np.isnan(scores), -np.inf, scores)
    known = [
        _average_precision(lowest[:, k], labels[:, k] > 0)
        for k in np.flatnonzero(labels.any(axis=0))
    ]

    def value(weights: Floats) -> Floats:
        total, present = np.zeros(len(weights)), np.zeros(len(weights))
        for each in known:
            precision, positives = each(weights)
            total += np.where(positives > 0, precision / np.maximum(positives, 1), 0.0)
            present += positives > 0
        return np.asarray(total / np.maximum(present, 1))

    return value


def _average_precision(
    scores: Floats, positive: npt.NDArray[np.bool_]
) -> Callable[[Floats], tuple[Floats, Floats]]:
    """Return the sum of precisions at the positive items of a class, and the number of these."""
    order = np.argsort(-scores, kind="stable")
    ranked, right = -scores[order], positive[order]
    hits = order[right]
    # places up to which all scores are at least that of a positive item, each once
    ends = np.unique(np.searchsorted(ranked, ranked[right], side="right"))
    starts = np.concatenate([[0], ends[:-1]])
    firsts = np.searchsorted(np.flatnonzero(right), starts)
    above = order[: ends[-1]]

    def sums(weights: Floats) -> tuple[Floats, Floats]:
        found = np.add.reduceat(weights[:, hits], firsts, axis=1)
        seen = np.cumsum(np.add.reduceat(weights[:, above], starts, axis=1), axis=1)
        at_least = np.cumsum(found, axis=1)
        precision = (found * at_least / np.maximum(seen, 1)).sum(axis=1)
        return np.asarray(precision), np.asarray(at_least[:, -1])

    return sums


def _ranks(values: Floats) -> Statistic:
    """Return the rank of every value among counted ones, [b, n], half a rank too low for all."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))

    def ranks(weights: Floats) -> Floats:
        sums = np.add.reduceat(weights[:, order], starts, axis=1)
        return np.asarray((np.cumsum(sums, axis=1) - sums / 2)[:, group])

    return ranks


def _one_hot(places: Labels, classes: int) -> sparse.csr_array:
    """Return which class each item is of, [n, classes]; nothing where that is negative."""
    items = np.flatnonzero(places >= 0)
    ones = np.ones(len(items))
    return sparse.csr_array((ones, (items, places[items])), shape=(len(places), classes))
