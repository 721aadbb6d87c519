"""The verdict in four lines, and the table of all that was tried, as plain text.

Only what the records prove is said: a bundle that announces a winner without a claim that holds
is refused, and joules before and after are left out where no trial measured both at the grade of
the claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from joulewise.core.claim import Claim, Difference, Quality, Ratio, Trial
from joulewise.core.energy import Interval, Measurement
from joulewise.core.errors import InputError
from joulewise.core.front import front
from joulewise.core.recipe import Recipe
from joulewise.core.records import Bundle
from joulewise.report.text import (
    MISSING,
    approximate,
    change,
    count,
    counted,
    describe_recipe,
    gap,
    grade_word,
    graded,
    joules,
    metric_words,
    percent,
    plain,
    points,
    quality,
    ratio,
    seconds,
    size,
    span,
)

__all__ = [
    "LABELS",
    "TrialRow",
    "claim_lines",
    "headline",
    "j_per_item",
    "ledger_line",
    "trial_table",
    "verdict_lines",
    "verdict_parts",
    "winning_claim",
]

LABELS = ("result", "energy", "quality", "cost")

_WIDTH = max(map(len, LABELS)) + 2


@dataclass(frozen=True, kw_only=True)
class TrialRow:
    """One trial as text.

    Args:
        recipe: what was tried, in words.
        role: "as found", "strongest lossless way", both, or empty.
        ratio: energy ratio to the anchor of the study, with its interval.
        joules: joules per item with their grade.
        quality: on the search split, with the difference to the original.
        latency: 95th percentile of the time of one batch.
        size: of the artifact.
        on_front: whether no other trial equals or beats it in joules, quality, latency and size.
        verdict: "chosen", or the state of the trial: "measured", "rejected", "failed".
        reason: why it lost; empty for the chosen one.
    """

    recipe: str
    role: str
    ratio: str
    joules: str
    quality: str
    latency: str
    size: str
    on_front: bool
    verdict: str
    reason: str


def verdict_lines(bundle: Bundle) -> tuple[str, str, str, str]:
    """Return the verdict for a terminal: result, energy, quality and cost, one line each.

    Raises:
        InputError: the bundle announces a winner that no claim in it proves.
    """
    result, energy, quality, cost = (
        f"{label:<{_WIDTH}}{part}"
        for label, part in zip(LABELS, verdict_parts(bundle), strict=True)
    )
    return result, energy, quality, cost


def ledger_line(bundle: Bundle) -> str:
    """Return the joules and seconds of the search by cause, one line for a terminal.

    Each is followed by its interval; sensor's grade and sum are in the line of the cost.
    """
    ledger = bundle.ledger
    spent = (
        f"{plain(cause)} {joules(each.central)} ({span(each, joules)}) in "
        f"{seconds(ledger.seconds.get(cause))}"
        for cause, each in ledger.stages_j.items()
    )
    causes = "; ".join(spent) or "nothing was billed"
    return f"{'ledger':<{_WIDTH}}{causes} ({grade_word(ledger.grade)}, grade {ledger.grade})"


def verdict_parts(bundle: Bundle) -> tuple[str, str, str, str]:
    """Return the verdict without its LABELS; ``"; "`` parts the statements of a line.

    Raises:
        InputError: the bundle announces a winner that no claim in it proves.
    """
    claim = winning_claim(bundle)
    if claim is None:
        return (_kept(bundle), _best_rejected(bundle), _certifiable(bundle), _cost(bundle))
    return (_won(bundle), _energy(bundle, claim), _quality(claim), _cost(bundle))


def headline(bundle: Bundle) -> str:
    """Return the verdict in a few words, with the grade of any joules it speaks of.

    Raises:
        InputError: the bundle announces a winner that no claim in it proves.
    """
    claim = winning_claim(bundle)
    if claim is None:
        return "The original model is kept"
    return (
        f"{(1 - claim.ratio.value) * 100:.1f} % fewer joules per item, "
        f"{grade_word(claim.ratio.grade)} (grade {claim.ratio.grade})"
    )


def winning_claim(bundle: Bundle) -> Claim | None:
    """Return the claim that proves the winner, None where the original is kept.

    Raises:
        InputError: the bundle announces a winner that no claim in it proves.
    """
    claim = bundle.claim
    if claim is not None or bundle.verdict == "keep":
        return claim
    raise InputError(
        f"the bundle says {plain(bundle.verdict)!r} but holds no claim that proves it; "
        "make it again with: joulewise optimize"
    )


def trial_table(bundle: Bundle) -> list[TrialRow]:
    """Return one row of text per trial, in the order in which they were tried."""
    best = front(bundle.trials)
    return [_row(bundle, trial, place in best) for place, trial in enumerate(bundle.trials)]


def j_per_item(measurement: Measurement | None, objective: str) -> Interval | None:
    """Return joules per item under an objective ("net of idle" or "gross"), None if unknown."""
    if measurement is None or measurement.items == 0:
        return None
    gross = objective == "gross"
    return measurement.gross_j_per_item if gross else measurement.net_j_per_item


def _row(bundle: Bundle, trial: Trial, on_front: bool) -> TrialRow:
    taken = trial.measurement
    return TrialRow(
        recipe=describe_recipe(trial.recipe),
        role=_role(bundle, trial.recipe),
        ratio=_ratio_cell(trial.ratio),
        joules=_joules_cell(trial),
        quality=_quality_cell(trial),
        latency=seconds(None if taken is None else taken.latency_p95_s),
        size=size(trial.size_bytes),
        on_front=on_front,
        verdict="chosen" if trial.recipe == bundle.recipe else plain(trial.state),
        reason=plain(trial.reason or ""),
    )


def _role(bundle: Bundle, recipe: Recipe) -> str:
    roles = (("as found", bundle.as_found), ("strongest lossless way", bundle.baseline))
    return ", ".join(name for name, named in roles if named == recipe)


def _ratio_cell(value: Ratio | None) -> str:
    if value is None:
        return MISSING
    return f"{ratio(value.value)} ({ratio(value.low)} to {ratio(value.high)}) [{value.grade}]"


def _joules_cell(trial: Trial) -> str:
    objective = trial.ratio.objective if trial.ratio else "net of idle"
    interval = j_per_item(trial.measurement, objective)
    if trial.measurement is None or interval is None:
        return MISSING
    return graded(interval.central, trial.measurement.sensor.grade)


def _quality_cell(trial: Trial) -> str:
    if trial.quality is None:
        return MISSING
    metric = trial.quality.metric
    text = quality(trial.quality.value, metric)
    return text if trial.difference is None else f"{text} ({gap(trial.difference.value, metric)})"


def _model_name(bundle: Bundle) -> str:
    return plain(PurePosixPath(bundle.workload.model).name or bundle.workload.model)


def _won(bundle: Bundle) -> str:
    return f"{_model_name(bundle)} -> {describe_recipe(bundle.recipe)}"


def _kept(bundle: Bundle) -> str:
    return f"{_model_name(bundle)} is kept as it is: {plain(bundle.summary)}"


def _energy(bundle: Bundle, claim: Claim) -> str:
    baseline = _baseline_name(bundle, claim)
    parts = [*_before_and_after(claim), _final_test(claim.ratio, baseline)]
    if claim.baseline != bundle.as_found:
        found = claim.ratio_as_found
        parts.append(
            f"{ratio(found.value)} times the model as found "
            f"({ratio(found.low)} to {ratio(found.high)}, grade {found.grade})"
        )
    return "; ".join(parts)


def _baseline_name(bundle: Bundle, claim: Claim) -> str:
    found = claim.baseline == bundle.as_found
    return "the model as found" if found else "the strongest lossless way"


def claim_lines(claim: Claim) -> tuple[str, str]:
    """Return what a test against one baseline found: energy and quality, one line each."""
    energy = "; ".join([*_before_and_after(claim), _final_test(claim.ratio, "the original")])
    failed = [
        f"{plain(each.name)}: {plain(each.detail)}" for each in claim.checks if not each.holds
    ]
    doubt = f"; does not hold: {'; '.join(failed)}" if failed else ""
    return f"energy   {energy}", f"quality  {_quality(claim)}{doubt}"


def _before_and_after(claim: Claim) -> list[str]:
    """Return joules per item of both sides in the final test, or nothing where unknown."""
    roles = (claim.measurements.get(role) for role in ("baseline", "candidate"))
    sides = [j_per_item(measurement, claim.ratio.objective) for measurement in roles]
    word, grade = grade_word(claim.ratio.grade), claim.ratio.grade
    told = [joules(side.central) for side in sides if side is not None]
    return [f"{' -> '.join(told)} per item ({word}, grade {grade})"] if len(told) == 2 else []


def _final_test(value: Ratio, baseline: str) -> str:
    return (
        f"{ratio(value.value)} times {baseline} ({change(value.value)}, "
        f"{value.confidence * 100:g} % interval {ratio(value.low)} to {ratio(value.high)}, "
        f"{counted(value.pairs, 'pair')}, {grade_word(value.grade)}, grade {value.grade}, "
        f"{plain(value.objective)})"
    )


def _quality(claim: Claim) -> str:
    difference = claim.difference
    if claim.candidate.lossless and difference.changed == 0:
        return (
            f"the answers are the same: 0 of {count(difference.items)} items changed; "
            f"{_metric(claim)} {_of(claim.quality_candidate)}"
        )
    return (
        f"{_metric(claim)} {_of(claim.quality_baseline)} -> "
        f"{_of(claim.quality_candidate)}; {_bounded(claim)}; "
        f"{_flips(difference)}{_worst_slice(difference)}{_likeness(difference)}"
    )


def _of(found: Quality) -> str:
    return quality(found.value, found.metric)


def _metric(claim: Claim) -> str:
    return metric_words(claim.quality_candidate)


def _bounded(claim: Claim) -> str:
    difference, metric = claim.difference, claim.quality_candidate.metric
    return (
        f"difference {gap(difference.value, metric)}, lower bound "
        f"{gap(difference.lower, metric)} at {difference.confidence * 100:g} %, "
        f"margin {gap(claim.margin, metric, signed=False)}"
    )


def _flips(difference: Difference) -> str:
    changed = f"{count(difference.changed)} of {count(difference.items)} answers changed"
    if difference.clusters is not None:
        changed = f"{changed}, of {count(difference.clusters)} clusters"
    if difference.counts is None:
        return changed
    gained, lost = difference.counts
    return f"{changed} ({count(gained)} gained, {count(lost)} lost)"


def _likeness(difference: Difference) -> str:
    """Return how like the original's distributions are, where they are any and some differ."""
    if not difference.divergence_nats or difference.agreement_ratio is None:
        return ""
    return (
        f"; KL divergence from the original {difference.divergence_nats:.3g} nats, "
        f"{percent(difference.agreement_ratio)} same top-1"
    )


def _worst_slice(difference: Difference) -> str:
    if difference.worst_slice is None:
        return ""
    return f"; worst class {plain(difference.worst_slice)} {points(difference.worst_slice_value)}"


def _best_rejected(bundle: Bundle) -> str:
    """Return what came nearest: the best failed claim, else the cheapest rejected trial."""
    claims = [claim for claim in bundle.claims if not claim.holds]
    if claims:
        return _failed_claim(bundle, min(claims, key=lambda claim: claim.ratio.value))
    tried = [
        (t.ratio.value, i) for i, t in enumerate(bundle.trials) if t.ratio and _lost(bundle, t)
    ]
    if not tried:
        return "no other candidate was measured"
    return _rejected_trial(bundle.trials[min(tried)[1]])


def _lost(bundle: Bundle, trial: Trial) -> bool:
    return trial.recipe not in (bundle.recipe, bundle.as_found)


def _failed_claim(bundle: Bundle, claim: Claim) -> str:
    failed = "; ".join(
        f"{plain(check.name)}: {plain(check.detail)}" for check in claim.checks if not check.holds
    )
    return (
        f"best rejected candidate: {describe_recipe(claim.candidate)}: "
        f"{_final_test(claim.ratio, _baseline_name(bundle, claim))}, "
        f"{gap(claim.difference.value, claim.quality_candidate.metric)}; failed {failed}"
    )


def _rejected_trial(trial: Trial) -> str:
    reason = f"; {plain(trial.reason)}" if trial.reason else ""
    return (
        f"best rejected candidate: {describe_recipe(trial.recipe)}: "
        f"energy ratio {_ratio_cell(trial.ratio)}, quality {_quality_cell(trial)}{reason}"
    )


def _certifiable(bundle: Bundle) -> str:
    held_out = bundle.workload.splits.get("hold-out")
    items = f" of {counted(held_out.items, 'item')}" if held_out else ""
    metric = bundle.workload.metric
    declared = gap(bundle.margin, metric, signed=False)
    enough = bundle.smallest_margin <= bundle.margin
    return (
        f"the hold-out{items} can certify a margin of "
        f"{gap(bundle.smallest_margin, metric, signed=False)} at best; {declared} was declared"
        + ("" if enough else ": too few items for it")
    )


def _cost(bundle: Bundle) -> str:
    ledger = bundle.ledger
    spent = (
        f"the search took {joules(ledger.total_j.central)} "
        f"({span(ledger.total_j, joules)}, {grade_word(ledger.grade)}, grade {ledger.grade}) "
        f"and {seconds(sum(ledger.seconds.values()))}"
    )
    return f"{spent}; {_break_even(bundle)}"


def _break_even(bundle: Bundle) -> str:
    even = bundle.ledger.break_even_items
    if even is None:
        return "nothing is saved that could pay it back"
    expected = bundle.workload.expected_items
    ahead = "" if expected is None else f", {count(expected)} expected"
    after = f"after {approximate(even.central)} inferences ({span(even, approximate)}{ahead})"
    kept = bundle.verdict == "keep"
    return f"the best rejected candidate would pay back {after}" if kept else f"pays back {after}"
