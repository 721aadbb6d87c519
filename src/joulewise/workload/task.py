"""How answers are scored: right or wrong per item, so that two programs can be compared in pairs.

With labels the job is top-1; without them it is agreement with the original model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from joulewise.core.errors import InputError, UsageError

__all__ = [
    "AGREEMENT_TOLERANCE_RATIO",
    "SLICE_MINIMUM_ITEMS",
    "Metric",
    "Task",
    "answers",
    "changed",
    "choose_metric",
    "score_agreement",
    "score_top1",
    "worst_slice",
]

Metric = Literal["top1", "agreement"]
Outputs = Sequence[npt.NDArray[Any]]
Scores = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]

AGREEMENT_TOLERANCE_RATIO = 0.05
"""Largest relative L2 error at which two outputs of floats count as the same answer.

Source: a judgement, not a measurement: well above the rounding of float16 (about 0.001) and near
the error of careful int8 quantization (0.01 to 0.05).
"""

SLICE_MINIMUM_ITEMS = 20
"""Fewest items of a class for which a difference is reported; below it, it is noise."""

NO_ANSWER = -1


@dataclass(frozen=True, kw_only=True)
class Task:
    """What counts as a right answer: "top1" (the label) or "agreement" (with the original)."""

    metric: Metric

    def score(self, outputs: Outputs, *, labels: Labels | None, original: Outputs) -> Scores:
        """Return which items are answered right, bool [n].

        Args:
            outputs: of the program, each [n, ...].
            labels: int64 [n], needed by "top1".
            original: outputs of the original model on the same items, needed by "agreement".

        Raises:
            UsageError: the metric is "top1" and there are no labels.
            InputError: the outputs do not fit the items or each other.
        """
        if self.metric == "agreement":
            return score_agreement(outputs, original)
        if labels is None:
            raise UsageError("top1 needs labels; give labels with the data or use agreement")
        return score_top1(outputs, labels)


def choose_metric(outputs: Outputs, labels: Labels | None) -> Metric:
    """Return "top1" where there are labels and a score per class, else "agreement".

    Args:
        outputs: of the original model on a sample, each [n, ...].
        labels: of the data, None if unknown.
    """
    return "top1" if labels is not None and _is_classifier(outputs) else "agreement"


def answers(outputs: Outputs, items: int) -> Labels:
    """Return the class with the highest score for each item, int64 [n]; -1 where a score is NaN.

    Args:
        outputs: of a classifier; the first is [n, k] with k >= 2.
        items: n.

    Raises:
        InputError: the first axis of an output is not the items, or the first is not [n, k >= 2].
    """
    _check_items(outputs, items)
    scores = outputs[0]
    if not _has_classes(scores):
        raise InputError(
            f"the first output has shape {scores.shape}, not [n, classes]; "
            "remove the labels to score agreement"
        )
    best = np.argmax(scores, axis=1).astype(np.int64)
    return np.where(np.isnan(scores).any(axis=1), NO_ANSWER, best)


def score_top1(outputs: Outputs, labels: Labels) -> Scores:
    """Return which items get their label as the highest score, bool [n]; NaN is wrong.

    Args:
        outputs: the first is [n, k] with k >= 2.
        labels: int64 [n].

    Raises:
        InputError: the outputs do not fit the labels.
    """
    return np.equal(answers(outputs, len(labels)), labels)


def score_agreement(outputs: Outputs, original_outputs: Outputs) -> Scores:
    """Return which items get the answer of the original model, bool [n].

    A classifier agrees where its class is the same. Other models agree where every output does:
    floats within a relative L2 error of AGREEMENT_TOLERANCE_RATIO, anything else exactly.

    Args:
        outputs: of the candidate, each [n, ...].
        original_outputs: of the original on the same items; its first output says whether it is a
            classifier (floats [n, k] with k >= 2).

    Returns:
        bool [n]; False where the candidate gives NaN.

    Raises:
        InputError: the number or the shapes of the outputs differ, or their first axis is not the
            items.
    """
    items = _count_items(original_outputs)
    if _is_classifier(original_outputs):
        ours = answers(outputs, items)
        same = np.equal(ours, answers(original_outputs, items))
        return np.asarray(same & (ours != NO_ANSWER))
    _check_items(original_outputs, items)
    _check_items(outputs, items)
    shapes, original_shapes = ([x.shape for x in some] for some in (outputs, original_outputs))
    if shapes != original_shapes:
        raise InputError(
            f"the outputs have shapes {shapes}, the original's {original_shapes}; "
            "they cannot be compared: keep the outputs of the original"
        )
    pairs = zip(outputs, original_outputs, strict=True)
    return np.asarray(np.all([_same_output(*pair) for pair in pairs], axis=0))


def changed(outputs: Outputs, original_outputs: Outputs) -> Scores:
    """Return which items get another answer than the original's, bool [n]; see score_agreement."""
    return np.asarray(~score_agreement(outputs, original_outputs))


def worst_slice(
    correct_baseline: Scores,
    correct_candidate: Scores,
    labels: Labels,
    classes: Sequence[str],
) -> tuple[str, float] | None:
    """Return the class in which the candidate loses most, and the difference there.

    Args:
        correct_baseline: bool [n].
        correct_candidate: bool [n], the same items.
        labels: int64 [n], not negative.
        classes: names by label; labels beyond it are named by their number.

    Returns:
        Name and candidate minus baseline, in [-1, 1] (the lowest, so positive where all classes
        gain); None where no class has SLICE_MINIMUM_ITEMS items.
    """
    counts = np.bincount(labels)
    gains = np.bincount(labels, weights=correct_candidate.astype(float) - correct_baseline)
    enough = counts >= SLICE_MINIMUM_ITEMS
    if not enough.any():
        return None
    differences = np.where(enough, gains / np.maximum(counts, 1), np.inf)
    worst = int(np.argmin(differences))
    name = classes[worst] if worst < len(classes) else str(worst)
    return name, float(differences[worst])


def _same_output(ours: npt.NDArray[Any], original: npt.NDArray[Any]) -> Scores:
    """Compare one output [n, ...] item by item, bool [n]."""
    ours, original = (x.reshape(len(x), math.prod(x.shape[1:])) for x in (ours, original))
    equal = np.asarray((ours == original).all(axis=1))
    if original.dtype.kind != "f":
        return equal
    with np.errstate(all="ignore"):  # infinities become NaN, and NaN compares as False
        error = np.linalg.norm(ours.astype(np.float64) - original, axis=1)
        size = np.linalg.norm(original.astype(np.float64), axis=1)
        ratio = error / np.maximum(size, np.finfo(np.float64).tiny)
    return np.asarray(equal | (ratio <= AGREEMENT_TOLERANCE_RATIO))


def _is_classifier(outputs: Outputs) -> bool:
    """Return whether the first output is a float score per class."""
    return bool(outputs) and _has_classes(outputs[0]) and outputs[0].dtype.kind == "f"


def _has_classes(scores: npt.NDArray[Any]) -> bool:
    """Return whether `scores` is [n, k] with k >= 2."""
    return scores.ndim == 2 and scores.shape[1] >= 2


def _count_items(outputs: Outputs) -> int:
    """Return the length of the first axis of the first output."""
    if not outputs or not outputs[0].ndim:
        raise InputError("the model's first output has no item axis; export it with a batch axis")
    return int(outputs[0].shape[0])


def _check_items(outputs: Outputs, items: int) -> None:
    """Raise InputError unless the first axis of every output is `items`."""
    if not outputs:
        raise InputError("the model gave no outputs; export it again with outputs")
    for place, output in enumerate(outputs):
        if not output.ndim or output.shape[0] != items:
            raise InputError(
                f"output {place} of the model has shape {output.shape} for {items} items; "
                "its first axis must be the items: export the model with a batch axis"
            )
