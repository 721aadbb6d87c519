"""Judge a program's answers against the original's on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from joulewise.core.claim import Difference, Quality
from joulewise.core.statistics import lower_bound, upper_bound
from joulewise.workload.task import Metric, Task, changed, score_agreement, worst_slice

__all__ = ["Judge"]

Outputs = Sequence[npt.NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Judge:
    """Scores programs on one split.

    Args:
        metric: "top1" or "agreement".
        original: outputs of the original model, each [n, ...].
        labels: int64 [n]; needed by "top1".
        classes: class names by label, empty if unknown.
        split_digest: digest of the split.
        confidence: of each one-sided bound, in (0.5, 1).
    """

    metric: Metric
    original: Outputs
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    split_digest: str
    confidence: float

    @property
    def quality_of_original(self) -> Quality:
        """Quality of the original; 1 by definition where the metric is agreement."""
        return self._quality(self._scores(self.original, len(self.original[0])))

    def compare(self, outputs: Outputs) -> tuple[Quality, Difference]:
        """Return the candidate's quality and its paired difference to the original.

        Args:
            outputs: of the candidate on the first k items of the split, k <= n.
        """
        items = len(outputs[0])
        ours, theirs = self._scores(outputs, items), self._scores(self.original, items)
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
            changed=int(np.sum(changed(outputs, self._first(items)))),
            worst_slice=None if worst is None else worst[0],
            worst_slice_value=None if worst is None else worst[1],
        )
        return self._quality(ours), difference

    def same_answers(self, outputs: Outputs) -> bool:
        """Return whether every answer is the original's."""
        return bool(np.all(score_agreement(outputs, self._first(len(outputs[0])))))

    def _first(self, items: int) -> Outputs:
        return [values[:items] for values in self.original]

    def _scores(self, outputs: Outputs, items: int) -> npt.NDArray[np.bool_]:
        labels = None if self.labels is None else self.labels[:items]
        first = [values[:items] for values in outputs]
        return Task(metric=self.metric).score(first, labels=labels, original=self._first(items))

    def _quality(self, scores: npt.NDArray[np.bool_]) -> Quality:
        return Quality(
            metric=self.metric,
            value=float(np.mean(scores)),
            items=len(scores),
            split_digest=self.split_digest,
        )
