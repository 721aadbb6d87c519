"""Run the study: lossless levers first, then what changes the model, each once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from joulewise.compress.process import Tell
from joulewise.core.claim import Trial
from joulewise.core.errors import PassError, ProgramError, SensorError
from joulewise.core.recipe import Recipe, RunSettings, Step
from joulewise.core.records import dump, load
from joulewise.export.process import ProgramProcess
from joulewise.meter.bill import Bill
from joulewise.search.bench import Bench
from joulewise.search.choose import best_lossless, best_runs
from joulewise.search.group_costs import group_costs
from joulewise.search.session import Session
from joulewise.search.space import changed_recipes, lossless_recipes
from joulewise.search.structure import (
    TEACHING,
    cascade_recipes,
    post_training,
    taught_steps,
    try_structures,
)
from joulewise.search.study import Study

__all__ = ["Announce", "search"]

Announce = Callable[[int, int, Recipe, Trial | None], None]
"""Called with number, total, recipe and, once it is finished, the trial."""


def search(
    session: Session, bill: Bill, announce: Announce, tell: Tell | None = None
) -> tuple[Trial, ...]:
    """Return all trials in order, the model as found first.

    Args:
        session: the job, the terms and the machine. Finished trials that are found in its
            folder are not repeated.
        bill: gets the cost of every trial: "baseline" for lossless ones, "trials" for others, and
            "training" for making those that were trained.
        announce: told before and after every trial.
        tell: told of the progress of steps that report it.

    Raises:
        ProgramError: the original itself cannot be run, or not within the terms.
        InputError: the folder holds the study of another job, machine or version.
    """
    cpus, workload = session.host.logical_cpus, session.workload
    sensor = bill.meter.sensor
    identity = session.identity(f"{sensor.name}, {sensor.source}")  # calibrated since, or not
    study = Study(session.folder / "study.db", identity)
    with ProgramProcess(
        workload.model.path, session.anchor.run, workload.search, workload.usage.batch_items
    ) as program:
        attempt = _Attempt(
            bench=Bench(session, program, tell), study=study, bill=bill, announce=announce
        )
        trials = attempt.all(lossless_recipes(session.runtimes, cpus), (), None)
        _check_runnable(trials)
        if session.settings.lossless_only:
            return trials
        strongest = best_lossless(trials).ratio
        best_ratio = None if strongest is None else strongest.value
        best = best_runs(trials)
        inputs = [tensor.name for tensor in workload.model.inputs]
        changed = changed_recipes(workload.model.operators, best, session.host, inputs)
        trials += attempt.all(changed, trials, best_ratio)
        if workload.train is None:
            return trials
        return (*trials, *_smaller(attempt, trials, best, best_ratio))


def _smaller(
    attempt: _Attempt,
    trials: Sequence[Trial],
    best: Mapping[str, RunSettings],
    best_ratio: float | None,
) -> tuple[Trial, ...]:
    """Return the trials of smaller models that were taught, and of cascades that begin with one."""
    made: list[Trial] = []

    def one(recipe: Recipe) -> Trial:
        made.extend(attempt.all([recipe], (*trials, *made), best_ratio))
        return made[-1]

    session, run = attempt.bench.session, best_lossless(trials).recipe.run
    prune, distill = taught_steps(session.settings, session.host, session.workload.model.operators)

    def prune_for(body: tuple[Step, ...]) -> Step:
        with attempt.bill.stage("trials"):
            costs = _kept_costs(session, Recipe(steps=body, run=run), prune)
        return replace(prune, parameters={**prune.parameters, "costs": costs})

    ways = post_training(trials, best)
    try_structures(one, ways, prune_for, distill)
    if session.judge.task.of_classes:  # only classes have scores that tell when to ask another
        for recipe in cascade_recipes(made, ways):
            one(recipe)
    return tuple(made)


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


def _teaches(recipe: Recipe) -> bool:
    return any(step.name in TEACHING for step in recipe.steps)


def _check_runnable(lossless: Sequence[Trial]) -> None:
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
    """Tries recipes one after the other."""

    bench: Bench
    study: Study
    bill: Bill
    announce: Announce

    def all(
        self, recipes: Sequence[Recipe], before: Sequence[Trial], best_ratio: float | None
    ) -> tuple[Trial, ...]:
        total, made = len(before) + len(recipes), []
        for number, recipe in enumerate(recipes, start=len(before) + 1):
            training_s = self._training_s(before) if _teaches(recipe) else None
            made.append(self._one(number, total, recipe, best_ratio, training_s))
        return tuple(made)

    def _one(
        self,
        number: int,
        total: int,
        recipe: Recipe,
        best_ratio: float | None,
        training_s: float | None,
    ) -> Trial:
        trial = self.study.finished(recipe)
        if trial is None:
            self.announce(number, total, recipe, None)
            begun = self.study.begin(recipe)
            trial = self.bench.try_recipe(recipe, best_ratio, self.bill, training_s)
            self.study.finish(begun, trial)
        self.announce(number, total, recipe, trial)
        self._charge(trial)
        return trial

    def _charge(self, trial: Trial) -> None:
        if trial.cost_j is None:
            return
        cost_j, seconds = trial.cost_j, trial.seconds or 0.0
        if trial.made_j is not None and _teaches(trial.recipe):
            made_s = trial.made_s or 0.0
            self.bill.add("training", trial.made_j, made_s)
            cost_j, seconds = cost_j.less(trial.made_j), seconds - made_s
        self.bill.add("baseline" if trial.recipe.lossless else "trials", cost_j, seconds)

    def _training_s(self, before: Sequence[Trial]) -> float | None:
        """Return how long training can go on before it costs more than any model can save, s."""
        expected = self.bench.session.workload.usage.expected_items
        if expected is None or not before:
            return None
        baseline = best_lossless(before).measurement
        per_item = None if baseline is None else baseline.net_j_per_item
        if per_item is None or not self.bill.mean_w:
            return None
        return max(0.0, expected * per_item.central - self.bill.spent_j) / self.bill.mean_w
