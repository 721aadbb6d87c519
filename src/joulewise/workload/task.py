"""How answers are scored, so that two programs can be compared in pairs.

Nearly all metrics say of every item whether it is answered right; those that a user names are of
all answers together, and say how they follow from how often every item counts.

A class is right where it is the label, or else the original's; a value where it is near enough to
its label, or else to the original's; a vector where its nearest other item is of the same label, or
else the original's nearest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from joulewise.core.bootstrap import Statistic
from joulewise.core.claim import SliceLoss
from joulewise.core.errors import InputError, UsageError
from joulewise.core.statistics import is_inferior
from joulewise.workload.distributions import NO_TOKEN, Likeness, likeness, token_losses
from joulewise.workload.measures import (
    likelihood,
    macro_f1,
    mean_average_precision,
    rank_correlation,
)
from joulewise.workload.neighbours import NOBODY, nearest, same_nearest

__all__ = [
    "AGREEMENT_TOLERANCE_RATIO",
    "SLICE_MINIMUM_ITEMS",
    "Marks",
    "Metric",
    "Task",
    "answers",
    "check_vectors",
    "choose_task",
    "counted_items",
    "harmed_slices",
    "label_errors",
    "score_agreement",
    "score_top1",
    "score_values",
    "task_of",
    "worst_slice",
]

Metric = Literal[
    "top1", "agreement", "values", "within", "neighbour", "neighbour label", "macro_f1",
    "correlation", "perplexity", "average_precision",
]  # fmt: skip
Outputs = Sequence[npt.NDArray[Any]]
Scores = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
Targets = npt.NDArray[np.float64]

AGREEMENT_TOLERANCE_RATIO = 0.05
"""Largest relative L2 error at which two outputs of floats count as the same answer.

Source: a judgement, not a measurement: well above the rounding of float16 (about 0.001) and near
the error of careful int8 quantization (0.01 to 0.05).
"""

SLICE_MINIMUM_ITEMS = 20
"""Fewest items of a class for which a difference is reported; below it, it is noise."""

NO_ANSWER = -1


UNIT_TOLERANCE = 1e-3
"""Largest distance from 1 at which a length or a sum counts as 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Marks:
    """What two programs did on the same items, each bool [n].

    Args:
        ours: items that the candidate answers right.
        theirs: items that the original answers right.
        changed: items whose answer differs, right or wrong.
    """

    ours: Scores
    theirs: Scores
    changed: Scores


@dataclass(frozen=True, kw_only=True)
class Task:
    """What counts as a right answer.

    Args:
        metric: "top1": the class is the label; "agreement": the class, or the values, are the
            original's; "values": the values are the original's, whatever they look like;
            "within": the value is no further from its label than `tolerance`; "neighbour": the
            nearest other item is the one that the original finds; "neighbour label": the nearest
            other item has the same label. Of all answers together: "macro_f1" of classes,
            "correlation" of the ranks of values and labels, "perplexity" of tokens,
            "average_precision" of classes of which an item may have several.
        tolerance: largest distance to a label, in its unit; None for all metrics but "within".

    The neighbours of items are found among all items that are compared, so one item's answer can
    make another's wrong: these are not independent, and bounds on their difference are approximate.

    Raises:
        InputError: "within" has no tolerance above 0.
    """

    metric: Metric
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.metric == "within" and not 0 < (self.tolerance or 0) < math.inf:
            raise InputError(
                f"the metric 'within' has no tolerance above 0, but {self.tolerance}; say how near "
                "is right with --tolerance"
            )

    @property
    def of_classes(self) -> bool:
        """Whether an answer may be a class; else outputs are values, whatever they look like."""
        return self.metric in ("top1", "agreement", "macro_f1")

    @property
    def of_all(self) -> bool:
        """Whether the metric is of all answers together, not of each."""
        return self.metric == "macro_f1" or not self.per_item

    @property
    def per_item(self) -> bool:
        """Whether each answer is right or wrong, whatever the metric makes of that."""
        return self.metric not in ("correlation", "perplexity", "average_precision")

    def mark(
        self,
        outputs: Outputs,
        original: Outputs,
        *,
        labels: Labels | None = None,
        targets: Targets | None = None,
    ) -> Marks:
        """Return which items are answered right; what is not `per_item` is right where unchanged.

        Args:
            outputs: of the candidate, each [n, ...].
            original: outputs of the original model on the same items.
            labels: int64 [n], needed by "top1", "macro_f1" and "neighbour label".
            targets: float64 [n, ...], needed by "within".

        Raises:
            UsageError: the labels that the metric needs are not there.
            InputError: the outputs do not fit the items or each other.
        """
        if self.metric in ("neighbour", "neighbour label"):
            marks = self._mark_neighbours(outputs, original, labels)
        elif self.metric == "within":
            marks = self._mark_within(outputs, original, targets)
        elif self.metric in ("top1", "macro_f1"):
            if labels is None:
                raise UsageError(
                    f"{self.metric} needs labels; give labels with the data or use agreement"
                )
            marks = Marks(
                ours=score_top1(outputs, labels),
                theirs=score_top1(original, labels),
                changed=~score_agreement(outputs, original),
            )
        elif self.metric == "perplexity" and labels is not None:
            same = _same_tokens(outputs, original, labels)
            marks = Marks(ours=same, theirs=np.ones_like(same), changed=~same)
        else:
            score = score_agreement if self.metric == "agreement" else score_values
            ours = score(outputs, original)
            marks = Marks(ours=ours, theirs=score(original, original), changed=~ours)
        return replace(marks, changed=marks.changed | (marks.ours != marks.theirs))

    def statistic(
        self, outputs: Outputs, labels: Labels | None, targets: Targets | None
    ) -> Statistic:
        """Return the metric of all answers together, as a function of how often items count.

        Args:
            outputs: of a program, each [n, ...].
            labels: int64 [n], of tokens [n, t], of several classes [n, k].
            targets: labels that are values, float64 [n].

        Returns:
            More is better; of "perplexity" minus its logarithm.

        Raises:
            UsageError: the labels that the metric needs are not there.
            InputError: the outputs do not fit the labels.
        """
        if self.metric == "correlation":
            values, wanted = _single_values(outputs, targets)
            return rank_correlation(values, wanted)
        if labels is None or not self.of_all:
            raise UsageError(f"{self.metric} needs labels for all answers; give them with the data")
        if self.metric == "macro_f1":
            return macro_f1(answers(outputs, len(labels)), labels)
        _check_scores(outputs, labels, tokens=self.metric == "perplexity")
        if self.metric == "perplexity":
            return likelihood(*token_losses(outputs[0], labels))
        return mean_average_precision(outputs[0].astype(np.float64), labels)

    def quality(self, value: float) -> float:
        """Return a value of the statistic as a quality: of "perplexity" its inverse."""
        return math.exp(value) if self.metric == "perplexity" else value

    def likeness(
        self, outputs: Outputs, original: Outputs, labels: Labels | None
    ) -> Likeness | None:
        """Return how like the original's distributions are; None where outputs are none."""
        if self.metric == "perplexity":
            return likeness(outputs[0], original[0], labels)
        scores = self.of_classes and _is_classifier(original)
        alike = scores and outputs[0].shape == original[0].shape
        return likeness(outputs[0], original[0]) if alike else None

    def _mark_neighbours(self, outputs: Outputs, original: Outputs, labels: Labels | None) -> Marks:
        items = _count_items(original)
        vectors, originals = (check_vectors(some, items) for some in (outputs, original))
        near, near_originally = nearest(vectors), nearest(originals)
        same = same_nearest(near, near_originally, originals)
        if self.metric == "neighbour":
            known = same_nearest(near_originally, near_originally, originals)
            return Marks(ours=same, theirs=known, changed=~same)
        if labels is None:
            raise UsageError("labels of neighbours need labels; give labels with the data")
        ours, theirs = ((x != NOBODY) & (labels[x] == labels) for x in (near, near_originally))
        return Marks(ours=ours, theirs=theirs, changed=~same)

    def _mark_within(self, outputs: Outputs, original: Outputs, targets: Targets | None) -> Marks:
        if targets is None or self.tolerance is None:
            raise UsageError("values need labels of floats; give labels with the data")
        ours, theirs = (label_errors(some, targets) for some in (outputs, original))
        moved = label_errors(outputs, _rows(original[0]))
        return Marks(
            ours=ours <= self.tolerance,
            theirs=theirs <= self.tolerance,
            changed=~(moved <= AGREEMENT_TOLERANCE_RATIO * self.tolerance),
        )


def task_of(metric: str, tolerance: float | None) -> Task:
    """Return the task that a record names.

    Raises:
        InputError: there is no such metric, or it lacks its tolerance.
    """
    for known in get_args(Metric):
        if metric == known:
            return Task(metric=known, tolerance=tolerance)
    raise InputError(f"there is no metric {metric!r}; use a newer joulewise")


def choose_task(
    outputs: Outputs,
    *,
    labels: Labels | None = None,
    targets: Targets | None = None,
    asked: str = "auto",
    tolerance: float | None = None,
    pooled: bool = False,
    metric: str = "auto",
) -> Task:
    """Return what counts as a right answer.

    Args:
        outputs: of the original model on a sample, each [n, ...].
        labels: classes of the sample, int64 [n], None if unknown.
        targets: labels of the sample that are values, float64 [n, ...], None if there are none.
        asked: one of `joulewise.core.settings.TASKS`. With "auto" labels of floats mean values;
            without labels rows of length 1, or `pooled`, mean vectors; a float score per class
            means classes; all else are values.
        tolerance: largest distance to a label; None takes the median of the original's.
        pooled: whether the model is known to end in a pooling of tokens.
        metric: one of `joulewise.core.settings.METRICS`; all but "auto" is the answer.

    Raises:
        UsageError: outputs, labels and what was asked do not fit together.
        InputError: the labels do not fit the outputs.
    """
    if metric != "auto":
        task = task_of(metric, None)
        task.statistic(outputs, labels, targets)  # it says what does not fit
        return task
    labelled = labels is not None or targets is not None
    vectors = not labelled and _is_classifier(outputs) and (pooled or _of_length_one(outputs[0]))
    if asked == "auto" and targets is None and vectors:
        asked = "vectors"
    elif asked == "auto":
        asked = "classes" if targets is None and _is_classifier(outputs) else "values"
    if targets is not None:
        return Task(metric="within", tolerance=tolerance or _median_error(outputs, targets))
    if tolerance is not None:
        raise UsageError(
            "--tolerance is the largest distance to a label, but there are no labels that are "
            "values; give labels of floats, or leave it out"
        )
    if asked == "values":
        return Task(metric="values")
    if asked == "vectors":
        check_vectors(outputs, _count_items(outputs))
        return Task(metric="neighbour" if labels is None else "neighbour label")
    if not _is_classifier(outputs):
        raise UsageError(
            f"--task classes needs a float score per class, but the first output is "
            f"{_described(outputs)}; use --task values"
        )
    return Task(metric="agreement" if labels is None else "top1")


def counted_items(metric: str, labels: Labels | None, items: int) -> int:
    """Return how many items the smallest certifiable margin is to be reckoned from.

    A mean over classes has as much weight on its rarest one as on any other: what those few items
    do not show moves it as much as if all classes had as few.

    Args:
        metric: one of `joulewise.core.settings.METRICS`.
        labels: int64 [n], or [n, k] for several classes.
        items: n.
    """
    if labels is None or metric not in ("macro_f1", "average_precision"):
        return items
    counts = np.bincount(labels) if labels.ndim == 1 else (labels > 0).sum(axis=0)
    present = counts[counts > 0]
    return min(items, int(len(present) * present.min())) if len(present) else 0


def check_vectors(outputs: Outputs, items: int) -> npt.NDArray[Any]:
    """Return the first output, one vector per item.

    Raises:
        InputError: the first axis of an output is not the items, or the first output is not floats
            [n, k >= 2].
    """
    _check_items(outputs, items)
    if not _is_classifier(outputs):
        raise InputError(
            f"--task vectors needs one vector per item, floats [n, k], but the first output is "
            f"{_described(outputs)}; use --task values"
        )
    return outputs[0]


def label_errors(outputs: Outputs, targets: Targets) -> Targets:
    """Return the distance of every item's values to its labels, float64 [n].

    Args:
        outputs: the first are the values, [n, ...].
        targets: as many labels per item, float64 [n, ...].

    Returns:
        L2 distance over the values of an item, in the labels' unit; infinite where the model gives
        NaN.

    Raises:
        InputError: there are not as many labels as values.
    """
    _check_items(outputs, len(targets))
    values, wanted = _rows(outputs[0]), _rows(targets)
    if values.shape != wanted.shape:
        raise InputError(
            f"there are {wanted.shape[1]} labels per item, but the model's first output is "
            f"{_described(outputs)}; give as many labels per item as it has values"
        )
    with np.errstate(all="ignore"):
        errors = np.linalg.norm(values - wanted, axis=1)
    return np.asarray(np.where(np.isnan(errors), np.inf, errors))


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

    A classifier agrees where its class is the same, other models as in `score_values`.

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
    if not _is_classifier(original_outputs):
        return score_values(outputs, original_outputs)
    ours = answers(outputs, items)
    same = np.equal(ours, answers(original_outputs, items))
    return np.asarray(same & (ours != NO_ANSWER))


def score_values(outputs: Outputs, original_outputs: Outputs) -> Scores:
    """Return where every output is the original's, bool [n].

    Floats are within a relative L2 error of AGREEMENT_TOLERANCE_RATIO, anything else is the same.

    Args:
        outputs: of the candidate, each [n, ...].
        original_outputs: of the original on the same items.

    Raises:
        InputError: the number or the shapes of the outputs differ, or their first axis is not the
            items.
    """
    items = _count_items(original_outputs)
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


def worst_slice(
    correct_baseline: Scores,
    correct_candidate: Scores,
    slices: Labels,
    names: Sequence[str],
) -> tuple[str, float] | None:
    """Return the slice in which the candidate loses most, and the difference there.

    Args:
        correct_baseline: bool [n].
        correct_candidate: bool [n], the same items.
        slices: that each item belongs to, int64 [n], not negative.
        names: of the slices; those beyond it are named by their number.

    Returns:
        Name and candidate minus baseline, in [-1, 1] (the lowest, so positive where all slices
        gain); None where no slice has SLICE_MINIMUM_ITEMS items.
    """
    counts = np.bincount(slices)
    gains = np.bincount(slices, weights=correct_candidate.astype(float) - correct_baseline)
    enough = counts >= SLICE_MINIMUM_ITEMS
    if not enough.any():
        return None
    differences = np.where(enough, gains / np.maximum(counts, 1), np.inf)
    worst = int(np.argmin(differences))
    return _name_of(worst, names), float(differences[worst])


def harmed_slices(
    correct_baseline: Scores,
    correct_candidate: Scores,
    slices: Labels,
    names: Sequence[str],
    *,
    margin: float,
    confidence: float,
) -> tuple[SliceLoss, ...]:
    """Return the slices that certainly lose more than `margin`, the one that loses most first.

    The error over all slices together is at most 1 - confidence (Bonferroni), as far as the score
    test keeps its level.

    Args:
        correct_baseline: bool [n].
        correct_candidate: bool [n], the same items.
        slices: that each item belongs to, int64 [n], not negative.
        names: of the slices; those beyond it are named by their number.
        margin: largest acceptable loss in a slice, in (0, 1).
        confidence: over all slices, in (0.5, 1).
    """
    counts = np.bincount(slices)
    gained = np.bincount(slices[correct_candidate & ~correct_baseline], minlength=len(counts))
    lost = np.bincount(slices[correct_baseline & ~correct_candidate], minlength=len(counts))
    each = 1.0 - (1.0 - confidence) / max(1, int(np.count_nonzero(counts)))
    found = [
        SliceLoss(
            name=_name_of(int(number), names),
            items=int(counts[number]),
            gained=int(gained[number]),
            lost=int(lost[number]),
        )
        for number in np.flatnonzero(lost > gained)
        if is_inferior(int(gained[number]), int(lost[number]), int(counts[number]), margin, each)
    ]
    return tuple(sorted(found, key=lambda slice_: slice_.value))


def _name_of(number: int, names: Sequence[str]) -> str:
    return names[number] if number < len(names) else str(number)


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


def _single_values(outputs: Outputs, targets: Targets | None) -> tuple[Targets, Targets]:
    """Return one value and one label per item, each float64 [n]."""
    if targets is None:
        raise UsageError("correlation needs labels that are values; give them with the data")
    _check_items(outputs, len(targets))
    values, wanted = _rows(outputs[0]), _rows(targets)
    if values.shape[1] != 1 or wanted.shape[1] != 1:
        raise InputError(
            f"correlation is of one value and one label per item, but there are "
            f"{values.shape[1]} and {wanted.shape[1]}; use --task values without a metric"
        )
    return values[:, 0], wanted[:, 0]


def _check_scores(outputs: Outputs, labels: Labels, *, tokens: bool) -> None:
    """Raise InputError unless the first output is scores per token [n, t, v], or class [n, k]."""
    _check_items(outputs, len(labels))
    shape = outputs[0].shape[:-1] if tokens else outputs[0].shape
    if outputs[0].dtype.kind != "f" or shape != labels.shape:
        what = (
            "perplexity takes a score per token, floats [n, t, v]"
            if tokens
            else ("average_precision takes a score per class, floats [n, k]")
        )
        raise InputError(
            f"{what}, and labels of as many {'tokens' if tokens else 'classes'}; the first output "
            f"is {_described(outputs)}, the labels {list(labels.shape)}"
        )
    if tokens and labels.max(initial=0) >= outputs[0].shape[-1]:
        raise InputError(
            f"labels go up to {labels.max()} for {outputs[0].shape[-1]} tokens; give token numbers "
            f"from 0 on, and {NO_TOKEN} where there is none"
        )


def _same_tokens(outputs: Outputs, original: Outputs, labels: Labels) -> Scores:
    """Return which items have the original's most likely token wherever one counts, bool [n]."""
    _check_items(outputs, len(labels))
    if outputs[0].shape != original[0].shape:
        raise InputError(
            f"the first output has shape {outputs[0].shape}, the original's {original[0].shape}; "
            "keep the outputs of the original"
        )
    same = outputs[0].argmax(axis=-1) == original[0].argmax(axis=-1)
    return np.asarray((same | (labels == NO_TOKEN)).all(axis=1))


def _median_error(outputs: Outputs, targets: Targets) -> float:
    """Return the median distance to the labels; raises UsageError where it is no tolerance."""
    median = float(np.median(label_errors(outputs, targets)))
    if not 0 < median < math.inf:
        raise UsageError(
            f"half of the original's answers are {median:g} from their labels, which is no "
            "tolerance; say how near is right with --tolerance"
        )
    return median


def _of_length_one(rows: npt.NDArray[Any]) -> bool:
    """Return whether all rows have length 1 and are no probabilities, which add up to 1."""
    lengths, sums = np.linalg.norm(rows.astype(np.float64), axis=1), rows.sum(axis=1)
    unit, whole = (bool(np.all(np.abs(x - 1) <= UNIT_TOLERANCE)) for x in (lengths, sums))
    return unit and not (whole and bool((rows >= 0).all()))


def _rows(values: npt.NDArray[Any]) -> Targets:
    """Return values [n, ...] as float64 [n, k]."""
    return values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64)


def _described(outputs: Outputs) -> str:
    """Return type and shape of the first output for a message."""
    return f"{outputs[0].dtype.name} {['n', *outputs[0].shape[1:]]}".replace("'", "")


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
