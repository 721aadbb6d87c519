"""Outputs that are distributions: over classes, one per item, or over tokens, one per place.

Scores before softmax and probabilities serve alike; their own numbers tell which they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NO_TOKEN", "Likeness", "likeness", "token_losses"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

NO_TOKEN = -100
"""Label of a place that does not count.

Source: ``ignore_index`` of torch.nn.CrossEntropyLoss, which language models' labels follow.
"""

LEAST_LOG = float(np.log(np.finfo(np.float32).tiny))
"""Logarithm of the probability that counts for 0 and for NaN, -87.3: the least normal float32."""

SUM_TOLERANCE = 1e-3
"""Largest distance from 1 at which probabilities add up to 1."""

BLOCK_VALUES = 1 << 22
"""Values that are held as float64 at a time: 32 MiB."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How like the original's distributions a candidate's are.

    Args:
        divergence_nats: mean Kullback-Leibler divergence from the original to the candidate, over
            items or tokens; None where the outputs are no distributions.
        agreement_ratio: fraction of items or tokens with the same most likely class or token.
    """

    divergence_nats: float | None
    agreement_ratio: float


def likeness(ours: Array, theirs: Array, labels: Labels | None = None) -> Likeness | None:
    """Return how like `theirs` our distributions are; None where no place counts.

    Args:
        ours: the candidate's scores or probabilities, floats [n, v] or [n, t, v].
        theirs: the original's, of the same shape.
        labels: int64 [n, t]; places with NO_TOKEN do not count. None counts all.

    Source: Kullback and Leibler 1951, Annals of Mathematical Statistics 22, 79-86, equation 2.4.
    """
    probable = _are_probabilities(theirs)
    told = probable or not _in_unit_interval(theirs)
    divergence, same, places = 0.0, 0, 0
    for part in _parts(theirs):
        counted = slice(None) if labels is None else labels[part] != NO_TOKEN
        mine, other = ours[part][counted], theirs[part][counted]
        same += int(np.count_nonzero(mine.argmax(axis=-1) == other.argmax(axis=-1)))
        places += other[..., 0].size
        if told:
            logs, other_logs = (_log_probabilities(x, probable) for x in (mine, other))
            divergence += float(np.sum(np.exp(other_logs) * (other_logs - logs)))
    if not places:
        return None
    return Likeness(
        divergence_nats=max(0.0, divergence / places) if told else None,
        agreement_ratio=same / places,
    )


def token_losses(scores: Array, labels: Labels) -> tuple[Floats, Labels]:
    """Return the sum of -log p over the right tokens of each item, and how many there are.

    Args:
        scores: before softmax, or probabilities, floats [n, t, v].
        labels: the token that is right at each place, int64 [n, t]; NO_TOKEN for none.

    Returns:
        Nats, float64 [n], and int64 [n].
    """
    probable, losses = _are_probabilities(scores), np.zeros(len(scores))
    counted = labels != NO_TOKEN
    for part in _parts(scores):
        logs = _log_probabilities(scores[part], probable)
        right = np.take_along_axis(logs, np.where(counted, labels, 0)[part][..., None], axis=-1)
        losses[part] = -np.sum(right[..., 0] * counted[part], axis=1)
    return losses, counted.sum(axis=1)


def _log_probabilities(scores: Array, probable: bool) -> Floats:
    """Return logarithms of probabilities, [..., v], none below LEAST_LOG."""
    values = scores.astype(np.float64)
    with np.errstate(all="ignore"):
        if probable:
            logs = np.log(values)
        else:
            values = values - values.max(axis=-1, keepdims=True)
            logs = values - np.log(np.exp(values).sum(axis=-1, keepdims=True))
        return np.asarray(np.where(np.isnan(logs), LEAST_LOG, np.maximum(logs, LEAST_LOG)))


def _are_probabilities(scores: Array) -> bool:
    """Return whether no value is negative, and every row adds up to 1."""
    return all(
        bool((scores[part] >= 0).all())
        and bool(np.all(np.abs(scores[part].sum(axis=-1, dtype=np.float64) - 1) <= SUM_TOLERANCE))
        for part in _parts(scores)
    )


def _in_unit_interval(scores: Array) -> bool:
    """Return whether all values are in [0, 1], as independent probabilities are."""
    return bool(np.min(scores) >= 0 and np.max(scores) <= 1)


def _parts(values: Array) -> Iterator[slice]:
    """Yield consecutive items that take about BLOCK_VALUES together."""
    step = max(1, BLOCK_VALUES // max(1, values[:1].size))
    return (slice(start, start + step) for start in range(0, len(values), step))
