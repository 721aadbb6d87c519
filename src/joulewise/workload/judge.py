"""Judge a program's answers against the original's on the same items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.core.bootstrap import Bounds, Statistic, bootstrap
from joulewise.core.claim import Difference, Quality
from joulewise.core.statistics import lower_bound, smallest_margin, upper_bound
from joulewise.workload.measures import accuracy
from joulewise.workload.store import Store
from joulewise.workload.task import Marks, Task, counted_items, harmed_slices, worst_slice

__all__ = ["Judge", "judge_of"]

Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Scores programs on one split.

    Args:
        task: what counts as a right answer.
        original: outputs of the original model, each [n, ...].
        labels: classes, int64 [n], of tokens [n, t], of several classes [n, k]; None if unknown.
        targets: labels that are values, float64 [n, ...], None if there are none.
        slices: that items belong to, int64 [n], None if there are none.
        slice_names: of the slices, empty if unknown.
        split_digest: digest of the split.
        confidence: of each one-sided bound, in (0.5, 1).
        slice_margin: loss that no slice may certainly exceed, None for none.
        clusters: of items that belong together, int64 [n]; None where each stands for itself.
    """

    task: Task
    original: Outputs
    labels: npt.NDArray[np.int64] | None
    targets: npt.NDArray[np.float64] | None = None
    slices: npt.NDArray[np.int64] | None = None
    slice_names: tuple[str, ...] = ()
    split_digest: str
    confidence: float
    slice_margin: float | None = None
    clusters: npt.NDArray[np.int64] | None = None

    @property
    def quality_of_original(self) -> Quality:
        """Quality of the original; 1 by definition where it is what others are compared with."""
        if self.task.of_all:
            return self._quality_of_all(self._statistic(self.original), len(self.original[0]))
        return self._quality(self._marks(self.original).theirs)

    def compare(self, outputs: Outputs) -> tuple[Quality, Difference]:
        """Return the candidate's quality and its paired difference to the original.

        Args:
            outputs: of the candidate on the first k items of the split, k <= n.
        """
        together = self.task.of_all or self.clusters is not None
        quality, difference = (self._all if together else self._each)(outputs)
        like = self.task.likeness(outputs, *self._known(len(outputs[0])))
        if like is None:
            return quality, difference
        return quality, replace(
            difference,
            divergence_nats=like.divergence_nats,
            agreement_ratio=like.agreement_ratio,
        )

    def same_answers(self, outputs: Outputs) -> bool:
        """Return whether every answer is the original's."""
        return not self._marks(outputs).changed.any()

    def _each(self, outputs: Outputs) -> tuple[Quality, Difference]:
        """Compare what is right or wrong per item, by the exact test."""
        items, marks = len(outputs[0]), self._marks(outputs)
        ours, theirs = marks.ours, marks.theirs
        gained, lost = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
        difference = Difference(
            value=(gained - lost) / items,
            lower=lower_bound(gained, lost, items, self.confidence),
            upper=upper_bound(gained, lost, items, self.confidence),
            confidence=self.confidence,
            items=items,
            gained=gained,
            lost=lost,
            changed=int(np.sum(marks.changed)),
        )
        return self._quality(ours), self._with_slices(difference, marks)

    def _all(self, outputs: Outputs) -> tuple[Quality, Difference]:
        """Compare by a paired bootstrap of the items, or of the clusters that they belong to.

        What none showed is not in the bootstrap, so its bounds are no nearer to the value, and its
        standard error is no smaller, than where answers are right or wrong and none changes.
        """
        items, marks = len(outputs[0]), self._marks(outputs)
        original, labels = self._known(items)
        if self.task.of_all:
            ours, theirs = self._statistic(outputs), self._statistic(original)
        else:
            ours, theirs = accuracy(marks.ours), accuracy(marks.theirs)
        clusters = self._clusters(items)
        count = None if clusters is None else 1 + int(clusters.max())
        found = self._bounds(lambda weights: ours(weights) - theirs(weights), items, clusters)
        counted = max(1, counted_items(self.task.metric, labels, items))
        counted = counted if count is None else min(counted, count)
        unseen = smallest_margin(counted, self.confidence)
        difference = Difference(
            value=found.value,
            lower=min(found.lower, found.value - unseen),
            upper=max(found.upper, found.value + unseen),
            confidence=self.confidence,
            items=items,
            gained=None,
            lost=None,
            changed=int(np.sum(marks.changed)),
            error=math.hypot(found.error, 1.0 / counted),
            clusters=count,
        )
        if self.task.per_item:
            difference = self._with_slices(difference, marks)
        if self.task.of_all:
            return self._quality_of_all(ours, items), difference
        return self._quality(marks.ours), difference

    def _bounds(
        self, gain: Statistic, items: int, clusters: npt.NDArray[np.int64] | None
    ) -> Bounds:
        """Return a difference with bounds; of a single cluster none, all of it being unseen."""
        if clusters is None or clusters.any():
            return bootstrap(gain, items, self.confidence, clusters=clusters)
        value = float(gain(np.ones((1, items)))[0])
        return Bounds(value=value, lower=value, upper=value, error=0.0)

    def _clusters(self, items: int) -> npt.NDArray[np.int64] | None:
        """Return the clusters of the first `items`, numbered without gaps."""
        if self.clusters is None:
            return None
        return np.unique(self.clusters[:items], return_inverse=True)[1].astype(np.int64)

    def _with_slices(self, difference: Difference, marks: Marks) -> Difference:
        """Add in which slice most answers are lost, and which are certainly harmed."""
        if self.slices is None:
            return difference
        parts = (marks.theirs, marks.ours, self.slices[: len(marks.ours)], self.slice_names)
        worst = worst_slice(*parts)
        return replace(
            difference,
            worst_slice=None if worst is None else worst[0],
            worst_slice_value=None if worst is None else worst[1],
            harmed=()
            if self.slice_margin is None
            else harmed_slices(*parts, margin=self.slice_margin, confidence=self.confidence),
        )

    def _statistic(self, outputs: Outputs) -> Statistic:
        items = len(outputs[0])
        targets = None if self.targets is None else self.targets[:items]
        return self.task.statistic(outputs, self._known(items)[1], targets)

    def _known(self, items: int) -> tuple[Outputs, npt.NDArray[np.int64] | None]:
        """Return the original's outputs and the labels of the first `items` of the split."""
        labels = None if self.labels is None else self.labels[:items]
        return [values[:items] for values in self.original], labels

    def _marks(self, outputs: Outputs) -> Marks:
        """Compare with the original on as many items of the split as there are outputs for."""
        items = len(outputs[0])
        original, labels = self._known(items)
        targets = None if self.targets is None else self.targets[:items]
        return self.task.mark(outputs, original, labels=labels, targets=targets)

    def _quality_of_all(self, statistic: Statistic, items: int) -> Quality:
        value = self.task.quality(float(statistic(np.ones((1, items)))[0]))
        return Quality(
            metric=self.task.metric, value=value, items=items, split_digest=self.split_digest
        )

    def _quality(self, scores: npt.NDArray[np.bool_]) -> Quality:
        return Quality(
            metric=self.task.metric,
            tolerance=self.task.tolerance,
            value=float(np.mean(scores)),
            items=len(scores),
            split_digest=self.split_digest,
        )


def judge_of(
    store: Store,
    original: Outputs,
    task: Task,
    *,
    classes: tuple[str, ...],
    slice_names: tuple[str, ...],
    confidence: float,
    slice_margin: float | None,
) -> Judge:
    """Return the judge of programs on a split; where it names no slices, classes are slices.

    Args:
        store: the split.
        original: outputs of the original model on it, each [n, ...].
        task: what counts as a right answer.
        classes: class names by label, empty if unknown.
        slice_names: names of the split's slices.
        confidence: of each one-sided bound, in (0.5, 1).
        slice_margin: loss that no slice may certainly exceed, None for none.
    """
    by_class = store.slices is None
    classes_of = store.labels if task.per_item else None
    return Judge(
        task=task,
        original=original,
        labels=store.labels,
        targets=store.targets,
        slices=classes_of if by_class else store.slices,
        slice_names=classes if by_class else slice_names,
        split_digest=store.digest(),
        confidence=confidence,
        slice_margin=slice_margin,
        clusters=store.clusters,
    )
