"""Judge a program's answers against the original's on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.core.claim import Difference, Quality
from joulewise.core.statistics import lower_bound, upper_bound
from joulewise.workload.task import Marks, Task, worst_slice

__all__ = ["Judge"]

Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Scores programs on one split.

    Args:
        task: what counts as a right answer.
        original: outputs of the original model, each [n, ...].
        labels: classes, int64 [n], None if unknown.
        targets: labels that are values, float64 [n, ...], None if there are none.
        classes: class names by label, empty if unknown.
        split_digest: digest of the split.
        confidence: of each one-sided bound, in (0.5, 1).
    """

    task: Task
    original: Outputs
    labels: npt.NDArray[np.int64] | None
    targets: npt.NDArray[np.float64] | None = None
    classes: tuple[str, ...]
    split_digest: str
    confidence: float

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
        labels = None if self.labels is None else self.labels[:items]
        worst = None if labels is None else worst_slice(theirs, ours, labels, self.classes)
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
        )
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
