"""What a run may still cost, so that it ends in time with the best that it has found."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from joulewise.core.claim import Trial
from joulewise.core.settings import Budget
from joulewise.meter.bill import Bill
from joulewise.search.structure import teaches as is_taught

__all__ = ["Allowance", "BudgetEndedError"]

USUAL_S = 5.0
"""Time of a trial before any was finished, s."""

LEAST_TEACHING_S = 60.0
"""Time without which it makes no sense to begin teaching a model, s: a judgement."""

Keep = Callable[[Trial], float]
"""From the trial of the model as found, the time that the final test will take, s."""


class BudgetEndedError(Exception):
    """There is not enough left for what was to be done next."""


class Allowance:
    """The budget of one run.

    Args:
        budget: what the run may cost.
        bill: what it has cost.
        keep: tells what has to be left for the final test.
        began_s: when the run began, on the clock.
        clock: seconds that only go up; another one in tests.
    """

    def __init__(
        self,
        budget: Budget,
        bill: Bill,
        keep: Keep,
        began_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget, self._bill, self._keep = budget, bill, keep
        self._began_s, self._clock = began_s, clock

    @property
    def left_s(self) -> float:
        """Seconds that are left, at the mean power so far; infinite without a budget."""
        return self._left_s(1)

    def _left_s(self, at_once: int) -> float:
        left_s, budget = math.inf, self._budget
        if budget.max_s is not None:
            left_s = budget.max_s - (self._clock() - self._began_s)
        if budget.max_j is not None and self._bill.mean_w > 0:
            spend_w = at_once * self._bill.mean_w
            left_s = min(left_s, (budget.max_j - self._bill.spent_j) / spend_w)
        return left_s

    def for_trial(self, trials: Sequence[Trial], *, teaches: bool, at_once: int = 1) -> float:
        """Return how long the steps of the next trial may take, s; infinite without a budget.

        Args:
            trials: that were finished; the first is the model as found.
            teaches: whether it trains.
            at_once: machines that spend joules at the same time.

        Raises:
            BudgetEndedError: it should not be begun.
        """
        if not trials:
            return self._left_s(at_once)
        usual_s = max(
            [USUAL_S, *((trial.seconds or 0.0) - (trial.made_s or 0.0) for trial in trials)]
        )
        made_s = max([0.0, *(t.made_s or 0.0 for t in trials if not is_taught(t.recipe))])
        found_s = self._left_s(at_once) - self._keep(trials[0]) - usual_s
        if found_s <= (LEAST_TEACHING_S if teaches else made_s):
            raise BudgetEndedError
        return found_s
