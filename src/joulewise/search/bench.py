"""Try one recipe: cheap rejections first, full measurement only for survivors."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from joulewise.compress.process import Tell, Workshop
from joulewise.core.claim import Difference, Quality, Ratio, Trial
from joulewise.core.energy import Measurement
from joulewise.core.errors import InputError, PassError, ProgramError, SensorError
from joulewise.core.profile import Profile
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.settings import Settings
from joulewise.core.statistics import is_inferior, items_needed, lower_bound
from joulewise.export.process import ProgramProcess
from joulewise.export.program import Array
from joulewise.meter.bill import Bill
from joulewise.meter.interleave import Plan, interleave, ratio_of
from joulewise.search.profiles import profile_of
from joulewise.search.session import Session
from joulewise.search.why import explain_cost, explain_threads, runs_on_other_threads

__all__ = ["Bench", "Tried", "foreseen_bound"]

QUICK_ITEMS = 512
"""Items of the search split on which a candidate must not be clearly inferior."""

QUICK_PLAN = Plan(rounds=2, block_s=0.1, warm_up_s=0.4)
FULL_PLAN = Plan(rounds=6, block_s=0.2, warm_up_s=0.4)

REASON_CHARACTERS = 200

LITTLE = 0.8
"""A ratio to the best so far from which one asks why no more is saved."""

HOPELESS = 1.15
"""A quick ratio to the best so far above which full measurement is not worth its joules."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What a trial has found out so far."""

    quality: Quality | None = None
    difference: Difference | None = None
    ratio: Ratio | None = None
    measurement: Measurement | None = None
    rejected: str | None = None
    profile: Profile | None = None
    cause: str | None = None


class Bench:
    """Tries recipes against one anchor program that stays open.

    Args:
        session: the job, the terms and the machine.
        anchor: the open anchor program.
        tell: told of the progress of steps that report it.
        workshop: where steps are applied; None makes one for each.
    """

    def __init__(
        self,
        session: Session,
        anchor: ProgramProcess,
        tell: Tell | None = None,
        workshop: Workshop | None = None,
    ) -> None:
        self.session = session
        self.anchor = anchor
        self.tell = tell
        self.workshop = workshop
        self._originals: dict[RunSettings, Profile | None] = {}

    def try_recipe(
        self,
        recipe: Recipe,
        best_ratio: float | None,
        bill: Bill,
        training_s: float | None = None,
        limit_s: float = math.inf,
    ) -> Trial:
        """Return the trial of `recipe`; a recipe that fails gives a failed trial, not an error.

        Args:
            recipe: what to try.
            best_ratio: lowest ratio to the anchor among the lossless trials, None while those run.
            bill: what the trial costs is read from its meter.
            training_s: longest time that training can pay for, s; None where that is not known.
            limit_s: longest time that each step may take, s.

        Raises:
            TimeoutError: a step took longer than `limit_s`.
            SensorError: the meter failed.
            ProgramError: the anchor has ended, so that nothing can be compared with it any more.
        """
        before, made, size_bytes = bill.meter.read(), None, None
        try:
            size_bytes = self.session.make(
                recipe, self.tell, training_s, limit_s, self.workshop
            ).size_bytes
            made = bill.meter.read()
            tried = self._too_large(recipe, size_bytes) or self._measure(
                recipe, self.session.main_file(recipe), best_ratio
            )
            tried = self._explained(recipe, tried, best_ratio)
            state, reason = ("rejected", tried.rejected) if tried.rejected else ("measured", None)
        except (PassError, ProgramError, InputError, SensorError) as error:
            self._check_anchor(error)
            if isinstance(error, SensorError):
                raise
            tried, state, reason = Tried(), "failed", self._short(error)
        after = bill.meter.read()
        made = made or after
        return Trial(
            recipe=recipe,
            state=state,
            reason=reason,
            cause=tried.cause,
            ratio=tried.ratio,
            quality=tried.quality,
            difference=tried.difference,
            measurement=tried.measurement,
            size_bytes=size_bytes,
            cost_j=bill.interval(before, after),
            seconds=after.time_s - before.time_s,
            made_j=bill.interval(before, made),
            made_s=made.time_s - before.time_s,
            profile=tried.profile,
        )

    def _check_anchor(self, error: Exception) -> None:
        """Raise where a trial came to nothing because the anchor ended, not by its own fault."""
        if not self.anchor.alive:
            raise ProgramError(
                f"the program that all are compared with is gone ({error}); go on with --resume"
            ) from error

    def _too_large(self, recipe: Recipe, size_bytes: int) -> Tried | None:
        limit = self.session.workload.usage.size_bytes
        if recipe.lossless or limit is None or size_bytes <= limit:
            return None
        return Tried(rejected=f"{size_bytes / 1e6:.3g} MB is above {limit / 1e6:g} MB")

    def _measure(self, recipe: Recipe, path: Path, best_ratio: float | None) -> Tried:
        usage = self.session.workload.usage
        with ProgramProcess(
            path, recipe.run, self.session.workload.search, usage.batch_items
        ) as program:
            tried = self._quick(recipe, program, best_ratio)
            if tried.rejected:
                return tried
            if not recipe.lossless:
                quality, difference = self.session.judge.compare(self._answers(program, None))
                tried = replace(tried, quality=quality, difference=difference)
                least = self.session.workload.usage.quality
                if least is not None and quality.value < least:
                    words = f"quality {100 * quality.value:.2f} % is below {100 * least:g} %"
                    return replace(tried, rejected=words)
                if difference.harmed:
                    return replace(tried, rejected=_slice_reason(difference, self.session.settings))
                bound = foreseen_bound(difference, self.session.workload.hold_out.items)
                if bound <= -self.session.settings.margin:
                    words = f"bound to be expected {100 * bound:+.2f}"
                    reason = _quality_reason(difference, words, self.session.settings.margin)
                    return replace(tried, rejected=reason)
            taken = self._interleaved(program, FULL_PLAN)
            tried = self._with_energy(tried, taken)
            if runs_on_other_threads(recipe, self.session.anchor):
                tried = replace(tried, cause=explain_threads(taken["candidate"], taken["anchor"]))
            return replace(tried, rejected=self._too_late(tried.measurement))

    def _explained(self, recipe: Recipe, tried: Tried, best_ratio: float | None) -> Tried:
        """Return what was tried, with where its time goes and why if it saves little or nothing."""
        if recipe.lossless or tried.ratio is None or best_ratio is None:
            return tried
        saved_ratio = tried.ratio.value / best_ratio
        if saved_ratio < LITTLE:
            return tried
        profile, original = profile_of(self.session, recipe), self.profile_of_original(recipe.run)
        if profile is None or original is None:
            return tried
        loses, host = saved_ratio >= 1, self.session.host
        cause = explain_cost(recipe, profile, original, host, loses=loses)
        return replace(tried, profile=profile, cause=cause)

    def profile_of_original(self, run: RunSettings) -> Profile | None:
        """Return the profile of the original, run as a candidate is but in f32; taken once.

        Args:
            run: settings of the candidate.
        """
        run = replace(run, precision=run.precision and "f32")
        if run not in self._originals:
            self._originals[run] = profile_of(self.session, Recipe(run=run))
        return self._originals[run]

    def _quick(self, recipe: Recipe, program: ProgramProcess, best_ratio: float | None) -> Tried:
        outputs = self._answers(program, QUICK_ITEMS)
        quality, difference = self.session.judge.compare(outputs)
        tried = Tried(quality=quality, difference=difference)
        if recipe.lossless:
            if not self.session.judge.same_answers(outputs):
                return replace(tried, rejected="answers differ from the original's")
            tried = replace(tried, quality=self.session.judge.quality_of_original)
        if self._is_hopeless(difference):
            margin = self.session.settings.margin
            words = f"bound {100 * difference.lower:+.2f}"
            return replace(tried, rejected=_quality_reason(difference, words, margin))
        if best_ratio is None:
            return tried
        tried = self._with_energy(tried, self._interleaved(program, QUICK_PLAN))
        if tried.ratio and tried.ratio.value > HOPELESS * best_ratio:
            times = tried.ratio.value / best_ratio
            return replace(
                tried, rejected=f"needs {times:.2f} x the joules of the strongest lossless way"
            )
        return tried

    def _is_hopeless(self, found: Difference) -> bool:
        margin, confidence = self.session.settings.margin, found.confidence
        if found.counts is None:
            return found.upper < -margin
        return is_inferior(*found.counts, found.items, margin, confidence)

    def _with_energy(self, tried: Tried, taken: Mapping[str, Measurement]) -> Tried:
        ratio = ratio_of(taken["anchor"], taken["candidate"], self.session.judge.confidence)
        return replace(tried, ratio=ratio, measurement=taken["candidate"])

    def _too_late(self, measurement: Measurement | None) -> str | None:
        limit_s = self.session.workload.usage.latency_p95_s
        p95_s = None if measurement is None else measurement.latency_p95_s
        if limit_s is None or p95_s is None or p95_s <= limit_s:
            return None
        return f"p95 latency {1e3 * p95_s:.3g} ms is above {1e3 * limit_s:.3g} ms"

    def _interleaved(self, program: ProgramProcess, plan: Plan) -> Mapping[str, Measurement]:
        return interleave(
            {"anchor": self.anchor, "candidate": program}, self.session.open_meter, plan
        )

    def _short(self, error: Exception) -> str:
        """Return the error without this run's folders, in at most REASON_CHARACTERS."""
        words = str(error).replace(f"{self.session.folder.absolute()}/", "")
        return words if len(words) <= REASON_CHARACTERS else f"{words[:REASON_CHARACTERS]}…"

    def _answers(self, program: ProgramProcess, limit: int | None) -> list[Array]:
        folder = self.session.folder / "answers"
        shutil.rmtree(folder, ignore_errors=True)
        return program.predict(self.session.workload.search, folder, limit)


def foreseen_bound(found: Difference, items: int) -> float:
    """Return the lower bound of the difference that `items` others give, if they are as these are.

    A candidate is worth the final test where that would hold. Its own bound on the search items
    asks for more than the hold-out does, which is larger; an estimate alone asks for less.

    Args:
        found: on the search items.
        items: of the hold-out. A bound from a bootstrap lies nearer to the value by the square root
            of how many times more these are.
    """
    if found.counts is None:
        return found.value - (found.value - found.lower) * math.sqrt(found.items / items)
    gained, lost = (round(count * items / found.items) for count in found.counts)
    return lower_bound(gained, min(lost, items - gained), items, found.confidence)


def _slice_reason(difference: Difference, settings: Settings) -> str:
    worst = difference.harmed[0]
    return (
        f"quality in slice {worst.name} {100 * worst.value:+.1f} points on {worst.items} items; "
        f"none may certainly lose more than {100 * settings.slice_margin:g}"
    )


def _quality_reason(difference: Difference, bound: str, margin: float) -> str:
    found = (
        f"quality {100 * difference.value:+.2f} points ({bound}) on {difference.items} items is "
        f"not within the margin of {100 * margin:g}"
    )
    if difference.value <= -margin:
        return found
    changed_ratio = _changed_ratio(difference)
    needed = items_needed(margin, difference.value, changed_ratio, difference.confidence)
    return f"{found}; about {needed:,} items would decide it"


def _changed_ratio(found: Difference) -> float:
    """Return the fraction of items that only one of the two answers right.

    Where the metric is of all items together, it is the fraction that would vary it as much.
    """
    if found.counts is None:
        return (found.error or 0.0) ** 2 * found.items + found.value**2
    return sum(found.counts) / found.items
