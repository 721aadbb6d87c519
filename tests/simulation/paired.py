"""Many paired tests of quality at once: counts are drawn, and each is decided as a proof does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from joulewise.core.statistics import noninferiority_p_value

Counts = NDArray[np.int64]

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What two programs are really like.

    Args:
        difference: of the shares that they answer right, candidate - baseline.
        changes: share of items that only one of them answers right, >= |difference|.
    """

    difference: float
    changes: float

    def draw(self, random: np.random.Generator, items: int, runs: int) -> tuple[Counts, Counts]:
        """Return gained and lost of `runs` tests with so many items, each int64 [runs]."""
        gains, losses = (self.changes + sign * self.difference for sign in (1, -1))
        shares = [gains / 2, losses / 2, 1 - self.changes]
        gained, lost, _ = random.multinomial(items, shares, size=runs).T
        return gained, lost


@dataclass(frozen=True, kw_only=True)
class Test:
    """One paired test; decisions are kept, as drawn counts are often the same.

    Args:
        items: held out.
        margin: largest acceptable loss, as a fraction.
        needed: changed -> fewest gains among them that certify, one more if none does.
    """

    __test__ = False  # pytest takes it for a class of tests

    items: int
    margin: float
    needed: dict[int, int] = field(default_factory=dict)

    def certified(self, gained: Counts, lost: Counts) -> NDArray[np.bool_]:
        """Return which counts certify the margin, bool [runs]."""
        changed = gained + lost
        for count in np.unique(changed).tolist():
            self.needed.setdefault(count, self._fewest_gains(count))
        return np.array([self.needed[count] for count in changed.tolist()]) <= gained

    def _fewest_gains(self, changed: int) -> int:
        """Return the fewest gains that certify; the p-value falls with them.

        The walk begins where one change less ended, or at a guess by the normal approximation.
        """
        guess = (changed - self.items * self.margin + 1.645 * math.sqrt(changed)) / 2
        gains = self.needed.get(changed - 1, round(guess))
        gains = min(max(gains, 0), changed)
        while gains <= changed and not self._certifies(gains, changed - gains):
            gains += 1
        while gains > 0 and self._certifies(gains - 1, changed - gains + 1):
            gains -= 1
        return gains

    def _certifies(self, gained: int, lost: int) -> bool:
        p_value = noninferiority_p_value(gained, lost, self.items, self.margin)
        return bool(p_value <= 1 - CONFIDENCE)
