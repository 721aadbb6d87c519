"""What is claimed of a candidate, the evidence beside it, and what finding it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from joulewise.core.energy import Grade, Interval, Measurement
from joulewise.core.profile import Profile
from joulewise.core.recipe import Recipe

__all__ = ["Check", "Claim", "Difference", "Ledger", "Quality", "Ratio", "Trial"]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Energy of a candidate divided by energy of a baseline.

    Args:
        value: the ratio itself; below 1 the candidate uses less.
        low: lower bound, sensor band included.
        high: upper bound, sensor band included.
        sampling_low: lower bound from run-to-run variation alone.
        sampling_high: upper bound from run-to-run variation alone.
        confidence: two-sided confidence of the interval, in (0, 1).
        pairs: number of interleaved pairs.
        grade: grade of both sides.
        objective: "net of idle" or "gross".
    """

    value: float
    low: float
    high: float
    sampling_low: float
    sampling_high: float
    confidence: float
    pairs: int
    grade: Grade
    objective: str


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well a program does its job on one split.

    Args:
        metric: what counts as right; see `joulewise.workload.task.Task`.
        value: fraction of items answered right, in [0, 1], or the metric itself where it is of all
            items together; of "perplexity" its inverse, so that more is better.
        items: number of items.
        split_digest: digest of the split.
        tolerance: largest distance to a label that counts as right, in the labels' unit; None
            where the metric has none.
    """

    metric: str
    value: float
    items: int
    split_digest: str
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class SliceLoss:
    """A slice of the items in which a candidate loses.

    Args:
        name: of the slice: a class, or a value of the column that was named.
        items: how many items of it there are.
        gained: those that only the candidate answers right.
        lost: those that only the baseline answers right.
    """

    name: str
    items: int
    gained: int
    lost: int

    @property
    def value(self) -> float:
        """Candidate minus baseline, as a fraction of the items of the slice."""
        return (self.gained - self.lost) / self.items


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Quality of a candidate minus quality of a baseline on the same items.

    Where the metric is of all items together (`joulewise.workload.task.Task.of_all`), no item is
    gained or lost, and the bounds are from a bootstrap.

    Args:
        value: the difference, as a fraction (0.005 is half a percentage point); of "perplexity"
            the logarithm of the original's over the candidate's.
        lower: one-sided lower confidence bound of it.
        upper: one-sided upper confidence bound of it.
        confidence: confidence of each bound, in (0, 1).
        items: number of items.
        gained: items that only the candidate answers right; None where the metric is of all items
            together, or items belong together.
        lost: items that only the baseline answers right; None likewise.
        changed: items whose answer differs, right or wrong.
        worst_slice: name of the slice in which the candidate loses most, None without slices.
        worst_slice_value: the difference there.
        harmed: slices that certainly lose more than the margin for slices.
        error: standard error of the difference, at least that of one item that was not seen; None
            where it follows from `gained` and `lost`.
        divergence_nats: mean Kullback-Leibler divergence from the original to the candidate; None
            where the outputs are no distributions.
        agreement_ratio: fraction of items, or of tokens, with the original's most likely class or
            token; None where there are none. Both are for information: no check asks for them.
        clusters: of items that belong together, of which the bounds are; None where every item
            stands for itself.
    """

    value: float
    lower: float
    upper: float
    confidence: float
    items: int
    gained: int | None
    lost: int | None
    changed: int
    worst_slice: str | None = None
    worst_slice_value: float | None = None
    harmed: tuple[SliceLoss, ...] = ()
    error: float | None = None
    divergence_nats: float | None = None
    agreement_ratio: float | None = None
    clusters: int | None = None

    @property
    def counts(self) -> tuple[int, int] | None:
        """Items gained and lost; None where the bounds do not follow from them."""
        return None if self.gained is None or self.lost is None else (self.gained, self.lost)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One condition of a claim: what was asked, whether it holds, and the figures."""

    name: str
    holds: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That `candidate` does the job of the original for fewer joules than `baseline`.

    Args:
        candidate: the recipe it speaks of.
        baseline: the recipe it is compared with.
        ratio: energy ratio, candidate over baseline.
        ratio_as_found: energy ratio, candidate over the model as the user runs it today.
        quality_baseline: quality of the original.
        quality_candidate: quality of the candidate.
        difference: paired difference of the two.
        margin: largest loss of quality that was declared acceptable, as a fraction.
        checks: all conditions; the claim holds when all of them do.
        measurements: of the final test, by role: "candidate", "baseline", "as found".
    """

    candidate: Recipe
    baseline: Recipe
    ratio: Ratio
    ratio_as_found: Ratio
    quality_baseline: Quality
    quality_candidate: Quality
    difference: Difference
    margin: float
    checks: tuple[Check, ...]
    measurements: Mapping[str, Measurement] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """True when every check holds, and there is one."""
        return bool(self.checks) and all(check.holds for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One recipe that was tried.

    Args:
        recipe: what was tried.
        state: "measured", "rejected" (cheaply, before full measurement) or "failed".
        reason: why it lost, or why it failed, in one sentence; None for the chosen one.
        cause: what in its graph or on this machine probably made it lose, None if nothing did.
        ratio: energy ratio to the anchor of the study, None where it was not measured.
        quality: on the search split (or the part of it named by `quality.items`).
        difference: paired difference to the original on the same items.
        measurement: its own blocks.
        size_bytes: size of the artifact.
        cost_j: joules that the trial itself cost.
        seconds: time that it took.
        made_j: the part of `cost_j` that applying the steps took.
        made_s: time that this took.
        profile: where the time of its calls goes, None where nobody asked.
        node: of the cluster, on which it was tried; None for the machine of the search.
    """

    recipe: Recipe
    state: str
    reason: str | None = None
    cause: str | None = None
    ratio: Ratio | None = None
    quality: Quality | None = None
    difference: Difference | None = None
    measurement: Measurement | None = None
    size_bytes: int | None = None
    cost_j: Interval | None = None
    seconds: float | None = None
    made_j: Interval | None = None
    made_s: float | None = None
    profile: Profile | None = None
    node: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Every joule spent on finding the candidate.

    Args:
        stages_j: joules by cause ("preparation", "baseline", "calibration", "training", "trials",
            "interrupted", "proof", "explanation"), net of idle.
        seconds: time spent, by the same causes.
        grade: grade of the joules.
        break_even_items: inferences after which the saving has paid the cost, with interval;
            None where nothing is saved.
    """

    stages_j: Mapping[str, Interval]
    seconds: Mapping[str, float]
    grade: Grade
    break_even_items: Interval | None = None

    @property
    def total_j(self) -> Interval:
        """Sum over all causes."""
        return Interval(
            low=sum(x.low for x in self.stages_j.values()),
            central=sum(x.central for x in self.stages_j.values()),
            high=sum(x.high for x in self.stages_j.values()),
        )
