"""What a run will probably cost, told before it begins.

Some parts of the run are really done: the original is tried as every recipe will be, one int8 step
is applied for each runtime, and the smaller model of middle width is taught for some seconds. The
rest is arithmetic: so many recipes, each as long as its sample, at as much power. The factors by
which the run may differ from its samples are judgements from the recorded runs, wide where little
is known beforehand; tests hold them against those runs. All that comes out is predicted.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from joulewise.compress.process import Workshop, apply_step
from joulewise.core.claim import Trial
from joulewise.core.energy import Interval, Sensor
from joulewise.core.errors import PassError
from joulewise.core.recipe import Recipe, Step
from joulewise.core.settings import Budget
from joulewise.export.process import ProgramProcess
from joulewise.export.program import RUNTIMES
from joulewise.meter.bill import Bill
from joulewise.meter.interleave import Plan, least_block_s
from joulewise.report import text
from joulewise.search import bench, group_costs, structure
from joulewise.search.choose import MOST_TESTS
from joulewise.search.run import check_runnable
from joulewise.search.session import Session
from joulewise.search.space import (
    CONVERSIONS,
    as_found_recipe,
    changed_recipes,
    converted_recipes,
    lossless_recipes,
)
from joulewise.workload.store import Store, write_store

__all__ = [
    "Counts",
    "Foreseen",
    "Sample",
    "Samples",
    "count",
    "foresee",
    "take_samples",
    "training_s",
]

STEP_S, TEACH_S = 20.0, 20.0
"""Longest time for which one step is applied, and one model taught, in a dry run, s."""

PROGRAMS = 3
"""Programs that are open at the same time in a final test."""

LESSONS, LESSON_EPOCHS = 1024, 1000
"""Items that are taught meanwhile, again and again."""

SAME = Interval(low=0.6, central=1.0, high=2.0)
"""What is done again as it was: the machine may be busier, or less."""

OTHER_RUN = Interval(low=0.6, central=1.0, high=1.6)
"""Trying the original run another way, in parts of the time of the model as found."""

OTHER_MODEL = Interval(low=0.15, central=0.8, high=1.6)
"""Trying a changed model: one that is clearly inferior is rejected after a few batches."""

OTHER_STEP = Interval(low=0.2, central=1.0, high=3.0)
"""Applying a step, in parts of the time of the one that was applied."""

OTHER_WIDTH = Interval(low=0.4, central=1.0, high=2.0)
"""Teaching another width, in parts of the time of the middle one."""

TAUGHT_STEPS = Interval(low=0.0, central=1.0, high=2.0)
"""Conversions of a taught model for one runtime: it is tried as it is, in int8, or both."""

CUT_OFF = Interval(low=1.0, central=4.0, high=40.0)
"""What was ended before it was through, in parts of the time that it got."""

POWER = Interval(low=0.5, central=0.8, high=1.7)
"""Power of a stage, in parts of that of its sample: other programs use other numbers of CPUs."""

MEMORY = Interval(low=0.6, central=1.0, high=2.5)
"""Peak memory, in parts of that of the sampled processes."""

TESTS = Interval(low=0.0, central=1.0, high=MOST_TESTS)
"""Final tests: none where nothing promises to save, else a chain of candidates at the most."""

TEST = Interval(low=0.4, central=0.7, high=1.3)
"""A final test, in parts of the time that is kept for it where there is a budget."""

SCORED_SHARE = 1 / 3
"""Time of an answer in parts of that of learning from an item.

Source: a pass backward takes about two passes forward; Kaplan et al. 2020, arXiv:2001.08361,
section 2.1.
"""

OPENING_S = 1.0
"""What opening a program takes, beside those of the sampled trial, s: a judgement."""


NONE = Interval(low=0.0, central=0.0, high=0.0)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A part of a run that was really done, or what follows from a piece of it.

    Args:
        seconds: that it takes.
        power_w: mean power meanwhile, with the sensor's band.
    """

    seconds: Interval
    power_w: Interval


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How much a run has to do.

    Args:
        lossless: ways to run the original.
        changed: recipes that change it without training.
        proposed: more of these, as long as they promise something.
        steps: runtime -> steps to apply for both.
        trainings: models that are taught.
        taught: trials of them.
        search_items: on which changed models are compared.
    """

    lossless: int
    changed: int = 0
    proposed: Interval = NONE
    steps: Mapping[str, Interval] = field(default_factory=dict)
    trainings: Interval = NONE
    taught: Interval = NONE
    search_items: int = 0

    @property
    def recipes(self) -> Interval:
        """Trials in all."""
        return _sum([_exactly(self.lossless + self.changed), self.proposed, self.taught])


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a dry run has really done.

    Args:
        sensor: that its joules were told by.
        preparation: reading model and data, and the original's answers.
        as_found: trial of the model as found.
        tried: the same as a sample.
        steps: runtime -> a step applied for it.
        body: which of `joulewise.search.structure.BODIES` could be made narrower first, None where
            none can, or nothing is taught.
        taught: one training, None where nothing is taught.
        memory_bytes: peak memory of the processes, added up as they will be open together; None
            where the system does not tell.
    """

    sensor: Sensor
    preparation: Sample
    as_found: Trial
    tried: Sample
    steps: Mapping[str, Sample] = field(default_factory=dict)
    body: int | None = None
    taught: Sample | None = None
    memory_bytes: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """What a run will probably cost. Everything here is predicted.

    Args:
        recipes: that will be tried.
        seconds: of each cause of the ledger, if everything is tried.
        stages_j: joules of each cause, as the run's own sensor will tell them, its band included.
        total_s: time of the run, within the budget.
        total_j: joules of the run, within the budget.
        memory_bytes: peak memory of all processes together, None where it is not known.
        sensor: that the joules of the samples were told by.
        basis: what the figures were derived from.
    """

    recipes: Interval
    seconds: Mapping[str, Interval]
    stages_j: Mapping[str, Interval]
    total_s: Interval
    total_j: Interval
    memory_bytes: Interval | None
    sensor: Sensor
    basis: tuple[str, ...]


# ---------------------------------------------------------------- what is really done

Say = Callable[[str], None]
"""Told what is done."""


def take_samples(session: Session, bill: Bill, say: Say) -> Samples:
    """Do some parts of a run, in its own way.

    Args:
        session: of the run; its folder is written to.
        bill: has the stage "preparation".
        say: told what is done.

    Raises:
        ProgramError: the original cannot be run, or not within the terms.
    """
    workload, as_found = session.workload, as_found_recipe(session.runtimes)
    say("trying the model as found")
    with (
        ProgramProcess(
            workload.model.path, session.anchor.run, workload.search, workload.usage.batch_items
        ) as program,
        _watched(bill) as tried,
    ):
        trial = bench.Bench(session, program).try_recipe(as_found, None, bill)
    check_runnable([trial])
    program_bytes = _peak_bytes(children=True)
    with Workshop() as workshop:
        steps = dict(_steps(session, bill, say, workshop))
        body, taught = _taught(session, bill, say, workshop)
    seconds = bill.seconds["preparation"]
    return Samples(
        sensor=bill.meter.sensor,
        preparation=Sample(
            seconds=_exactly(seconds), power_w=bill.stages_j["preparation"].scaled(1 / seconds)
        ),
        as_found=trial,
        tried=tried[0],
        steps=steps,
        body=body,
        taught=taught,
        memory_bytes=_together(
            _peak_bytes(), program_bytes, _peak_bytes(children=True), taught=taught is not None
        ),
    )


@contextmanager
def _watched(bill: Bill) -> Iterator[list[Sample]]:
    """Give a list that holds the sample of the ``with`` block when that is over."""
    found: list[Sample] = []
    before, began_s = bill.meter.read(), time.monotonic()
    yield found
    seconds = time.monotonic() - began_s
    spent_j = bill.interval(before, bill.meter.read())
    found.append(Sample(seconds=_exactly(seconds), power_w=spent_j.scaled(1 / seconds)))


def _steps(
    session: Session, bill: Bill, say: Say, workshop: Workshop
) -> Iterator[tuple[str, Sample]]:
    """Apply, for each runtime, the first step that a run applies for it."""
    for runtime in session.runtimes:
        recipes = (r for r in _changed(session) if r.steps and r.run.runtime == runtime)
        recipe = next(recipes, None)
        if recipe is None:
            continue
        say(f"applying {recipe.steps[0]}")
        first = replace(recipe, steps=recipe.steps[:1])
        whole = True
        with _watched(bill) as watched:
            try:
                session.make(first, limit_s=STEP_S, workshop=workshop)
            except PassError:
                pass  # so it will fail in the run, after as long
            except TimeoutError:
                whole = False
        found = watched[0]
        seconds = found.seconds if whole else _product(found.seconds, CUT_OFF)
        yield runtime, replace(found, seconds=seconds)


def _taught(
    session: Session, bill: Bill, say: Say, workshop: Workshop
) -> tuple[int | None, Sample | None]:
    """Return the first body that can be made narrower, and what teaching the result takes."""
    train = session.workload.train
    if train is None or session.settings.lossless_only:
        return None, None
    prune, distill = structure.taught_steps(
        session.settings, session.host, session.workload.model.operators
    )
    middle = structure.WIDTHS[len(structure.WIDTHS) // 2]
    prune = replace(prune, parameters={"ratio": middle, **prune.parameters})
    for number, body in enumerate(structure.BODIES):
        say("cutting the model down")
        narrow = Recipe(steps=(*body, prune), run=session.anchor.run)
        try:
            session.make(narrow, limit_s=STEP_S, workshop=workshop)
        except (PassError, TimeoutError):
            continue
        say(f"teaching it for {TEACH_S:g} s at the most")
        with _watched(bill) as watched:
            seconds = _teach(session, narrow, distill, train, workshop)
        return number, replace(watched[0], seconds=seconds)
    return None, None


def _teach(
    session: Session, narrow: Recipe, distill: Step, train: Store, workshop: Workshop
) -> Interval:
    """Teach a narrow model for a while; return how long the whole training will take, s."""
    lessons = min(LESSONS, train.items)
    few = write_store(
        session.folder / "few",
        train.inputs,
        train.dtypes,
        train.labels,
        np.arange(lessons),
        train.targets,
    )
    reports: list[tuple[float, float]] = []

    def told(share: float, words: str) -> None:
        if words.startswith("epoch"):
            reports.append((time.monotonic(), share * LESSON_EPOCHS * lessons))

    again = replace(distill, parameters={**distill.parameters, "epochs": LESSON_EPOCHS})
    material = replace(session.material, train=few, search=None)
    began_s, ended = time.monotonic(), False
    try:
        apply_step(
            again, session.main_file(narrow), material, session.folder / "taught", told, TEACH_S,
            workshop,
        )  # fmt: skip
        ended = True
    except (PassError, TimeoutError):
        pass
    if ended:
        reports.append((time.monotonic(), float(LESSON_EPOCHS * lessons)))
    items = session.settings.epochs * (train.items + SCORED_SHARE * session.workload.search.items)
    return training_s(began_s, reports, items + train.items)


def training_s(began_s: float, reports: Sequence[tuple[float, float]], items: float) -> Interval:
    """Return how long a training takes that learns from so many items, s.

    Args:
        began_s: when the sample of it began, on the clock.
        reports: times on the clock, and the items that it had learnt from by then.
        items: the teacher's answers to all of them and the scores after each epoch included.
    """
    if not reports or not reports[-1][1]:
        return _product(CUT_OFF, _exactly(TEACH_S))
    (first_s, first), (last_s, last) = reports[0], reports[-1]
    if last > first:
        per_item_s, start_s = (last_s - first_s) / (last - first), first_s - began_s
        start_s = max(0.0, start_s - first * per_item_s)
    else:  # all of the time at the most
        per_item_s, start_s = (last_s - began_s) / last, 0.0
    return _exactly(start_s + items * per_item_s)


def _changed(session: Session) -> tuple[Recipe, ...]:
    """Return the recipes without training that the run will try, as far as is known yet."""
    if session.settings.lossless_only:
        return ()
    cpus, model = session.host.logical_cpus, session.workload.model
    converted = converted_recipes(session.runtimes, cpus)
    opened = [name for name in session.runtimes if name not in CONVERSIONS]
    opened += {recipe.run.runtime: None for recipe in converted}
    best = {name: RUNTIMES.load(name)().lossless(cpus)[0] for name in opened}
    inputs = [tensor.name for tensor in model.inputs]
    return (*converted, *changed_recipes(model.operators, best, session.host, inputs))


# ---------------------------------------------------------------- what follows


def count(session: Session, body: int | None) -> Counts:
    """Return how much a run has to do.

    Args:
        session: of the run.
        body: which of `joulewise.search.structure.BODIES` is the first that can be narrower.
    """
    changed = _changed(session)
    applied: Counter[str] = Counter()
    for recipe in changed:
        applied[recipe.run.runtime] += len(recipe.steps)
    most = session.settings.proposals if applied else 0
    each = math.ceil(most / max(1, len(applied)))  # for which of them is not known
    return Counts(
        lossless=len(lossless_recipes(session.runtimes, session.host.logical_cpus)),
        changed=len(changed),
        proposed=Interval(low=0, central=most, high=most),
        steps={
            runtime: Interval(low=steps, central=steps + each, high=steps + each)
            for runtime, steps in applied.items()
        },
        trainings=trainings(body),
        taught=_taught_trials(session, body),
        search_items=session.workload.search.items,
    )


def trainings(body: int | None) -> Interval:
    """Return how many models are taught: as many as halving takes, for one body or for all."""
    if body is None:
        return NONE
    halvings = math.ceil(math.log2(len(structure.WIDTHS) + 1))
    bodies = len(structure.BODIES) - body
    return Interval(low=1, central=halvings, high=halvings * bodies)


def _taught_trials(session: Session, body: int | None) -> Interval:
    """Return how many trials of taught models there are, those that fail to be cut among them."""
    if session.workload.train is None or session.settings.lossless_only:
        return NONE
    ways = Interval(low=1, central=2 * len(session.runtimes), high=2 * len(session.runtimes))
    fails = len(structure.BODIES) if body is None else body
    last = structure.CASCADES if body is not None and session.judge.task.of_classes else 0
    return _sum(
        [
            _product(trainings(body), ways),
            _product(Interval(low=0, central=fails, high=fails), replace(ways, central=1)),
            Interval(low=0, central=last, high=last * len(structure.DEFERRED)),
        ]
    )


def foresee(counts: Counts, samples: Samples, proof_s: float, budget: Budget) -> Foreseen:
    """Return what a run will probably cost.

    Args:
        counts: how much it has to do.
        samples: what parts of it took.
        proof_s: about how long one final test takes, s.
        budget: that ends it.
    """
    seconds = {
        "preparation": _product(samples.preparation.seconds, SAME),
        "baseline": _product(_exactly(counts.lossless), samples.tried.seconds, OTHER_RUN),
        "calibration": _calibration_s(counts, samples),
        "training": _training_stage_s(counts, samples),
        "trials": _trials_s(counts, samples),
        "proof": _product(_exactly(proof_s), TESTS, TEST),
    }
    seconds = {cause: each for cause, each in seconds.items() if each.high > 0}
    power_w = {cause: _product(_power_w(cause, samples), POWER) for cause in seconds}
    stages_j = {cause: _product(each, power_w[cause]) for cause, each in seconds.items()}
    total_s = _sum(seconds.values())
    total_j = _sum(stages_j.values())
    if budget.max_s is not None and budget.max_s < total_s.high:
        total_s = _at_most(total_s, budget.max_s)
        most_w = max(each.high for each in power_w.values())
        total_j = _at_most(total_j, budget.max_s * most_w)
    if budget.max_j is not None:
        total_j = _at_most(total_j, budget.max_j * samples.sensor.high_ratio)
    return Foreseen(
        recipes=counts.recipes,
        seconds=seconds,
        stages_j=stages_j,
        total_s=total_s,
        total_j=total_j,
        memory_bytes=samples.memory_bytes,
        sensor=samples.sensor,
        basis=tuple(_basis(counts, samples, budget)),
    )


def _calibration_s(counts: Counts, samples: Samples) -> Interval:
    each = (
        _product(counts.steps.get(runtime, NONE), sample.seconds, OTHER_STEP)
        for runtime, sample in samples.steps.items()
    )
    return _sum(each)


def _training_stage_s(counts: Counts, samples: Samples) -> Interval:
    """Return the time of teaching models, and of converting them for the runtimes."""
    if samples.taught is None:
        return _exactly(0.0)
    steps = (_product(each.seconds, TAUGHT_STEPS, OTHER_STEP) for each in samples.steps.values())
    one = _sum([_product(samples.taught.seconds, OTHER_WIDTH), *steps])
    return _product(counts.trainings, one)


def _trials_s(counts: Counts, samples: Samples) -> Interval:
    """Return the time of trying changed models, and of measuring groups of channels."""
    taken, sensor = samples.as_found.measurement, samples.sensor
    per_item_s = 0.0 if taken is None else sum(b.seconds for b in taken.blocks) / taken.items
    quick_s = 2 * _program_s(bench.QUICK_PLAN, sensor)
    more = _exactly(quick_s + counts.search_items * per_item_s)
    one = _product(_sum([samples.tried.seconds, more]), OTHER_MODEL)
    tried = _product(_sum([_exactly(counts.changed), counts.proposed, counts.taught]), one)
    if samples.taught is None:
        return tried
    programs = group_costs.MEASURED_GROUPS * (1 + 1 / group_costs.TOGETHER)
    groups_s = programs * (_program_s(group_costs.PLAN, sensor) + OPENING_S)
    return _sum([tried, _product(_exactly(groups_s), OTHER_MODEL)])


def _program_s(plan: Plan, sensor: Sensor) -> float:
    """Return how long one program of an interleaved measurement takes, s."""
    return plan.rounds * max(plan.block_s, least_block_s(sensor)) + plan.warm_up_s


def _power_w(cause: str, samples: Samples) -> Interval:
    """Return the power of what was sampled of a stage, W."""
    steps = [each.power_w for each in samples.steps.values()]
    taught = [] if samples.taught is None else [samples.taught.power_w]
    known = {
        "preparation": [samples.preparation.power_w],
        "calibration": steps,
        "training": taught,
    }
    return _hull(known.get(cause) or [samples.tried.power_w])


def _basis(counts: Counts, samples: Samples, budget: Budget) -> Iterator[str]:
    """Yield what the figures were derived from."""
    sensor, tried = samples.sensor, samples.tried
    told = f"{sensor.name}, {text.grade_word(sensor.grade)}, grade {sensor.grade}"
    yield (
        f"the model as found, tried in {_central_s(tried)} at {tried.power_w.central:.3g} W "
        f"({told}); {counts.lossless} ways to run it and "
        f"{_number(_sum([_exactly(counts.changed), counts.proposed]))} changed models"
    )
    for runtime, sample in samples.steps.items():
        number = _number(counts.steps.get(runtime, NONE))
        yield f"a step for {runtime} in {_central_s(sample)}; {number} steps"
    if samples.taught is not None:
        yield (
            f"a model of middle width, taught for a while: {_central_s(samples.taught)} in all; "
            f"{_number(counts.trainings)} trainings"
        )
    elif samples.body is None and counts.trainings.high == 0:
        yield "no training: there are no items to learn from, or the model cannot be cut down"
    if budget != Budget():
        yield "the budget, which ends the search in time; stages are told as if all is tried"


def _central_s(sample: Sample) -> str:
    return text.seconds(sample.seconds.central)


def _number(count: Interval) -> str:
    """Return how many there are, in words."""
    if count.low == count.high:
        return _whole(count.low)
    return text.span(count, _whole)


def _whole(value: float) -> str:
    return f"{value:.0f}"


# ---------------------------------------------------------------- memory


def _peak_bytes(*, children: bool = False) -> int | None:
    """Return the most memory that this process, or its largest ended child, had resident.

    Source: getrusage(2): kilobytes on Linux, bytes on macOS.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    who = resource.RUSAGE_CHILDREN if children else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _together(
    own: int | None, program: int | None, child: int | None, *, taught: bool
) -> Interval | None:
    """Return the memory of all processes that are open at the same time at the most."""
    if own is None or program is None or child is None:
        return None
    programs = group_costs.TOGETHER + 2 if taught else PROGRAMS
    return _product(_exactly(own + max(programs * program, program + child)), MEMORY)


# ---------------------------------------------------------------- intervals of positive values


def _exactly(value: float) -> Interval:
    return Interval(low=value, central=value, high=value)


def _sum(intervals: Iterable[Interval]) -> Interval:
    """Return the sum, whose bounds are those of parts that err together."""
    found = list(intervals)
    return Interval(
        low=sum(x.low for x in found),
        central=sum(x.central for x in found),
        high=sum(x.high for x in found),
    )


def _product(*intervals: Interval) -> Interval:
    return Interval(
        low=math.prod(x.low for x in intervals),
        central=math.prod(x.central for x in intervals),
        high=math.prod(x.high for x in intervals),
    )


def _hull(intervals: Sequence[Interval]) -> Interval:
    """Return what holds all of them, around their mean."""
    return Interval(
        low=min(x.low for x in intervals),
        central=sum(x.central for x in intervals) / len(intervals),
        high=max(x.high for x in intervals),
    )


def _at_most(interval: Interval, limit: float) -> Interval:
    return Interval(
        low=min(interval.low, limit),
        central=min(interval.central, limit),
        high=min(interval.high, limit),
    )
