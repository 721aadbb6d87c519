"""What the user declares before the search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from joulewise.core.errors import UsageError

__all__ = ["AUGMENTATIONS", "METRICS", "TASKS", "Budget", "Settings", "Usage"]

AUGMENTATIONS = ("none", "flip", "shift", "flip_shift", "mixup")
"""Ways to change items at random while a model trains (`joulewise.learn.augment`)."""

TASKS = ("auto", "classes", "values", "vectors")
"""What a model's first output is; "auto" finds out (`joulewise.workload.task.choose_task`)."""

METRICS: Mapping[str, str] = {
    "auto": "auto",
    "macro_f1": "classes",
    "correlation": "values",
    "perplexity": "tokens",
    "average_precision": "several classes",
}
"""Metrics of all answers together, and what they need the first output to be.

With "auto" every item is right or wrong. "tokens" and "several classes" are of these metrics only:
a score per token at each place, and a score per class where an item may be of several.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The terms of the proof.

    Args:
        margin: largest acceptable loss of quality, as a fraction.
        confidence: of every bound and interval, in (0.5, 0.999].
        runtimes: names of the runtimes to use, None for all that are installed.
        meter: name of the meter, None for the best that works here.
        seed: of splits and interleaving.
        lossless_only: only change how the model is run.
        epochs: how often items to learn from are seen by each smaller model.
        augment: how they are changed at random meanwhile: "none", or "flip", "shift", "flip_shift"
            for images, or "mixup" for floats. Flip only where left and right do not matter.
        task: what the first output is: "classes" (a score each), "values", "vectors"
            (embeddings), or "auto", which finds out.
        tolerance: largest distance of a value to its label that counts as right, in the labels'
            unit; None takes the original's median distance on the search items.
        slice_name: array beside the items that says which slice each belongs to; None takes the
            classes.
        slice_margin: loss of quality that no slice may certainly exceed, as a fraction.
        cluster_name: array beside the items that says which of them belong together, such as those
            of one patient or recording; None where every item stands for itself.
        proposals: how many more recipes are tried, at the most, that a sampler proposes.
        metric: one of METRICS.

    Raises:
        UsageError: a value cannot be meant.
    """

    margin: float = 0.005
    confidence: float = 0.95
    runtimes: tuple[str, ...] | None = None
    meter: str | None = None
    seed: int = 0
    lossless_only: bool = False
    epochs: int = 5
    augment: str = "none"
    task: str = "auto"
    tolerance: float | None = None
    slice_name: str | None = None
    slice_margin: float = 0.05
    cluster_name: str | None = None
    proposals: int = 8
    metric: str = "auto"

    @property
    def kind(self) -> str:
        """What the first output is: as the metric needs it, or as the task says."""
        return self.task if self.metric == "auto" else METRICS[self.metric]

    @property
    def beside(self) -> tuple[str, ...]:
        """Names of the arrays among the data that are none of the model's inputs."""
        return tuple(name for name in (self.slice_name, self.cluster_name) if name is not None)

    def __post_init__(self) -> None:
        self._check_metric()
        if not 0 < self.slice_margin < 1:
            raise UsageError(
                f"a margin for slices of {100 * self.slice_margin:g} points is none; use e.g. 5"
            )
        if not 0 < self.margin < 1:
            raise UsageError(f"a margin of {100 * self.margin:g} points is none; use e.g. 0.5")
        if not 0.5 < self.confidence <= 0.999:
            raise UsageError(
                f"a confidence of {100 * self.confidence:g} % is not between 50 and 99.9; "
                "use e.g. 95"
            )
        self._check_counts()
        if self.augment not in AUGMENTATIONS:
            raise UsageError(
                f"there is no augmentation {self.augment!r}; choose {', '.join(AUGMENTATIONS)}"
            )
        if self.task not in TASKS:
            raise UsageError(f"there is no task {self.task!r}; choose {', '.join(TASKS)}")
        if self.tolerance is not None and self.task in ("classes", "vectors"):
            raise UsageError(
                f"a tolerance is for values, not for {self.task}; leave it out, or use --task "
                "values"
            )
        if self.tolerance is not None and not 0 < self.tolerance < math.inf:
            raise UsageError(
                f"a tolerance of {self.tolerance:g} is none; give a distance above 0, in the "
                "labels' unit"
            )
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} is negative; use 0 or more")

    def _check_counts(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"{self.epochs} epochs teach nothing; use 1 or more")
        if self.proposals < 0:
            raise UsageError(f"{self.proposals} proposals cannot be tried; use 0 or more")

    def _check_metric(self) -> None:
        """Raise UsageError unless the metric exists and goes with what else was asked for."""
        if self.metric not in METRICS:
            raise UsageError(f"there is no metric {self.metric!r}; choose {', '.join(METRICS)}")
        if self.metric == "auto":
            return
        if self.task not in ("auto", self.kind):
            raise UsageError(
                f"the metric {self.metric} is of {self.kind}, not of {self.task}; leave --task out"
            )
        if self.tolerance is not None:
            raise UsageError(
                f"a tolerance says which answers are right, but {self.metric} is of all answers "
                "together; leave one of the two out"
            )
        if self.slice_name is not None and self.kind != "classes":
            raise UsageError(
                f"slices count items that are right, but {self.metric} is of all answers together; "
                "leave --slice out"
            )


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How the model is used.

    Args:
        batch_items: items per inference call.
        latency_p95_s: largest acceptable 95th percentile of the time of one batch, s.
        expected_items: inferences that are expected, None if unknown.
        size_bytes: largest acceptable size of the model's files.
        quality: least acceptable quality, as a fraction, whatever the original's is.

    Raises:
        UsageError: a value is not positive, or the quality is above 1.
    """

    batch_items: int = 1
    latency_p95_s: float | None = None
    expected_items: int | None = None
    size_bytes: int | None = None
    quality: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:  # also NaN
                raise UsageError(f"{name.split('_')[0]} must be positive, not {value:g}")
        if self.quality is not None and self.quality > 1:
            raise UsageError(f"a quality of {100 * self.quality:g} % is above 100 %")


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a run may cost; it ends in time with the best that it has found.

    Args:
        max_s: time, s; None for as much as it takes.
        max_j: joules, as the ledger counts them; None for as many as it takes.

    Raises:
        UsageError: a value is not positive.
    """

    max_s: float | None = None
    max_j: float | None = None

    def __post_init__(self) -> None:
        for value, unit in ((self.max_s, "s"), (self.max_j, "J")):
            if value is not None and not value > 0:  # also NaN
                raise UsageError(f"a budget must be positive, not {value:g} {unit}")
