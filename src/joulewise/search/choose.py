"""Choose among finished trials: the strongest baseline, and what is tested in the end."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from joulewise.core.claim import Ratio, Trial
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.statistics import (
    chance_by_error,
    chance_of_confirming,
    items_needed,
    quotient,
    smallest_margin,
)
from joulewise.search.space import is_converted

__all__ = [
    "Choice",
    "best_lossless",
    "best_order",
    "best_runs",
    "certifiable_words",
    "chance",
    "choose",
    "with_reasons",
]

MOST_TESTS = 4
"""Candidates in the final test at the most: each takes a minute or so."""

WORTH = 0.01
"""What a test must promise, in parts of the joules that it would lower. A judgement: less is within
what two measurements of one program differ by."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What goes into the final test.

    Args:
        as_found: the original as the user runs it today.
        baseline: the strongest lossless way to run the original.
        candidates: changed models that may replace it, in the order in which they are tested, each
            cheaper than the one before. Each is tested only if the one before passed, so that every
            test has the full confidence. Empty where none promises to.
        fallback: another way to run the original, tested where no candidate passed; None where it
            promises nothing.
    """

    as_found: Trial
    baseline: Trial
    candidates: tuple[Trial, ...]
    fallback: Trial | None = None


def best_lossless(trials: Sequence[Trial]) -> Trial:
    """Return the lossless trial with the lowest ratio to the anchor."""
    return min((trial for trial in _measured(trials) if trial.recipe.lossless), key=_value)


def best_runs(trials: Sequence[Trial]) -> dict[str, RunSettings]:
    """Return, for each runtime, the settings that changed models are run with.

    They are the cheapest lossless ones with all graph optimisations, as a quantized graph is slow
    without those that fuse its rounding (the "extended" ones of ONNX Runtime); where there are
    none, the cheapest. Where a runtime needs a conversion they are the cheapest of that, even if
    it needs too many joules: int8 may change that.
    """
    plain = [trial for trial in _measured(trials) if trial.recipe.lossless]
    plain += [trial for trial in trials if is_converted(trial.recipe) and trial.ratio is not None]
    found: dict[str, Trial] = {}
    for trial in sorted(plain, key=lambda x: (x.recipe.run.graph == "basic", _value(x))):
        found.setdefault(trial.recipe.run.runtime, trial)
    return {runtime: trial.recipe.run for runtime, trial in found.items()}


def chance(trial: Trial, margin: float, confidence: float, hold_out_items: int) -> float:
    """Return how likely a changed model passes the final test, 1 where nothing is known.

    What answers better than the original on the search items is believed to be better by a part of
    that only (`_believed`): the best of many that were tried on the same items looks better than it
    is.

    Args:
        trial: of the changed model.
        margin: largest acceptable loss of quality, as a fraction.
        confidence: of the final test.
        hold_out_items: that it has.
    """
    found = trial.difference
    if found is None:
        return 1.0
    if found.counts is None:
        error = found.error or 0.0
        return chance_by_error(
            _believed(found.value, error, margin), error, found.items,
            others=hold_out_items, margin=margin, confidence=confidence,
        )  # fmt: skip
    gained, lost = found.counts
    changed = gained + lost
    gain = _believed((gained - lost) / found.items, math.sqrt(changed) / found.items, margin)
    gained = round((changed + gain * found.items) / 2)
    return chance_of_confirming(
        gained, changed - gained, found.items,
        others=hold_out_items, margin=margin, confidence=confidence,
    )  # fmt: skip


def choose(
    trials: Sequence[Trial],
    *,
    margin: float,
    confidence: float,
    hold_out_items: int,
    largest_bytes: int | None = None,
) -> Choice:
    """Return baseline and candidates.

    A candidate is a changed model that is non-inferior on the search split and whose interval
    against the baseline lies below 1. Those are tested that promise the fewest joules in the end
    (`best_order`). The baseline is the fallback, if its interval against the model as found lies
    below 1.

    Args:
        trials: finished trials; the first is the model as found.
        margin: largest acceptable loss of quality, as a fraction.
        confidence: of the final test.
        hold_out_items: that it has.
        largest_bytes: largest acceptable size of a model's files; None for any.
    """
    as_found, baseline = trials[0], best_lossless(trials)

    changed = [trial for trial in _measured(trials) if not trial.recipe.lossless]
    promising = sorted((x for x in changed if _against(x, baseline).high < 1), key=_value)
    fits = largest_bytes is None or (baseline.size_bytes or 0) <= largest_bytes
    saves = fits and baseline is not as_found and _against(baseline, as_found).high < 1
    return Choice(
        as_found=as_found,
        baseline=baseline,
        candidates=best_order(
            [(trial, chance(trial, margin, confidence, hold_out_items)) for trial in promising],
            _value(baseline),
        ),
        fallback=baseline if saves else None,
    )


def best_order(promising: Sequence[tuple[Trial, float]], baseline: float) -> tuple[Trial, ...]:
    """Return what is tested, in the order that promises the fewest joules.

    The last that passes is taken, and nothing follows what fails. So a sure one that saves little
    may come before a doubtful one that saves more, and one in between between them. Chances are
    taken to be independent; what follows a candidate does not depend on what came before it, so the
    best order grows from its end (dynamic programming).

    Args:
        promising: candidates with their chances, the cheapest first.
        baseline: what is left where the first fails, as a ratio to the anchor like theirs.
    """
    values = [_value(trial) for trial, _ in promising]
    plans: list[_Plan] = [(value, ()) for value in values]  # where no test is left
    for _ in range(MOST_TESTS - 1):
        plans = [
            _best_plan(value, promising[:number], plans[:number])
            for number, value in enumerate(values)
        ]
    return _best_plan(baseline, promising, plans)[1]


def certifiable_words(
    trial: Trial, margin: float, confidence: float, hold_out_items: int
) -> str | None:
    """Return what the hold-out can certify of a candidate that changes as many answers there.

    Args:
        trial: of the candidate, on the search items.
        margin: largest acceptable loss of quality, as a fraction.
        confidence: of the final test.
        hold_out_items: that it has.

    Returns:
        None where the original is kept, or the metric is of all answers together.
    """
    found = trial.difference
    if found is None or found.counts is None:
        return None
    changed_ratio = sum(found.counts) / found.items
    least = smallest_margin(hold_out_items, confidence, changed_ratio)
    words = (
        f"where {100 * changed_ratio:.2g} % of the items are right in one of the two only, "
        f"{hold_out_items:,} certify a loss of {100 * least:.2f} points every other time"
    )
    loss = min(found.value, 0.0)
    if loss <= -margin:
        return words
    needed = items_needed(margin, loss, changed_ratio, confidence)
    more = needed - hold_out_items
    return f"{words}; {more:,} more would make {100 * margin:g} likely" if more > 0 else words


def with_reasons(
    trials: Sequence[Trial], choice: Choice, chosen: Recipe | None, refuted: Collection[Recipe] = ()
) -> tuple[Trial, ...]:
    """Return the trials, each that lost with the reason why.

    Args:
        trials: all that were tried.
        choice: among them.
        chosen: what passed the final test and is cheapest; None where the original is kept.
        refuted: what failed it.
    """
    return tuple(
        trial
        if trial.recipe == chosen
        else replace(trial, reason=_whole_reason(trial, choice, chosen, refuted))
        for trial in trials
    )


def _whole_reason(
    trial: Trial, choice: Choice, chosen: Recipe | None, refuted: Collection[Recipe]
) -> str:
    if trial.recipe in refuted:
        return "failed the final test"
    reason = trial.reason or _reason(trial, choice, chosen)
    return reason if trial.cause is None else f"{reason}; {trial.cause}"


def _reason(trial: Trial, choice: Choice, chosen: Recipe | None) -> str:
    if trial is choice.as_found and trial is not choice.baseline:
        return "as found today"
    if trial is choice.baseline:
        return "the strongest lossless way: the baseline"
    for candidate in choice.candidates:
        if candidate.recipe == chosen:
            return _over_chosen(trial, candidate, choice)
    against = _against(trial, choice.baseline)
    if against.value >= 1:
        return f"needs {against.value:.2f} x the joules of the strongest lossless way"
    if against.high < 1:
        return (
            f"{against.value:.2f} x the joules of the strongest lossless way, but not in the final "
            "test"
        )
    return (
        f"{against.value:.2f} x the joules of the strongest lossless way, but the interval "
        f"{against.low:.2f} to {against.high:.2f} does not lie below 1"
    )


def _over_chosen(trial: Trial, chosen: Trial, choice: Choice) -> str:
    times = f"{_against(trial, chosen).value:.2f} x the joules of the chosen one"
    if _value(trial) >= _value(chosen):
        return f"needs {times}"
    if trial in choice.candidates:
        return f"{times}, but its turn in the final test did not come"
    return f"{times}, but not in the final test"


def _against(trial: Trial, other: Trial) -> Ratio:
    if trial.ratio is None or other.ratio is None:
        raise ValueError("only measured trials can be compared")
    return quotient(trial.ratio, other.ratio)


def _measured(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state == "measured" and trial.ratio is not None]


def _value(trial: Trial) -> float:
    return float("inf") if trial.ratio is None else trial.ratio.value


_Plan = tuple[float, tuple[Trial, ...]]
"""The joules that are expected in the end, as a ratio to the anchor, and the tests to come."""


def _best_plan(
    passed: float, cheaper: Sequence[tuple[Trial, float]], plans: Sequence[_Plan]
) -> _Plan:
    """Return what is best tested after something with the ratio `passed` has passed."""
    options: list[_Plan] = [(passed, ())]
    for (trial, chance), (expected, rest) in zip(cheaper, plans, strict=True):
        promised = chance * expected + (1 - chance) * passed
        options.append((promised + WORTH * passed, (trial, *rest)))
    return min(options, key=lambda option: option[0])


def _believed(difference: float, error: float, margin: float) -> float:
    """Return what to believe of a difference that was found; a loss is believed as it is.

    Gains are taken to be spread around 0 by about half of the margin, so what was found counts for
    more where its error is small: the mean of the posterior of a normal prior, whose spread is a
    judgement.

    Source: Gelman et al. 2013, "Bayesian data analysis", third edition, eq. (2.10).
    """
    if difference <= 0:
        return difference
    return difference / (1 + (2 * error / margin) ** 2)
