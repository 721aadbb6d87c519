"""Run the study: lossless levers first, then what changes the model, each once."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

from joulewise.compress.process import Tell, Workshop
from joulewise.core.claim import Trial
from joulewise.core.errors import PassError, ProgramError, SensorError
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.records import dump, load
from joulewise.export.process import ProgramProcess
from joulewise.meter.bill import Bill
from joulewise.search.allowance import Allowance, BudgetEndedError
from joulewise.search.bench import Bench
from joulewise.search.choose import best_lossless, best_runs, chance
from joulewise.search.group_costs import group_costs
from joulewise.search.nodes import Asked, Nodes
from joulewise.search.sampling import SAMPLERS, survey
from joulewise.search.session import Session
from joulewise.search.space import changed_recipes, converted_recipes, lossless_recipes
from joulewise.search.structure import (
    cascade_recipes,
    post_training,
    taught_steps,
    teaches,
    try_cascades,
    try_structures,
)
from joulewise.search.study import Study
from joulewise.search.surrogate import Surrogate, ratios_of_runtimes
from joulewise.search.unfinished import Unfinished

__all__ = ["Announce", "Searched", "check_runnable", "search"]

EXPORT_S = 5.0
"""What a step that trains may need when the training is over, s: a judgement."""

SURE = 0.95
"""Chance of passing the final test from which a cascade need not pass on more."""

PROPOSE = SAMPLERS["model"]
"""The sampler that found the cheapest in fewest tries on the recorded spaces
(`benchmarks/spaces.py`)."""

Announce = Callable[[int, int, Recipe, Trial | None], None]
"""Called with number, total, recipe and, once it is finished, the trial."""

Say = Callable[[Recipe, Trial | None], None]
"""The same without the number and the total."""


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search has tried.

    Args:
        trials: in their order, the model as found first.
        ended_by: what ended it before all was tried, "the budget" or "Ctrl-C"; else None.
    """

    trials: tuple[Trial, ...]
    ended_by: str | None


def search(
    session: Session,
    bill: Bill,
    announce: Announce,
    tell: Tell | None = None,
    allowance: Allowance | None = None,
    study_url: str | None = None,
    nodes: Nodes | None = None,
) -> Searched:
    """Try recipes until all were tried, the budget ends, or the user has seen enough.

    Ctrl-C ends the search once a changed model was tried; before, it is passed on.

    Args:
        session: the job, the terms and the machine. Finished trials that are found in its
            folder are not repeated.
        bill: gets the cost of every trial: "baseline" for lossless ones, "trials" for others,
            "training" for making those that were trained, "calibration" for making those that were
            not, and "interrupted" for what did not come to its end, in this run or before.
        announce: told before and after every trial.
        tell: told of the progress of steps that report it.
        allowance: ends the search early; None lets it try everything.
        study_url: of the database server that keeps the trials; None for a file in the folder.
        nodes: machines that try recipes too; None tries all of them here.

    Raises:
        ProgramError: the original itself cannot be run, or not within the terms.
        InputError: the folder holds the study of another job, machine or version.
        UsageError, MissingExtraError: `study_url` cannot be used.
    """
    workload, sensor = session.workload, bill.meter.sensor
    identity = session.identity(f"{sensor.name}, {sensor.source}")  # calibrated since, or not
    study = Study(session.folder, identity, study_url)
    with (
        ProgramProcess(
            workload.model.path, session.anchor.run, workload.search, workload.usage.batch_items
        ) as program,
        Workshop() as workshop,
    ):
        unfinished = Unfinished(session.folder, bill, study.has)

        def told(share: float, words: str) -> None:
            unfinished.note()
            if tell is not None:
                tell(share, words)

        attempt = _Attempt(
            bench=Bench(session, program, told, workshop),
            study=study,
            bill=bill,
            announce=announce,
            allowance=allowance,
            unfinished=unfinished,
            nodes=nodes,
        )
        ended_by = None
        try:
            _try_everything(attempt)
        except BudgetEndedError:
            ended_by = "the budget"
        except KeyboardInterrupt:
            if all(trial.recipe.lossless for trial in attempt.trials):
                raise
            ended_by = "Ctrl-C"
        check_runnable(attempt.trials)
        study.write_file()
        return Searched(trials=tuple(attempt.trials), ended_by=ended_by)


def _try_everything(attempt: _Attempt) -> None:
    """Try what costs nothing to make, then int8, then smaller models."""
    session = attempt.bench.session
    workload, trials = session.workload, attempt.trials
    attempt.all(lossless_recipes(session.runtimes, session.host.logical_cpus), None)
    check_runnable(trials)
    if session.settings.lossless_only:
        return
    strongest = best_lossless(trials).ratio
    best_ratio = None if strongest is None else strongest.value
    attempt.all(converted_recipes(session.runtimes, session.host.logical_cpus), best_ratio)
    best = best_runs(trials)
    inputs = [tensor.name for tensor in workload.model.inputs]
    changed = changed_recipes(workload.model.operators, best, session.host, inputs)
    attempt.all(_surrogate(attempt, best).first(changed), best_ratio)
    if workload.train is not None:
        try:
            _try_smaller(attempt, best, best_ratio)
        except BudgetEndedError:  # another training does not fit; what trains nothing may
            _try_proposals(attempt, best_ratio)
            raise
    _try_proposals(attempt, best_ratio)


def _surrogate(attempt: _Attempt, best: Mapping[str, RunSettings]) -> Surrogate:
    """Measure where the time of the original's calls goes, so that the most promising is first."""
    attempt.allowed_s(teaches=False)
    with attempt.bill.stage("preparation"):
        taken = {name: attempt.bench.profile_of_original(run) for name, run in best.items()}
    return Surrogate(
        ratios=ratios_of_runtimes(attempt.trials),
        profiles={name: profile for name, profile in taken.items() if profile is not None},
        host=attempt.bench.session.host,
    )


def _try_smaller(
    attempt: _Attempt, best: Mapping[str, RunSettings], best_ratio: float | None
) -> None:
    """Try smaller models that are taught, and cascades that begin with one."""
    before = tuple(attempt.trials)

    def one(recipe: Recipe) -> Trial:
        attempt.all([recipe], best_ratio)
        return attempt.trials[-1]

    session, run = attempt.bench.session, best_lossless(before).recipe.run
    prune, distill = taught_steps(session.settings, session.host, session.workload.model.operators)

    def prune_for(body: tuple[Step, ...]) -> Step:
        attempt.allowed_s(teaches=True)
        with attempt.bill.stage("trials"):
            costs = _kept_costs(session, Recipe(steps=body, run=run), prune)
        return replace(prune, parameters={**prune.parameters, "costs": costs})

    ways = post_training(before, best)
    try_structures(one, ways, prune_for, distill)
    if session.judge.task.of_classes:  # only classes have scores that tell when to ask another
        recipes = cascade_recipes(attempt.trials[len(before) :], ways)
        try_cascades(one, recipes, partial(_is_sure, session=session))


def _try_proposals(attempt: _Attempt, best_ratio: float | None) -> None:
    """Try what the sampler proposes, with other values for the parameters of what was tried.

    It proposes as many at once as there are machines, learns from all of them afterwards, and ends
    where nothing is worth a try any more.
    """
    settings = attempt.bench.session.settings
    at_once = max(1, len(attempt.nodes or ()))
    for first in range(0, settings.proposals, at_once):
        tried, untried = survey(attempt.trials)
        recipes = []
        for number in range(first, min(first + at_once, settings.proposals, first + len(untried))):
            point = PROPOSE(untried, tried, settings.margin, settings.seed + number)
            if point is None:
                break
            untried.remove(point)
            recipes.append(point.recipe)
        if not recipes:
            return
        attempt.all(recipes, best_ratio)


def _is_sure(trial: Trial, session: Session) -> bool:
    settings, items = session.settings, session.workload.hold_out.items
    return chance(trial, settings.margin, settings.confidence, items) >= SURE


def _kept_costs(session: Session, recipe: Recipe, prune: Step) -> str:
    """Return what groups of channels cost, as first measured: recipes hold it, and are kept."""
    file = session.folder / f"group-costs-{recipe.steps_key}.json"
    if not file.exists():
        try:
            found = group_costs(session, recipe, int(prune.parameters["align"]))
        except (PassError, ProgramError, SensorError):  # they order what goes, no more
            found = ()
        dump(_GroupCosts(thousandths=found), file)
    return " ".join(map(str, load(_GroupCosts, file).thousandths))


@dataclass(frozen=True, kw_only=True)
class _GroupCosts:
    """What each group of channels costs, in thousandths of the joules of the model."""

    thousandths: tuple[int, ...]


def check_runnable(lossless: Sequence[Trial]) -> None:
    """Raise unless the model as found, and at least one way to run it, can be compared with."""
    as_found = lossless[0]
    if as_found.state == "failed":
        raise ProgramError(f"the model cannot be run as it is: {as_found.reason}")
    if as_found.ratio is None:
        raise ProgramError(
            "the model answers the same items differently each time, so nothing can be compared "
            "with it; export it without random operators"
        )
    if not any(trial.state == "measured" for trial in lossless):
        raise ProgramError(f"no way to run the model will do; as it is, {as_found.reason}")


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """Tries recipes one after the other, and keeps their trials."""

    bench: Bench
    study: Study
    bill: Bill
    announce: Announce
    allowance: Allowance | None
    unfinished: Unfinished
    nodes: Nodes | None = None
    trials: list[Trial] = field(default_factory=list)

    def all(self, recipes: Sequence[Recipe], best_ratio: float | None) -> None:
        """Try every recipe; raises BudgetEndedError where there is not enough left for one.

        Their trials are kept in the order of `recipes`, whichever ends first.
        """
        start = len(self.trials)
        total = start + len(recipes)
        places = {recipe.key: number for number, recipe in enumerate(recipes, start + 1)}

        def say(recipe: Recipe, trial: Trial | None) -> None:
            self.announce(places[recipe.key], total, recipe, trial)

        elsewhere = self.nodes is not None and len(recipes) > 1
        tries = self._on_nodes if elsewhere else self._here
        try:
            with closing(tries(recipes, best_ratio, say)) as found:
                for trial in found:
                    self.trials.append(trial)
                    say(trial.recipe, trial)
                    self._charge(trial)
        finally:
            self.trials[start:] = sorted(self.trials[start:], key=lambda t: places[t.recipe.key])

    def allowed_s(self, *, teaches: bool, at_once: int = 1) -> float:
        """Return how long the steps of the next trial may take; raises BudgetEndedError."""
        if self.allowance is None:
            return math.inf
        return self.allowance.for_trial(self.trials, teaches=teaches, at_once=at_once)

    def _here(
        self, recipes: Sequence[Recipe], best_ratio: float | None, say: Say
    ) -> Generator[Trial, None, None]:
        """Yield the trial of every recipe, made before or now on this machine."""
        for recipe in recipes:
            trial = self.study.finished(recipe)
            if trial is None:
                limit_s = self.allowed_s(teaches=teaches(recipe))
                say(recipe, None)
                trial = self._one(recipe, best_ratio, limit_s)
            yield trial

    def _on_nodes(
        self, recipes: Sequence[Recipe], best_ratio: float | None, say: Say
    ) -> Generator[Trial, None, None]:
        """Yield trials as they end on the nodes; only this process writes them to the study.

        The model as found is tried here, and so is what no node is left for.
        """
        nodes = cast("Nodes", self.nodes)
        first = 0 if self.trials else 1
        yield from self._here(recipes[:first], best_ratio, say)
        fresh = {recipe.key: recipe for recipe in recipes[first:]}
        for trial in filter(None, map(self.study.finished, recipes[first:])):
            del fresh[trial.recipe.key]
            yield trial
        begun: dict[str, Any] = {}

        def ask(recipe: Recipe) -> Asked:
            taught = teaches(recipe)
            limit_s = self.allowed_s(teaches=taught, at_once=len(nodes))
            if recipe.key not in begun:  # else its worker died
                say(recipe, None)
                begun[recipe.key] = self.study.begin(recipe)
            training_s = self._training_s(limit_s) if taught else None
            return Asked(
                recipe=recipe, best_ratio=best_ratio, training_s=training_s, limit_s=limit_s
            )

        with closing(nodes.trials(tuple(fresh.values()), ask, self.unfinished)) as found:
            for trial in found:
                self.study.finish(begun[trial.recipe.key], trial)
                del fresh[trial.recipe.key]
                yield trial
        yield from self._here(tuple(fresh.values()), best_ratio, say)

    def _one(self, recipe: Recipe, best_ratio: float | None, limit_s: float) -> Trial:
        taught = teaches(recipe)
        training_s = self._training_s(limit_s) if taught else None
        begun = self.study.begin(recipe)
        try:
            with self.unfinished.trial(recipe.key):
                trial = self.bench.try_recipe(recipe, best_ratio, self.bill, training_s, limit_s)
                self.study.finish(begun, trial)
        except TimeoutError as error:
            raise BudgetEndedError from error
        return trial

    def _charge(self, trial: Trial) -> None:
        if trial.cost_j is None:
            return
        cost_j, seconds = trial.cost_j, trial.seconds or 0.0
        if trial.made_j is not None and trial.recipe.steps:
            made_s = trial.made_s or 0.0
            cause = "training" if teaches(trial.recipe) else "calibration"
            self.bill.add(cause, trial.made_j, made_s)
            cost_j, seconds = cost_j.less(trial.made_j), seconds - made_s
        self.bill.add("baseline" if trial.recipe.lossless else "trials", cost_j, seconds)

    def _training_s(self, limit_s: float) -> float | None:
        """Return how long training can go on before it costs more than any model can save, s.

        Args:
            limit_s: that it may take at the most.
        """
        longest_s = None if math.isinf(limit_s) else max(0.0, limit_s - EXPORT_S)
        expected = self.bench.session.workload.usage.expected_items
        if expected is None or not self.trials:
            return longest_s
        baseline = best_lossless(self.trials).measurement
        per_item = None if baseline is None else baseline.net_j_per_item
        if per_item is None or not self.bill.mean_w:
            return longest_s
        pays_s = (expected * per_item.central - self.bill.spent_j) / self.bill.mean_w
        return max(0.0, pays_s if longest_s is None else min(longest_s, pays_s))
