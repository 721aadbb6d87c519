"""The final test: fresh processes, items that the search never saw, interleaved pairs.

It knows nothing of how the candidate was found, and trusts no stored figure.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from joulewise.core.claim import Check, Claim, Difference, Quality, Ratio, SliceLoss
from joulewise.core.energy import Measurement, Meter
from joulewise.core.recipe import Recipe
from joulewise.core.settings import Usage
from joulewise.core.statistics import noninferiority_p_value, proportion_bound
from joulewise.export.process import ProgramProcess
from joulewise.meter.interleave import Plan, interleave, ratio_of
from joulewise.workload.judge import judge_of
from joulewise.workload.store import Store
from joulewise.workload.task import Task

__all__ = ["Contest", "checks_of", "limits_of", "prove"]


TOLD_SLICES = 3
"""Slices that are named, those that lose most."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Who is tested against whom, and what was declared before the search.

    Args:
        original: main file of the original model.
        artifact: main file of the candidate.
        candidate: its recipe.
        baseline: the strongest lossless way to run the original.
        as_found: the original as the user runs it today.
        task: what counts as a right answer.
        classes: class names by label.
        usage: how the model is used, and what it must not exceed.
        size_bytes: of the candidate's files.
        margin: largest acceptable loss of quality, as a fraction.
        confidence: of bounds and intervals.
        slice_names: names of the slices of the hold-out; empty where slices are classes.
        slice_margin: loss that no slice may certainly exceed, None for none.
    """

    original: Path
    artifact: Path
    candidate: Recipe
    baseline: Recipe
    as_found: Recipe
    task: Task
    classes: tuple[str, ...]
    usage: Usage
    size_bytes: int
    margin: float
    confidence: float
    slice_names: tuple[str, ...] = ()
    slice_margin: float | None = None


def prove(
    contest: Contest,
    hold_out: Store,
    open_meter: Callable[[Sequence[int]], Meter],
    plan: Plan,
    folder: Path,
) -> Claim:
    """Test the candidate once and return the claim, whether it holds or not.

    Args:
        contest: who is tested against whom.
        hold_out: items that neither calibration nor search has seen.
        open_meter: opens a meter on process ids.
        plan: how many pairs, how long.
        folder: where answers are written.

    Raises:
        ProgramError: a program could not be opened or run.
        SensorError: the meter failed.
    """
    files = {
        "candidate": (contest.artifact, contest.candidate),
        "baseline": (contest.original, contest.baseline),
        "as found": (contest.original, contest.as_found),
    }
    with ExitStack() as stack:
        programs = {
            role: stack.enter_context(
                ProgramProcess(path, recipe.run, hold_out, contest.usage.batch_items)
            )
            for role, (path, recipe) in files.items()
        }
        original = programs["as found"].predict(hold_out, _fresh(folder / "original"))
        outputs = programs["candidate"].predict(hold_out, _fresh(folder / "candidate"))
        taken = interleave(programs, open_meter, plan)
    judge = judge_of(
        hold_out, original, contest.task, classes=contest.classes,
        slice_names=contest.slice_names, confidence=contest.confidence,
        slice_margin=contest.slice_margin,
    )  # fmt: skip
    quality, difference = judge.compare(outputs)
    ratio = ratio_of(taken["baseline"], taken["candidate"], contest.confidence)
    return Claim(
        candidate=contest.candidate,
        baseline=contest.baseline,
        ratio=ratio,
        ratio_as_found=ratio_of(taken["as found"], taken["candidate"], contest.confidence),
        quality_baseline=judge.quality_of_original,
        quality_candidate=quality,
        difference=difference,
        margin=contest.margin,
        checks=(
            *checks_of(contest, ratio, difference, taken["candidate"]),
            *limits_of(contest, quality, difference.clusters),
        ),
        measurements=taken,
    )


def checks_of(
    contest: Contest, ratio: Ratio, difference: Difference, measurement: Measurement
) -> tuple[Check, ...]:
    """Return the conditions of a claim: energy, quality and, if there is a ceiling, latency."""
    checks = [
        Check(
            name="energy",
            holds=ratio.high < 1,
            detail=f"ratio {ratio.value:.3f}, interval {ratio.low:.3f} to {ratio.high:.3f}, "
            "must lie below 1",
        ),
        Check(
            name="quality",
            holds=_non_inferior(difference, contest.margin),
            detail=f"difference {100 * difference.value:+.2f} points, bound "
            f"{100 * difference.lower:+.2f}, must lie above {-100 * contest.margin:g}",
        ),
    ]
    if contest.slice_margin is not None and contest.task.per_item:
        checks.append(_slices(difference, contest.slice_margin))
    limit_s, p95_s = contest.usage.latency_p95_s, measurement.latency_p95_s
    if limit_s is not None:
        checks.append(
            Check(
                name="latency",
                holds=p95_s is not None and p95_s <= limit_s,
                detail="p95 unknown"
                if p95_s is None
                else f"p95 {1e3 * p95_s:.3f} ms, must not exceed {1e3 * limit_s:g} ms",
            )
        )
    return tuple(checks)


def limits_of(contest: Contest, quality: Quality, clusters: int | None = None) -> tuple[Check, ...]:
    """Return the conditions of a claim that hold or fail whatever the original is like.

    Args:
        contest: what was declared.
        quality: of the candidate.
        clusters: that the items are of, where they belong together: then it counts like as many
            items, since those of one cluster may all be alike.
    """
    checks, largest, least = [], contest.usage.size_bytes, contest.usage.quality
    if largest is not None:
        checks.append(
            Check(
                name="size",
                holds=contest.size_bytes <= largest,
                detail=f"{contest.size_bytes / 1e6:.3g} MB, must not exceed {largest / 1e6:g} MB",
            )
        )
    if least is not None:
        units = clusters or quality.items
        bound = proportion_bound(round(quality.value * units), units, contest.confidence)
        checks.append(
            Check(
                name="least quality",
                holds=bound >= least,
                detail=f"{100 * quality.value:.2f} %, bound {100 * bound:.2f}, must not lie below "
                f"{100 * least:g}",
            )
        )
    return tuple(checks)


def _slices(difference: Difference, margin: float) -> Check:
    """Return whether no slice certainly loses more than the margin for slices."""
    told = ", ".join(slice_words(loss) for loss in difference.harmed[:TOLD_SLICES])
    return Check(
        name="slices",
        holds=not difference.harmed,
        detail=f"none certainly loses more than {100 * margin:g} points"
        if not told
        else f"{told}; none may certainly lose more than {100 * margin:g}",
    )


def slice_words(loss: SliceLoss) -> str:
    """Return how much a slice loses, in words."""
    return f"{loss.name} {100 * loss.value:+.1f} points of {loss.items:,} items"


def _non_inferior(difference: Difference, margin: float) -> bool:
    """Return whether bound and exact test at the margin both say so; they may differ by 1e-4.

    Where the metric is of all items together there is no exact test, and the bound says it alone.
    """
    if difference.counts is None:
        return difference.lower > -margin
    p = noninferiority_p_value(*difference.counts, difference.items, margin)
    return difference.lower > -margin and p <= 1.0 - difference.confidence


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder
