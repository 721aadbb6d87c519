"""When the first stage of a cascade is sure enough: the rule, and the threshold that keeps the job.

The rule is written twice: here in numpy, and as graph nodes in `joulewise.compress.compose`. Scores
become log-probabilities first, so that logits and probabilities give the same confidence, and a
score that is not a number makes its whole item unsure, which defers it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.core.errors import PassError, UsageError
from joulewise.core.statistics import noninferiority_p_value

__all__ = ["SIGNALS", "Found", "Gate", "Terms", "are_probabilities"]

Array = npt.NDArray[Any]
Flags = npt.NDArray[np.bool_]

SIGNALS = ("margin", "max_probability", "entropy")

TINY = 1e-30
"""Probability below which 0 log 0 is taken as 0."""

PROBABILITY_SLACK = 0.05
"""How far the sum of a row of (perhaps quantized) probabilities may be from 1."""

ROUNDING_RATIO = 1e-5
"""Relative difference of two confidences that float32 arithmetic keeps apart."""

STEPS = 100
"""Thresholds that are tested, evenly spaced in the share of items that they defer."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """Which items the first stage passes on.

    Args:
        signal: what confidence is. "margin": logarithm of the odds of the best class against the
            second, in [0, inf). "max_probability": of the best class, in [1/k, 1]. "entropy":
            exp(-H) of the entropy H of the classes in nats, that is, 1 over the number of classes
            among which the first stage hesitates, in [1/k, 1].
        threshold: items with less confidence are deferred; 0 defers none.
        probabilities: whether scores are probabilities; else they are logits.

    Source: largest probability, Hendrycks and Gimpel 2017, arXiv:1610.02136; entropy,
    Teerapittayanon, McDanel and Kung 2016, arXiv:1709.01686; margin, Scheffer, Decomain and Wrobel
    2001, "Active hidden Markov models for information extraction"; differs: as log odds, which do
    not saturate in float32.
    """

    signal: str
    threshold: float
    probabilities: bool

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise UsageError(f"there is no signal {self.signal!r}; use {', '.join(SIGNALS)}")
        if not self.threshold >= 0:
            raise UsageError(f"a threshold of {self.threshold} is none; use 0 or more")

    def confidence(self, scores: Array) -> npt.NDArray[np.float64]:
        """Return the confidence of each item, float64 [n]; NaN where a score is NaN.

        Args:
            scores: of the first stage, [n, k] with k >= 2.
        """
        with np.errstate(all="ignore"):
            logs = self._logs(scores.astype(np.float64))
            best = np.sort(logs, axis=1)[:, :-3:-1]
            if self.signal == "margin":
                return np.asarray(best[:, 0] - best[:, 1])
            if self.signal == "max_probability":
                return np.asarray(np.exp(best[:, 0]))
            entropy = -np.sum(np.exp(logs) * np.maximum(logs, np.log(TINY)), axis=1)
            return np.asarray(np.exp(-entropy))

    def deferred(self, scores: Array) -> Flags:
        """Return which items are passed on to the second stage, bool [n]."""
        return np.asarray(~(self.confidence(scores) >= self.threshold))

    def _logs(self, scores: Array) -> Array:
        """Return log-probabilities [n, k]; a row with a NaN is NaN throughout."""
        if self.probabilities:
            return np.asarray(np.log(scores / scores.sum(axis=1, keepdims=True)))
        shifted = scores - scores.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def are_probabilities(scores: Array) -> bool:
    """Return whether scores [n, k] look like probabilities: not negative, and rows add up to 1."""
    sums = scores.sum(axis=1)
    return bool(np.all(scores >= 0) and np.all(np.abs(sums - 1) <= PROBABILITY_SLACK))


@dataclass(frozen=True, kw_only=True)
class Found:
    """A threshold, and what it does on the items that it was looked at with.

    Args:
        threshold: of the gate.
        deferred_ratio: share of items that it defers.
        items: how many items there were.
        lost: items that only the second stage answers right and that are not deferred.
        gained: items that only the first stage answers right and that are not deferred.
        confidence: with which the loss against the second stage is below what was asked for.
    """

    threshold: float
    deferred_ratio: float
    items: int
    lost: int
    gained: int
    confidence: float


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is asked of a gate.

    Args:
        signal: see Gate.
        threshold: of the gate, None for the one that `find` finds.
        loss: largest loss of quality against the second stage alone, as a fraction.
        confidence: of that, in (0.5, 1).
        defer: smallest share of items to pass on, in [0, 1), of those that `find` looks at.

    Raises:
        UsageError: a value cannot be meant.
    """

    signal: str
    threshold: float | None
    loss: float
    confidence: float
    defer: float = 0.0

    def __post_init__(self) -> None:
        Gate(signal=self.signal, threshold=self.threshold or 0.0, probabilities=False)
        if not 0 < self.loss < 1:
            raise UsageError(f"a loss of {self.loss:g} is none; use a fraction like 0.002")
        if not 0.5 < self.confidence < 1:
            raise UsageError(f"a confidence of {self.confidence:g} is none; use e.g. 0.95")
        if not 0 <= self.defer < 1:
            raise UsageError(f"a share of {self.defer:g} cannot be passed on; use e.g. 0.1")

    def find(self, confidence: Array, first: Flags, second: Flags) -> Found:
        """Return the threshold that was asked for, or the lowest that loses no more than `loss`.

        Thresholds are tested from the most cautious down, each with the exact paired test, until
        one fails or the next would pass on less than `defer`: a fixed sequence needs no correction
        for its length, so the same items may serve all of it. Where they are too few to show `loss`
        even if none were lost, the confidence is the highest that they can give, and no net loss
        among them is accepted.

        Args:
            confidence: of the first stage in each item, [n]; NaN for none at all.
            first: which items the first stage answers right, bool [n].
            second: the same for the second stage.

        Raises:
            PassError: every threshold loses too much, or none is needed.

        Source: fixed-sequence testing of a risk, Angelopoulos, Bates, Candès, Jordan and Lei 2021,
        "Learn then Test", arXiv:2110.01052, sec. 4.2.
        """
        items = len(confidence)
        p_value = functools.cache(
            lambda gained, lost: noninferiority_p_value(gained, lost, items, self.loss)
        )
        if self.threshold is not None:
            given = _tally(self.threshold, confidence, first, second)
            return replace(given, confidence=1.0 - p_value(given.gained, given.lost))
        best, error = None, max(1.0 - self.confidence, p_value(0, 0))
        for threshold in _thresholds(confidence):
            found = _tally(threshold, confidence, first, second)
            if p_value(found.gained, found.lost) > error:
                break
            if best is not None and found.deferred_ratio < self.defer:
                break
            best = replace(found, confidence=1.0 - error)
        points = f"{100 * self.loss:g} points on {items:,} items"
        if best is None:
            raise PassError(
                f"the first stage loses more than {points} whatever it passes on; let it do more "
                "of the work, or train it longer"
            )
        if best.deferred_ratio == 0:
            raise PassError(
                f"the first stage alone loses less than {points}; leave the second stage out, or "
                "make the first cheaper"
            )
        return best


def _tally(threshold: float, confidence: Array, first: Flags, second: Flags) -> Found:
    kept = confidence >= threshold
    return Found(
        threshold=threshold,
        deferred_ratio=float(np.mean(~kept)),
        items=len(confidence),
        lost=int(np.sum(kept & second & ~first)),
        gained=int(np.sum(kept & first & ~second)),
        confidence=0.0,
    )


def _thresholds(confidence: Array) -> list[float]:
    """Return the thresholds to test, the most cautious first; 0 is the last.

    Each is float32, as in the graph, and lies in a gap between the confidences of two items that
    rounding does not close; where many items are equally sure, all of them are deferred.
    """
    ordered = np.maximum(np.sort(np.where(np.isnan(confidence), -np.inf, confidence)), 0.0)
    below, above = ordered[:-1], ordered[1:]
    with np.errstate(invalid="ignore"):  # between two infinities there is no gap
        gaps = 1 + np.flatnonzero(above - below > ROUNDING_RATIO * (1.0 + below))
    wanted = np.arange(STEPS - 1, 0, -1) * len(ordered) // STEPS
    places = np.searchsorted(gaps, np.maximum(wanted, 1))
    found = [gaps[place] for place in dict.fromkeys(places) if place < len(gaps)]
    return [*(_between(ordered[place - 1], ordered[place]) for place in found), 0.0]


def _between(below: float, above: float) -> float:
    middle = (below + above) / 2 if np.isfinite(above) else 2.0 * below + 1.0
    return float(np.float32(middle))
