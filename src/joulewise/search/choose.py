"""Choose among finished trials: the strongest baseline and the one candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from joulewise.core.claim import Ratio, Trial
from joulewise.core.recipe import RunSettings
from joulewise.core.statistics import quotient

__all__ = ["Choice", "best_lossless", "best_runs", "choose", "with_reasons"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What goes into the final test.

    Args:
        as_found: the original as the user runs it today.
        baseline: the strongest lossless way to run the original.
        candidate: what may replace it; None where nothing promises to.
    """

    as_found: Trial
    baseline: Trial
    candidate: Trial | None


def best_lossless(trials: Sequence[Trial]) -> Trial:
    """Return the lossless trial with the lowest ratio to the anchor."""
    return min((trial for trial in _measured(trials) if trial.recipe.lossless), key=_value)


def best_runs(trials: Sequence[Trial]) -> dict[str, RunSettings]:
    """Return, for each runtime, its cheapest lossless settings."""
    found: dict[str, Trial] = {}
    for trial in sorted(_measured(trials), key=_value):
        if trial.recipe.lossless:
            found.setdefault(trial.recipe.run.runtime, trial)
    return {runtime: trial.recipe.run for runtime, trial in found.items()}


def choose(trials: Sequence[Trial]) -> Choice:
    """Return baseline and candidate.

    The candidate is the changed model with the lowest ratio among those that are non-inferior on
    the search split; where its interval against the baseline does not lie below 1, the baseline
    itself, if its interval against the model as found does; else there is none.

    Args:
        trials: finished trials; the first is the model as found.
    """
    as_found, baseline = trials[0], best_lossless(trials)
    changed = [trial for trial in _measured(trials) if not trial.recipe.lossless]
    best = min(changed, key=_value, default=None)
    if best is not None and _against(best, baseline).high < 1:
        return Choice(as_found=as_found, baseline=baseline, candidate=best)
    if baseline is not as_found and _against(baseline, as_found).high < 1:
        return Choice(as_found=as_found, baseline=baseline, candidate=baseline)
    return Choice(as_found=as_found, baseline=baseline, candidate=None)


def with_reasons(trials: Sequence[Trial], choice: Choice) -> tuple[Trial, ...]:
    """Return the trials, each that lost with the reason why."""
    return tuple(
        trial if trial is choice.candidate else replace(trial, reason=_whole_reason(trial, choice))
        for trial in trials
    )


def _whole_reason(trial: Trial, choice: Choice) -> str:
    reason = trial.reason or _reason(trial, choice)
    return reason if trial.cause is None else f"{reason}; {trial.cause}"


def _reason(trial: Trial, choice: Choice) -> str:
    if trial is choice.as_found and trial is not choice.baseline:
        return "as found today"
    if trial is choice.baseline:
        return "the strongest lossless way: the baseline"
    if choice.candidate is not None and choice.candidate is not choice.baseline:
        times = _against(trial, choice.candidate).value
        return f"needs {times:.2f} x the joules of the chosen one"
    against = _against(trial, choice.baseline)
    if against.value >= 1:
        return f"needs {against.value:.2f} x the joules of the strongest lossless way"
    return (
        f"{against.value:.2f} x the joules of the strongest lossless way, but the interval "
        f"{against.low:.2f} to {against.high:.2f} does not lie below 1"
    )


def _against(trial: Trial, other: Trial) -> Ratio:
    if trial.ratio is None or other.ratio is None:
        raise ValueError("only measured trials can be compared")
    return quotient(trial.ratio, other.ratio)


def _measured(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state == "measured" and trial.ratio is not None]


def _value(trial: Trial) -> float:
    return float("inf") if trial.ratio is None else trial.ratio.value
