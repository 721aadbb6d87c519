"""When a comparison may end, and how wide its interval must be for having looked repeatedly.

Why this way: whoever looks at a 95 % interval again and again, and stops when it pleases, is
wrong in more than 5 % of all cases. Here the rounds after which one looks are fixed beforehand
and the error is divided among them (Bonferroni), so the interval at whichever look ends the
comparison keeps its confidence, for any rule of stopping. The rule itself sees only how wide the
interval is, never on which side of 1 it lies.

Source: Georges, Buytaert, Eeckhout 2007 (OOPSLA), sec. 3 (stop by width); Jennison and Turnbull
2000, Group Sequential Methods, ch. 7 (spending the error over looks).
"""

from __future__ import annotations

from collections.abc import Iterable

from joulewise.core.claim import Ratio

__all__ = ["FEWEST_ROUNDS", "LOOKS", "half_width", "is_narrow", "look_confidence", "looks_up_to"]

LOOKS = (5, 8, 12, 18, 30)
"""Rounds after which one looks; about a factor of 1.5 apart (judgement)."""

FEWEST_ROUNDS = LOOKS[0]

GROWTH = 1.5
"""Beyond LOOKS the next look comes at this times the rounds of the last."""


def looks_up_to(max_rounds: int) -> tuple[int, ...]:
    """Return the rounds after which one looks; the last is `max_rounds`.

    Args:
        max_rounds: >= FEWEST_ROUNDS.
    """
    looks = list(LOOKS)
    while looks[-1] < max_rounds:
        looks.append(round(looks[-1] * GROWTH))
    return (*(look for look in looks if look < max_rounds), max_rounds)


def look_confidence(confidence: float, looks: int, ratios: int) -> float:
    """Return the confidence of each interval at each look, so that all of them hold together.

    Args:
        confidence: that all intervals hold at whichever look is the last, in (0, 1).
        looks: how many there may be, >= 1.
        ratios: how many intervals there are, >= 1.
    """
    return 1.0 - (1.0 - confidence) / (looks * ratios)


def half_width(ratio: Ratio) -> float:
    """Return how far run-to-run variation may move the ratio up, as a fraction of it."""
    return ratio.sampling_high / ratio.value - 1.0


def is_narrow(ratios: Iterable[Ratio], precision_ratio: float) -> bool:
    """Tell whether every ratio is known to `precision_ratio`, as a fraction of it."""
    return all(half_width(ratio) <= precision_ratio for ratio in ratios)
