"""The whole chain on one screen: workload -> search -> proof -> bundle."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from joulewise import bundle as bundles
from joulewise.compress.passes import PASSES
from joulewise.core.claim import Check, Claim, Trial
from joulewise.core.energy import Measurement
from joulewise.core.errors import InputError, MissingExtraError, UsageError
from joulewise.core.host import Host, read_host
from joulewise.core.profile import Profile
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.records import Bundle
from joulewise.core.settings import Budget, Settings, Usage
from joulewise.core.supply import Supply
from joulewise.export.process import ProgramProcess
from joulewise.export.program import RUNTIMES
from joulewise.learn.source import as_onnx, gives_vectors
from joulewise.meter.bill import Bill
from joulewise.meter.interleave import Plan, interleave
from joulewise.meter.table import meter_opener
from joulewise.outcome import Outcome, contest, record
from joulewise.proof.prove import prove
from joulewise.report.explain import subjects
from joulewise.report.text import metric_words
from joulewise.search.allowance import Allowance
from joulewise.search.choose import certifiable_words, choose
from joulewise.search.foresee import Foreseen, count, foresee, take_samples
from joulewise.search.nodes import open_nodes, require_ray
from joulewise.search.profiles import profiles_of, with_profiles
from joulewise.search.run import Searched, search
from joulewise.search.session import OpenMeter, Session
from joulewise.search.space import CONVERSIONS, as_found_recipe
from joulewise.search.structure import TAUGHT
from joulewise.workload.judge import Judge, judge_of
from joulewise.workload.task import Task, choose_task
from joulewise.workload.workload import Workload, check_certifiable, open_workload, unit_words

__all__ = [
    "DryRun",
    "Progress",
    "Silent",
    "Verification",
    "dry_run",
    "measure_model",
    "optimize",
    "quality_words",
    "usable_runtimes",
    "verify",
]

PROOF_PLAN = Plan(rounds=20, block_s=0.25)

PROGRAMS = 3
"""Programs in a final test: candidate, baseline, and the model as found."""

OPENING_S = 10.0
"""What a final test needs to open them, and to write the bundle, s: a judgement."""


class Progress(Protocol):
    """Told of every stage as it begins, of every trial before and after it, and of long steps.

    A part is the share of a step that is done, in [0, 1], and a few words about it.
    """

    def stage(self, text: str) -> None: ...
    def trial(self, number: int, total: int, recipe: Recipe, trial: Trial | None) -> None: ...
    def part(self, done: float, words: str) -> None: ...


class Silent:
    """Progress that nobody watches."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def trial(self, number: int, total: int, recipe: Recipe, trial: Trial | None) -> None:
        """Say nothing."""

    def part(self, done: float, words: str) -> None:
        """Say nothing."""


def optimize(
    model: object,
    data: str,
    output: str | Path,
    *,
    train: str | None = None,
    weights: Path | None = None,
    usage: Usage | None = None,
    settings: Settings | None = None,
    budget: Budget | None = None,
    resume: bool = False,
    study_url: str | None = None,
    ray: str | None = None,
    supply: Supply | None = None,
    explain: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Find the version of a model that does the same job for the fewest joules, with proof.

    Args:
        model: an ONNX file, a PyTorch module, ``package.module:factory`` of one, or a folder of
            Hugging Face; see `joulewise.learn.source.as_onnx`.
        data: a ``.npz`` file, a folder of images, or ``package.module:function``.
        output: folder for the bundle; must not exist.
        train: items to learn from, in the same forms as `data`; with them, models that can learn
            are also pruned and taught again.
        weights: of a factory's module, None for those it comes with.
        usage: how the model is used; one item at a time by default.
        settings: what is declared before the search.
        budget: what the run may cost; None lets it try everything.
        resume: go on with an interrupted run of the same command.
        study_url: of the database server that keeps the trials, ``postgresql://...`` or
            ``mysql://...``; None for a file beside the output.
        ray: cluster whose machines try recipes too: "auto" for the one that this machine belongs
            to, ``HOST:PORT``, or "local" for one of this machine alone; None tries all here.
        supply: where the electricity comes from, as from `joulewise.supply`; None counts neither
            grams nor money.
        explain: take profiles by operator type of the original, the chosen and the best rejected.
        progress: told what happens.

    Returns:
        The bundle as written to ``output/joulewise.json``. Its verdict may be to keep the model.

    Raises:
        JoulewiseError: see joulewise.core.errors; nothing is half-written.
    """
    usage, settings, progress = usage or Usage(), settings or Settings(), progress or Silent()
    output, host, began_s = Path(output), read_host(), time.monotonic()
    runtimes, warnings = usable_runtimes(settings.runtimes)
    for name in () if train is None else TAUGHT:
        PASSES.require(name)
    if ray is not None:
        require_ray(ray)
    with bundles.work_folder(output, resume=resume) as work:
        open_meter = meter_opener(settings.meter, host)
        bill = Bill(open_meter([os.getpid()]))
        progress.stage("reading the model and the data")
        job = _Job(
            model=model, data=data, train=train, weights=weights, usage=usage, settings=settings,
            runtimes=runtimes, host=host, open_meter=open_meter,
        )  # fmt: skip
        session, smallest = job.open(bill, work)
        workload, judge = session.workload, session.judge
        progress.stage(_certifiable_words(workload, settings, smallest))
        progress.stage(quality_words(judge.task, settings))
        progress.stage(f"trying recipes; ratios are to the original, {session.anchor}")
        proof_s = partial(_proof_s, items=workload.hold_out.items)
        allowance = Allowance(budget or Budget(), bill, proof_s, began_s)
        with open_nodes(ray, session, bill, progress.stage) as nodes:
            found = search(
                session, bill, progress.trial, progress.part, allowance, study_url, nodes
            )
        if found.ended_by is not None:
            progress.stage(
                f"{found.ended_by} ends the search; the best so far goes into the final test"
            )
        choice = choose(
            found.trials,
            margin=settings.margin,
            confidence=settings.confidence,
            hold_out_items=workload.hold_out.items,
            largest_bytes=usage.size_bytes,
        )

        def proved(candidate: Trial) -> Claim:
            progress.stage(f"proving {candidate.recipe} on the hold-out")
            words = certifiable_words(
                candidate, settings.margin, settings.confidence, workload.hold_out.items
            )
            if words is not None and candidate.recipe.steps:
                progress.stage(words)
            with bill.stage("proof"):
                test = contest(session, choice, candidate)
                plan = replace(PROOF_PLAN, seed=settings.seed)
                return prove(test, workload.hold_out, open_meter, plan, work / "proof")

        claims: list[Claim] = []
        for candidate in choice.candidates:
            claims.append(proved(candidate))
            if not claims[-1].holds or allowance.left_s < proof_s(found.trials[0]):
                break
        if choice.fallback is not None and not any(claim.holds for claim in claims):
            claims.append(proved(choice.fallback))
        outcome = Outcome(
            trials=found.trials,
            choice=choice,
            claims=tuple(claims),
            smallest_margin=smallest,
            warnings=(
                *warnings,
                *workload.warnings,
                *([] if nodes is None else nodes.warnings),
                *_cut_short(found),
            ),
        )
        profiles = _profiles(session, outcome, bill, progress) if explain else {}
        bundle = record(session, outcome, bill, supply)
        bundle = replace(bundle, trials=with_profiles(bundle.trials, profiles))
        bundles.write(bundle, session.artifact_folder(bundle.recipe), workload, work, output)
    return bundle


def _profiles(
    session: Session, outcome: Outcome, bill: Bill, progress: Progress
) -> Mapping[str, Profile]:
    """Return profiles of the trials that explain the verdict, where they have none yet."""
    progress.stage("looking where the time goes")
    recipe = outcome.won.candidate if outcome.won else outcome.choice.as_found.recipe
    told = subjects(outcome.trials, outcome.choice.baseline.recipe, recipe)
    with bill.stage("explanation"):
        return profiles_of(session, [*told.values()])


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is asked for, before anything of it is opened; see `optimize`."""

    model: object
    data: str
    train: str | None
    weights: Path | None
    usage: Usage
    settings: Settings
    runtimes: tuple[str, ...]
    host: Host
    open_meter: OpenMeter

    def open(self, bill: Bill, work: Path) -> tuple[Session, float]:
        """Return the session, and the smallest margin that can be certified, as a fraction."""
        model, settings = self.model, self.settings
        with bill.stage("preparation"):
            source = as_onnx(model, self.data, work / "source", self.weights, settings.beside)
            workload = open_workload(
                source, self.data, self.usage, settings, work / "data", self.train
            )
            smallest = check_certifiable(workload, settings)
            judge = judge_of_original(
                workload, self.runtimes, settings, work / "original", pooled=gives_vectors(model)
            )
        check_quality(judge, self.usage)
        session = Session(
            workload=workload, judge=judge, settings=settings, runtimes=self.runtimes,
            host=self.host, open_meter=self.open_meter, folder=work,
        )  # fmt: skip
        return session, smallest


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What is known of a run before it begins.

    Args:
        foreseen: what it will probably cost.
        hold_out_items: of the final test.
        smallest_margin: that they can certify, as a fraction.
        margin: that is declared, as a fraction; not below the smallest.
    """

    foreseen: Foreseen
    hold_out_items: int
    smallest_margin: float
    margin: float


def dry_run(
    model: object,
    data: str,
    *,
    train: str | None = None,
    weights: Path | None = None,
    usage: Usage | None = None,
    settings: Settings | None = None,
    budget: Budget | None = None,
    progress: Progress | None = None,
) -> DryRun:
    """Predict the time, memory and joules of `optimize` with the same arguments; write nothing.

    Model and data are opened, the original is tried, and a few steps are applied for seconds each.

    Raises:
        JoulewiseError: as `optimize` would before its first trial: where the hold-out cannot
            certify the margin, for instance.
    """
    usage, settings, progress = usage or Usage(), settings or Settings(), progress or Silent()
    host = read_host()
    runtimes, _ = usable_runtimes(settings.runtimes)
    for name in () if train is None else TAUGHT:
        PASSES.require(name)
    open_meter = meter_opener(settings.meter, host)
    bill = Bill(open_meter([os.getpid()]))
    job = _Job(
        model=model, data=data, train=train, weights=weights, usage=usage, settings=settings,
        runtimes=runtimes, host=host, open_meter=open_meter,
    )  # fmt: skip
    with bundles.scratch_folder() as work:
        progress.stage("reading the model and the data")
        session, smallest = job.open(bill, work)
        progress.stage(_certifiable_words(session.workload, settings, smallest))
        samples = take_samples(session, bill, progress.stage)
        items = session.workload.hold_out.items
        proof_s = _proof_s(samples.as_found, items)
        found = foresee(count(session, samples.body), samples, proof_s, budget or Budget())
    return DryRun(
        foreseen=found, hold_out_items=items, smallest_margin=smallest, margin=settings.margin
    )


def _certifiable_words(workload: Workload, settings: Settings, smallest: float) -> str:
    return (
        f"{workload.hold_out.units:,} hold-out {unit_words(workload)} can certify a loss of "
        f"{100 * smallest:.2f} points at the best; {100 * settings.margin:g} are declared"
    )


def _cut_short(found: Searched) -> tuple[str, ...]:
    if found.ended_by is None:
        return ()
    return (f"{found.ended_by} ended the search before all was tried; a longer one may find more",)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What a second proof found.

    Args:
        claim: the claim as proved here and now; None where the files were altered or the bundle
            claims nothing.
        checks: conditions besides those of the claim.
        host: the machine of this proof.
    """

    claim: Claim | None
    checks: tuple[Check, ...]
    host: Host

    @property
    def holds(self) -> bool:
        """True when all checks hold, those of the claim included."""
        return all(c.holds for c in self.checks) and (self.claim is None or self.claim.holds)


def verify(
    folder: str | Path, *, meter: str | None = None, progress: Progress | None = None
) -> Verification:
    """Prove a bundle again on this machine; no stored figure is trusted.

    Args:
        folder: a bundle.
        meter: name of the meter, None for the best that works here.
        progress: told what happens.

    Raises:
        InputError: the folder is no bundle.
        ProgramError: a program could not be opened or run.
    """
    folder, progress, host = Path(folder), progress or Silent(), read_host()
    bundle = bundles.open_bundle(folder)
    progress.stage("comparing digests")
    checks = bundles.file_checks(folder, bundle)
    if bundle.verdict == "keep" or not all(check.holds for check in checks):
        return Verification(claim=None, checks=checks, host=host)
    progress.stage(f"proving {bundle.recipe} again on this machine")
    plan = replace(PROOF_PLAN, seed=bundle.seed + 1)
    test, hold_out = bundles.contest_of(folder, bundle), bundles.open_hold_out(folder)
    with bundles.scratch_folder() as scratch:
        claim = prove(test, hold_out, meter_opener(meter, host), plan, scratch)
    return Verification(claim=claim, checks=checks, host=host)


def _proof_s(as_found: Trial, items: int) -> float:
    """Return about how long a final test takes, s."""
    per_program_s = PROOF_PLAN.rounds * PROOF_PLAN.block_s + PROOF_PLAN.warm_up_s
    blocks = () if as_found.measurement is None else as_found.measurement.blocks
    counted = sum(block.items for block in blocks)
    per_item_s = sum(block.seconds for block in blocks) / counted if counted else 0.0
    return PROGRAMS * per_program_s + (PROGRAMS - 1) * items * per_item_s + OPENING_S


def measure_model(
    model: str | Path,
    data: str,
    *,
    usage: Usage | None = None,
    run: RunSettings | None = None,
    meter: str | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Measure the joules per item of a model as it is.

    Args:
        model: an ONNX file.
        data: its inputs, as in `optimize`.
        usage: how the model is used; one item at a time by default.
        run: runtime and its settings; ONNX Runtime as it comes by default.
        meter: name of the meter, None for the best that works here.
        progress: told what happens.

    Raises:
        JoulewiseError: see joulewise.core.errors.
    """
    usage, progress = usage or Usage(), progress or Silent()
    run = run or RunSettings(runtime="onnxruntime")
    open_meter = meter_opener(meter, read_host())
    with bundles.scratch_folder() as scratch:
        progress.stage("reading the model and the data")
        workload = open_workload(Path(model), data, usage, Settings(), scratch)
        progress.stage("measuring")
        path, items = workload.model.path, workload.hold_out
        with ProgramProcess(path, run, items, usage.batch_items) as program:
            return interleave({"model": program}, open_meter, PROOF_PLAN)["model"]


def usable_runtimes(asked: tuple[str, ...] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the runtimes to use and a warning for each that could be installed.

    The first opens the model as found, so those that need a conversion come after the others.

    Raises:
        UsageError: a runtime was asked for that does not exist, or none of them opens ONNX files.
        MissingExtraError: a runtime was asked for, or is needed, that is not installed.
    """
    if asked is not None:
        for name in asked:
            RUNTIMES.require(name)
        return _onnx_first(asked), ()
    missing = {name: RUNTIMES.missing(name) for name in RUNTIMES}
    usable = tuple(name for name, package in missing.items() if package is None)
    if all(name in CONVERSIONS for name in usable):
        RUNTIMES.require(next(iter(RUNTIMES)))
    return _onnx_first(usable), tuple(
        f"{name} was not tried: {MissingExtraError(package, RUNTIMES[name].extra)}"
        for name, package in missing.items()
        if package is not None
    )


def _onnx_first(names: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(sorted(names, key=lambda name: name in CONVERSIONS))
    if found[0] in CONVERSIONS:
        raise UsageError(
            f"{found[0]} runs converted models only, so nothing could be compared with the model "
            "as it is; name onnxruntime or openvino too"
        )
    return found


def judge_of_original(
    workload: Workload,
    runtimes: tuple[str, ...],
    settings: Settings,
    folder: Path,
    *,
    pooled: bool = False,
) -> Judge:
    """Run the original as found over the search split; all else is scored against that.

    Args:
        workload: the job.
        runtimes: names of those to use.
        settings: what the user declared.
        folder: where answers are written.
        pooled: whether the model is known to end in a pooling of tokens.

    Raises:
        UsageError: the task that was declared does not fit the outputs.
        ProgramError: the original could not be opened or run.
    """
    run, batch_items = as_found_recipe(runtimes).run, workload.usage.batch_items
    with ProgramProcess(workload.model.path, run, workload.search, batch_items) as program:
        outputs = program.predict(workload.search, folder)
    task = choose_task(
        outputs,
        labels=workload.search.labels,
        targets=workload.search.targets,
        asked=settings.task,
        tolerance=settings.tolerance,
        pooled=pooled,
        metric=settings.metric,
    )
    return judge_of(
        workload.search, outputs, task, classes=workload.classes,
        slice_names=workload.slice_names, confidence=settings.confidence,
        slice_margin=settings.slice_margin,
    )  # fmt: skip


def check_quality(judge: Judge, usage: Usage) -> None:
    """Raise where the original itself is not as good as what was asked for.

    Raises:
        InputError: it is not.
        UsageError: the metric has no exact bound of its own to ask for.
    """
    if usage.quality is not None and judge.task.of_all:
        raise UsageError(
            f"--min-quality counts items that are right, but {judge.task.metric} is of all answers "
            "together; leave it out"
        )
    found = judge.quality_of_original.value
    if usage.quality is not None and found < usage.quality:
        raise InputError(
            f"the original itself has a quality of {100 * found:.2f} % on the search items, below "
            f"the {100 * usage.quality:g} % asked for; ask for less, or begin with a better model"
        )


def quality_words(task: Task, settings: Settings) -> str:
    """Return what counts as right, and what was taken for granted where the user did not say."""
    note = ""
    if task.tolerance is not None and settings.tolerance is None:
        note = ", the original's median error (--tolerance sets another)"
    elif task.metric == "agreement" and settings.task == "auto":
        note = "; outputs are taken for scores of classes (--task vectors or values says otherwise)"
    return f"quality: {metric_words(task)}{note}"
