"""The statistics of proof: paired non-inferiority of quality, paired ratios of energy.

Why this way: a claim that fails is worse than a claim that was not made, so the quality bound is
*exact* (its error never exceeds the stated one, however few answers differ), and the energy
interval comes from interleaved pairs, so that drift of the machine cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

from joulewise.core.claim import Ratio
from joulewise.core.energy import Block, Grade

__all__ = [
    "chance_by_error",
    "chance_of_confirming",
    "fewest_items",
    "is_inferior",
    "items_needed",
    "lower_bound",
    "net_ratio",
    "noninferiority_p_value",
    "paired_ratio",
    "proportion_bound",
    "quotient",
    "score",
    "smallest_margin",
    "upper_bound",
]

Floats = NDArray[np.float64]

NUISANCE_ERROR = 1e-4
"""Share of the error spent on confining the rate of changed answers (Berger and Boos 1994)."""

BOUND_PRECISION = 1e-6
"""How closely a bound is found: a hundredth of the smallest step that is printed."""

NUISANCE_POINTS = 48
"""Rates of changed answers at which the worst case is looked for."""

BUMP_POINTS = 64
"""Margins beyond a bound at which the p-value is looked at again."""

WIDEST_LOG = 500.0
"""Half-width of a log-ratio's interval at the most: beyond it floats overflow."""


def score(
    gained: Floats | float, lost: Floats | float, items: int, difference: float
) -> Floats | float:
    """Return the score statistic of a paired difference of proportions.

    Args:
        gained: items that only the candidate answers right.
        lost: items that only the baseline answers right.
        items: all items, > 0.
        difference: hypothesised difference candidate - baseline, in (-1, 1).

    Returns:
        (gained - lost - items * difference) over its standard error at the constrained maximum
        of the likelihood: about standard normal if the difference is true.

    Source: Tango 1998, Statistics in Medicine 17, 891-908, eqs. (5)-(8).
    """
    gained, lost = np.asarray(gained, float), np.asarray(lost, float)
    a = 2.0 * items
    b = -gained - lost + (2.0 * items - gained + lost) * difference
    c = -lost * difference * (1.0 - difference)
    lost_rate = (np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = items * (2.0 * lost_rate + difference * (1.0 - difference))
    excess = gained - lost - items * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        value = excess / np.sqrt(np.maximum(variance, 0.0))
    return np.where(np.isnan(value), 0.0, value)


def noninferiority_p_value(gained: int, lost: int, items: int, margin: float) -> float:
    """Return the exact p-value of "the candidate is worse than the baseline by `margin` or more".

    Outcomes are ordered by the score statistic; the unknown rate of changed answers is confined
    to its confidence interval and the worst case over it is taken, so the test keeps its level
    for any sample size. Small values speak for non-inferiority.

    Args:
        gained: items that only the candidate answers right.
        lost: items that only the baseline answers right.
        items: all items, >= gained + lost.
        margin: largest acceptable loss, in (0, 1).

    Source: ordering by the score statistic, Sidik 2003, Statistics in Medicine 22, 265-278;
    confined nuisance parameter, Berger and Boos 1994, JASA 89, 1012-1016.
    """
    observed = float(score(gained, lost, items, -margin))
    changed = gained + lost
    low, high, half = 0.0, 1.0, NUISANCE_ERROR / 2
    if changed:
        low = float(special.betaincinv(changed, items - changed + 1, half))
    if changed < items:
        high = float(special.betaincinv(changed + 1, items - changed, 1 - half))
    rates = np.linspace(max(low, margin), max(high, margin), NUISANCE_POINTS)
    worst = float(np.max(_tails(observed, items, margin, rates)))
    return min(1.0, worst + NUISANCE_ERROR)


def _tails(observed: float, items: int, margin: float, rates: Floats) -> Floats:
    """Probability of a score >= `observed` when the loss is `margin`, at each change rate."""
    spread = 7.0 * np.sqrt(items * rates * (1.0 - rates)) + 8.0
    first = max(0, math.floor(float(np.min(items * rates - spread))))
    last = min(items, math.ceil(float(np.max(items * rates + spread))))
    changed = np.arange(first, last + 1, dtype=float)
    needed = _gains_needed(observed, changed, items, margin)
    gain_shares = ((rates - margin) / (2.0 * rates))[:, None]
    tails = _at_least(needed, changed, gain_shares)
    return np.asarray(np.sum(_exactly(changed, items, rates[:, None]) * tails, axis=1))


# The two below are in `scipy.stats` too, whose import takes a second of every program's start.


def _at_least(count: Floats, of: Floats, rate: Floats) -> Floats:
    """Return how likely that many or more are, or 0 for more than there are.

    Source: Abramowitz and Stegun, 26.5.24.
    """
    tails = special.betainc(np.maximum(count, 1.0), np.maximum(of - count, 0.0) + 1.0, rate)
    return np.where(count < 1, 1.0, np.where(count > of, 0.0, tails))


def _exactly(count: Floats, of: int, rate: Floats) -> Floats:
    """Return how likely just that many are."""
    ways = special.gammaln(of + 1) - special.gammaln(count + 1) - special.gammaln(of - count + 1)
    chance = special.xlogy(count, rate) + special.xlog1py(of - count, -rate)
    return np.asarray(np.exp(ways + chance))


def _gains_needed(observed: float, changed: Floats, items: int, margin: float) -> Floats:
    """Fewest gains among `changed` items that make the score >= `observed` (changed + 1 if none).

    The score grows with the gains at a fixed number of changes, so bisection finds them.
    """
    low, high = np.zeros_like(changed), changed + 1.0
    while np.any(low < high):
        middle = np.floor((low + high) / 2.0)
        reached = score(middle, changed - middle, items, -margin) >= observed - 1e-12
        open_ = low < high
        high = np.where(open_ & reached, middle, high)
        low = np.where(open_ & ~reached, middle + 1.0, low)
    return low


def lower_bound(gained: int, lost: int, items: int, confidence: float) -> float:
    """Return the one-sided exact lower confidence bound of the paired difference.

    The candidate is non-inferior at a margin m when this bound lies above -m. Because the p-value
    is not quite monotone in the margin, that is exact but for its upward steps narrower than 1/512
    of the bound; whoever needs the level to the last digit asks `noninferiority_p_value` at m.
    A bound is never above 0.

    Args:
        gained: items that only the candidate answers right.
        lost: items that only the baseline answers right.
        items: all items, > 0.
        confidence: of the bound, in (0.5, 1).

    Raises:
        ValueError: the counts are negative or exceed `items`.
    """
    if items <= 0 or min(gained, lost) < 0 or gained + lost > items:
        raise ValueError(f"impossible counts: {gained} gained and {lost} lost of {items}")
    error = 1.0 - confidence
    estimate = (gained - lost) / items
    outer = min(0.999999, max(-estimate, 0.0) + 1.0 / items)
    while noninferiority_p_value(gained, lost, items, outer) > error:
        if outer == 0.999999:
            return -1.0
        outer = min(0.999999, outer * 1.5 + 1.0 / items)
    inner = max(-estimate, 1e-9)
    if noninferiority_p_value(gained, lost, items, inner) <= error:
        return -inner
    while outer - inner >= BOUND_PRECISION:
        middle = (inner + outer) / 2.0
        if noninferiority_p_value(gained, lost, items, middle) <= error:
            outer = middle
        else:
            inner = middle
    return -_beyond_bumps(gained, lost, items, error, outer)


def _beyond_bumps(gained: int, lost: int, items: int, error: float, margin: float) -> float:
    """Return `margin`, or the next larger one beyond which the p-value stays at most `error`.

    The p-value falls with the margin but for small upward steps, where outcomes change places.
    """
    step = (margin + min(0.0, (gained - lost) / items)) / (8.0 * BUMP_POINTS)
    found, passed = margin, 1
    while passed < BUMP_POINTS and margin + step < 0.999999:
        margin += step
        if noninferiority_p_value(gained, lost, items, margin) > error:
            found, passed = 1.0, 0
        else:
            found, passed = (found if passed else margin), passed + 1
    return found


def upper_bound(gained: int, lost: int, items: int, confidence: float) -> float:
    """Return the one-sided exact upper confidence bound of the paired difference."""
    return -lower_bound(lost, gained, items, confidence)


def proportion_bound(right: int, items: int, confidence: float) -> float:
    """Return the one-sided exact lower confidence bound of a proportion.

    Args:
        right: items that count.
        items: all items, > 0.
        confidence: of the bound, in (0.5, 1).

    Source: Clopper and Pearson 1934, Biometrika 26, 404-413.
    """
    return float(special.betaincinv(right, items - right + 1, 1.0 - confidence)) if right else 0.0


def is_inferior(gained: int, lost: int, items: int, margin: float, confidence: float) -> bool:
    """Return whether a candidate loses more than `margin`, as far as a score test can tell.

    It is for what is not worth looking at any longer; a proof asks `lower_bound`.

    Args:
        gained: items that only the candidate answers right.
        lost: items that only the baseline answers right.
        items: all items, > 0.
        margin: largest acceptable loss, in (0, 1).
        confidence: one-sided, in (0.5, 1).

    Source: as for `score`; its level is kept nearly, not exactly.
    """
    return bool(score(gained, lost, items, -margin) < special.ndtri(1.0 - confidence))


def smallest_margin(items: int, confidence: float, changed_ratio: float = 0.0) -> float:
    """Return the smallest margin that `items` items certify where as many are gained as lost.

    Args:
        items: all items, > 0.
        confidence: of the bound, in (0.5, 1).
        changed_ratio: fraction of items that only one of the two answers right. Where it is above
            0 the margin is about right, and certified every other time.

    Source: exact without changes; else the normal approximation of the paired difference, as in
    `items_needed` with even chances.
    """
    exact = -lower_bound(0, 0, items, confidence)
    return max(exact, float(special.ndtri(confidence)) * math.sqrt(changed_ratio / items))


def fewest_items(margin: float, confidence: float) -> int:
    """Return the fewest items that certify `margin` when no answer changes.

    Args:
        margin: largest acceptable loss, in (0, 1).
        confidence: of the bound, in (0.5, 1).

    Source: no loss among n items has probability (1 - margin)^n at the margin.
    """
    items = math.ceil(math.log(1.0 - confidence - NUISANCE_ERROR) / math.log1p(-margin))
    while noninferiority_p_value(0, 0, items, margin) > 1.0 - confidence:
        items += 1
    return items


def items_needed(margin: float, difference: float, changed_ratio: float, confidence: float) -> int:
    """Return about how many items certify `margin` for such a candidate with 80 % probability.

    Args:
        margin: largest acceptable loss, in (0, 1).
        difference: true difference candidate - baseline; must lie above -margin.
        changed_ratio: fraction of items that only one of the two answers right.
        confidence: of the bound, in (0.5, 1).

    Raises:
        ValueError: the difference does not lie above -margin, so no number suffices.

    Source: normal approximation of the paired difference, n = (z_a + z_b)^2 v / (margin + d)^2
    with v = changed_ratio - d^2 (Nam 1997, Biometrics 53, 1422-1430).
    """
    room = margin + difference
    if room <= 0:
        raise ValueError("a candidate that is worse by the margin or more is never certified")
    z = special.ndtri(confidence) + special.ndtri(0.8)
    by_variance = z * z * max(changed_ratio - difference * difference, 0.0) / (room * room)
    with_no_change = math.log(1.0 - confidence) / math.log1p(-margin)
    return math.ceil(max(by_variance, with_no_change))


def chance_of_confirming(
    gained: int, lost: int, items: int, *, others: int, margin: float, confidence: float
) -> float:
    """Return how likely a test on other items certifies `margin`, after what these have shown.

    Args:
        gained: items that only the candidate answers right.
        lost: items that only the baseline answers right.
        items: that it was looked at with, > 0.
        others: that the test will have, > 0.
        margin: largest acceptable loss, in (0, 1).
        confidence: of the test, in (0.5, 1).

    Source: predictive power with a flat prior, Spiegelhalter, Freedman and Blackburn 1986,
    Controlled Clinical Trials 7, 8-17; differs: one more change is counted than was seen, so that
    no change among few items is not taken for certainty.
    """
    difference = (gained - lost) / items
    least = 1.0 / (items + 1)  # reached from above where every item changed the same way
    variance = max(least, (gained + lost + 1) * least - difference * difference)
    error = math.sqrt(variance / items)
    return chance_by_error(
        difference, error, items, others=others, margin=margin, confidence=confidence
    )


def chance_by_error(
    difference: float, error: float, items: int, *, others: int, margin: float, confidence: float
) -> float:
    """Return how likely a test on other items certifies `margin`, after a difference was found.

    Args:
        difference: that was found.
        error: its standard error, > 0.
        items: that it was looked at with, > 0.
        others: that the test will have, > 0.
        margin: largest acceptable loss, in (0, 1).
        confidence: of the test, in (0.5, 1).

    Source: as for `chance_of_confirming`.
    """
    unknown = error * math.sqrt(items / others)
    room = difference + margin - float(special.ndtri(confidence)) * unknown
    return float(special.ndtr(room / math.hypot(error, unknown)))


def paired_ratio(
    baseline: Sequence[float],
    candidate: Sequence[float],
    *,
    confidence: float,
    pair_ratio: float,
    grade: Grade,
    objective: str,
) -> Ratio:
    """Return the energy ratio of interleaved pairs with its interval.

    The interval is Student's t on the mean log-ratio, widened by the factor `pair_ratio` on both
    sides for the part of the sensor's band that does not cancel.

    Args:
        baseline: joules per item of each pair's baseline block, > 0.
        candidate: the same for the candidate, in the same order.
        confidence: two-sided, in (0, 1).
        pair_ratio: largest factor (>= 1) by which the sensor may distort a ratio.
        grade: of both sides.
        objective: "net of idle" or "gross".

    Raises:
        ValueError: fewer than two pairs, unequal lengths, or a value that is not positive.

    Source: t interval of log-ratios, e.g. Georges, Buytaert, Eeckhout 2007 (OOPSLA), sec. 3.
    """
    logs = _log_ratios(baseline, candidate)
    return _ratio_of_logs(
        float(np.mean(logs)),
        logs,
        confidence=confidence,
        pair_ratio=pair_ratio,
        grade=grade,
        objective=objective,
    )


def net_ratio(
    baseline: Sequence[Block],
    candidate: Sequence[Block],
    idle: Sequence[Block],
    *,
    confidence: float,
    pair_ratio: float,
    grade: Grade,
) -> Ratio:
    """Return the ratio of joules above idle, where idle power was watched in every round too.

    With gross joules g and seconds s per item of a block, and idle power p over all idle blocks, it
    is mean(g - p s) of the candidate over that of the baseline. Single blocks may lie below idle.
    The interval is Student's t on what each round adds to the logarithm of the ratio, its idle
    block included: what drift, neighbours and p itself add is in it, and what they add to all
    blocks of a round alike cancels.

    Args:
        baseline: one block of each round.
        candidate: the same, in the same order.
        idle: what was counted while nothing ran in each round; its items do not matter.
        confidence: two-sided, in (0, 1).
        pair_ratio: largest factor (>= 1) by which the sensor may distort a ratio.
        grade: of both sides.

    Raises:
        ValueError: fewer than two rounds, unequal lengths, or means that are not above idle.

    Source: linearised ("delta method") variance of a ratio of means, Cochran 1977, Sampling
    Techniques, ch. 6, of which p is one more mean.
    """
    if not len(baseline) == len(candidate) == len(idle) >= 2:
        raise ValueError("a ratio needs at least two rounds, each with all of its blocks")
    idle_j = np.array([block.reading_j for block in idle])
    idle_s = np.array([block.seconds for block in idle])
    idle_w = np.sum(idle_j) / np.sum(idle_s)
    idle_error_w = (idle_j - idle_w * idle_s) / np.mean(idle_s)
    means, influences = zip(
        *(_above_idle(blocks, idle_w, idle_error_w) for blocks in (baseline, candidate)),
        strict=True,
    )
    return _ratio_of_logs(
        math.log(means[1] / means[0]),
        influences[1] - influences[0],
        confidence=confidence,
        pair_ratio=pair_ratio,
        grade=grade,
        objective="net of idle",
    )


def quotient(candidate: Ratio, baseline: Ratio) -> Ratio:
    """Return the ratio of two programs that were each compared with the same third one.

    Half-widths add in quadrature on the logarithmic scale; the sensor's part of the band applies
    once, because it speaks of the two programs and not of the one between them.

    Args:
        candidate: candidate over anchor.
        baseline: baseline over anchor.
    """
    value = candidate.value / baseline.value
    half = math.hypot(
        math.log(candidate.sampling_high / candidate.value),
        math.log(baseline.sampling_high / baseline.value),
    )
    band = max(r.high / r.sampling_high for r in (candidate, baseline))
    return Ratio(
        value=value,
        low=value * math.exp(-half) / band,
        high=value * math.exp(half) * band,
        sampling_low=value * math.exp(-half),
        sampling_high=value * math.exp(half),
        confidence=candidate.confidence,
        pairs=min(candidate.pairs, baseline.pairs),
        grade=candidate.grade,
        objective=candidate.objective,
    )


def _above_idle(
    blocks: Sequence[Block], idle_w: float, idle_error_w: Floats
) -> tuple[float, Floats]:
    """Return mean joules per item above idle, and what each round adds to its logarithm."""
    seconds = np.array([block.seconds / block.items for block in blocks])
    joules = np.array([block.reading_j / block.items for block in blocks]) - idle_w * seconds
    mean = float(np.mean(joules))
    if mean <= 0:
        raise ValueError("mean joules per item must lie above idle")
    return mean, (joules - mean - np.mean(seconds) * idle_error_w) / mean


def _ratio_of_logs(
    center: float,
    logs: Floats,
    *,
    confidence: float,
    pair_ratio: float,
    grade: Grade,
    objective: str,
) -> Ratio:
    """Return the ratio whose logarithm is `center` and varies as the mean of `logs` does."""
    error = float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
    half = min(float(special.stdtrit(len(logs) - 1, 0.5 + confidence / 2.0)) * error, WIDEST_LOG)
    return Ratio(
        value=math.exp(center),
        low=math.exp(center - half) / pair_ratio,
        high=math.exp(center + half) * pair_ratio,
        sampling_low=math.exp(center - half),
        sampling_high=math.exp(center + half),
        confidence=confidence,
        pairs=len(logs),
        grade=grade,
        objective=objective,
    )


def _log_ratios(baseline: Sequence[float], candidate: Sequence[float]) -> Floats:
    if len(baseline) != len(candidate) or len(baseline) < 2:
        raise ValueError("a ratio needs at least two pairs of blocks")
    both = np.array([baseline, candidate], dtype=float)
    if not np.all(both > 0):
        raise ValueError("joules per item must be positive in every block")
    return np.asarray(np.log(both[1] / both[0]))
