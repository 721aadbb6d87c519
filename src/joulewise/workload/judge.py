"""Judge a program's answers against the original's on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.core.claim import Difference, Quality
from joulewise.core.statistics import lower_bound, upper_bound
from joulewise.workload.store import Store
from joulewise.workload.task import Marks, Task, harmed_slices, worst_slice

__all__ = ["Judge", "judge_of"]

Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Scores programs on one split.

    Args:
        task: what counts as a right answer.
        original: outputs of the original model, each [n, ...].
        labels: classes, int64 [n], None if unknown.
        targets: labels that are values, float64 [n, ...], None if there are none.
        slices: that items belong to, int64 [n], None if there are none.
        slice_names: of the slices, empty if unknown.
        split_digest: digest of the split.
        confidence: of each one-sided bound, in (0.5, 1).
        slice_margin: loss that no slice may certainly exceed, None for none.
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

    @property
    def quality_of_original(self) -> Quality:
        """Quality of the original; 1 by definition where it is what others are compared with."""
        return self._quality(self._marks(self.original).theirs)

    def compare(self, outputs: Outputs) -> tuple[Quality, Difference]:
        """Return the candidate's quality and its paired difference to the original.

        Args:
            outputs: of the candidate on the first k items of the split, k <= n.
        """
        items, marks = len(outputs[0]), self._marks(outputs)
        ours, theirs = marks.ours, marks.theirs
        gained, lost = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
        slices = None if self.slices is None else self.slices[:items]
        worst = None if slices is None else worst_slice(theirs, ours, slices, self.slice_names)
        difference = Difference(
            value=(gained - lost) / items,
            lower=lower_bound(gained, lost, items, self.confidence),
            upper=upper_bound(gained, lost, items, self.confidence),
            confidence=self.confidence,
            items=items,
            gained=gained,
            lost=lost,
            changed=int(np.sum(marks.changed)),
            worst_slice=None if worst is None else worst[0],
            worst_slice_value=None if worst is None else worst[1],
            harmed=()
            if slices is None or self.slice_margin is None
            else harmed_slices(
                theirs, ours, slices, self.slice_names,
                margin=self.slice_margin, confidence=self.confidence,
            ),
        )  # fmt: skip
        return self._quality(ours), difference

    def same_answers(self, outputs: Outputs) -> bool:
        """Return whether every answer is the original's."""
        return not self._marks(outputs).changed.any()

    def _marks(self, outputs: Outputs) -> Marks:
        """Compare with the original on as many items of the split as there are outputs for."""
        items = len(outputs[0])
        return self.task.mark(
            outputs,
            [values[:items] for values in self.original],
            labels=None if self.labels is None else self.labels[:items],
            targets=None if self.targets is None else self.targets[:items],
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
    return Judge(
        task=task,
        original=original,
        labels=store.labels,
        targets=store.targets,
        slices=store.labels if by_class else store.slices,
        slice_names=classes if by_class else slice_names,
        split_digest=store.digest(),
        confidence=confidence,
        slice_margin=slice_margin,
    )
