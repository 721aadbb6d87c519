"""Apply one recipe that the user wrote down, and prove what it gives, in place of a search."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from joulewise import bundle as bundles
from joulewise.compress.passes import check_step
from joulewise.compress.process import Workshop
from joulewise.core.claim import Claim
from joulewise.core.energy import Interval
from joulewise.core.errors import UsageError
from joulewise.core.host import Host, package_versions, read_host
from joulewise.core.recipe import Recipe, RunSettings, Step, parse_steps
from joulewise.core.records import Artifact, WorkloadRecord, dump, load
from joulewise.core.settings import Settings, Usage
from joulewise.export.program import RUNTIMES
from joulewise.learn.source import as_onnx, gives_vectors
from joulewise.meter.bill import Bill
from joulewise.meter.table import meter_opener
from joulewise.pipeline import (
    PROOF_PLAN,
    Progress,
    Silent,
    judge_of_original,
    quality_words,
    usable_runtimes,
)
from joulewise.proof.prove import Contest, prove
from joulewise.search.session import Session
from joulewise.search.space import as_found_recipe
from joulewise.workload.workload import open_workload, workload_record

__all__ = ["AppliedStep", "Compressed", "compress_model"]

SCHEMA = "joulewise/compressed/1"
RECORD = "joulewise-compressed.json"


@dataclass(frozen=True, kw_only=True)
class AppliedStep:
    """What one step gave and cost.

    Args:
        step: the step.
        size_bytes: size of the model after it.
        cost_j: joules that it took.
        seconds: time that it took.
    """

    step: Step
    size_bytes: int
    cost_j: Interval
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A model that a recipe was applied to.

    Args:
        created: UTC time, ISO 8601.
        workload: the job.
        recipe: the steps, and how the result was run in the test.
        steps: what each step gave and cost.
        artifact: the result's files, relative to the output folder.
        claim: the test of the result against the original on the hold-out, whether it holds or
            not; both run with one thread.
        break_even_items: inferences after which the saving has paid the steps, None where nothing
            is saved.
        host: the machine.
        packages: versions.
        seed: of the splits, the steps and the test.
        warnings: each with its remedy.
    """

    created: str
    workload: WorkloadRecord
    recipe: Recipe
    steps: tuple[AppliedStep, ...]
    artifact: Artifact
    claim: Claim
    break_even_items: Interval | None
    host: Host
    packages: Mapping[str, str]
    seed: int
    warnings: tuple[str, ...] = ()
    schema: str = field(default=SCHEMA)


def compress_model(
    model: object,
    recipe: str | Sequence[Step],
    data: str,
    output: str | Path,
    *,
    train: str | None = None,
    weights: Path | None = None,
    usage: Usage | None = None,
    settings: Settings | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Compressed:
    """Apply a recipe to a model, and test the result against the original.

    Args:
        model: an ONNX file, a PyTorch module, ``package.module:factory`` of one, or a folder of
            Hugging Face; see `joulewise.learn.source.as_onnx`.
        recipe: steps, as text like ``"prune(ratio=0.5) + distill(epochs=3) + quantize(static)"``.
        data: items to calibrate and to judge with, as in `optimize`.
        output: folder for the model and its record; must not exist.
        train: items to learn from, for steps that train; never used to judge.
        weights: of a factory's module, None for those it comes with.
        usage: how the model is used; one item at a time by default.
        settings: margin, confidence, meter and seed.
        resume: go on with an interrupted run of the same command.
        progress: told what happens.

    Returns:
        What the recipe gave, as written to ``output/joulewise-compressed.json``.

    Raises:
        UsageError: the recipe cannot be read, or names what does not exist.
        PassError: a step does not fit the model, or failed.
        JoulewiseError: see joulewise.core.errors; nothing is half-written.
    """
    steps = parse_steps(recipe) if isinstance(recipe, str) else tuple(recipe)
    for step in steps:
        check_step(step)
    if not steps:
        raise UsageError("the recipe has no steps; name at least one")
    usage, settings, progress = usage or Usage(), settings or Settings(), progress or Silent()
    output, host = Path(output), read_host()
    runtimes, warnings = usable_runtimes(settings.runtimes)
    with bundles.work_folder(output, resume=resume) as work:
        open_meter = meter_opener(settings.meter, host)
        progress.stage("reading the model and the data")
        source = as_onnx(model, data, work / "source", weights, settings.beside)
        workload = open_workload(source, data, usage, settings, work / "data", train)
        session = Session(
            workload=workload, settings=settings, runtimes=runtimes, host=host,
            judge=judge_of_original(
                workload, runtimes, settings, work / "original", pooled=gives_vectors(model)
            ),
            open_meter=open_meter, folder=work,
        )  # fmt: skip
        progress.stage(quality_words(session.judge.task, settings))
        bill = Bill(open_meter([os.getpid()]))
        with Workshop() as workshop:
            applied = tuple(
                _apply(session, steps[: number + 1], bill, progress, workshop)
                for number in range(len(steps))
            )
        made = Recipe(steps=steps, run=session.anchor.run)
        made = replace(made, run=_run_of(session.made(made), session))
        progress.stage(f"testing {made} on the hold-out")
        contest = Contest(
            original=workload.model.path,
            artifact=session.main_file(made),
            candidate=made,
            baseline=session.anchor,
            as_found=as_found_recipe(runtimes),
            task=session.judge.task,
            classes=workload.classes,
            usage=usage,
            size_bytes=session.made(made).size_bytes,
            margin=settings.margin,
            confidence=settings.confidence,
            slice_names=workload.slice_names,
            slice_margin=settings.slice_margin,
        )
        plan = replace(PROOF_PLAN, seed=settings.seed)
        claim = prove(contest, workload.hold_out, open_meter, plan, work / "proof")
        found = Compressed(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            workload=workload_record(workload, session.judge.task),
            recipe=made,
            steps=applied,
            artifact=session.made(made),
            claim=claim,
            break_even_items=_break_even(applied, claim),
            host=host,
            packages=package_versions(),
            seed=settings.seed,
            warnings=(*warnings, *workload.warnings),
        )
        bundles.move_whole(_folder_of(found, session), output)
    return found


def _apply(
    session: Session, steps: tuple[Step, ...], bill: Bill, progress: Progress, workshop: Workshop
) -> AppliedStep:
    """Apply the last of `steps`, or read what it gave and cost before an interruption."""
    recipe = Recipe(steps=steps, run=session.anchor.run)
    note = session.artifact_folder(recipe).with_suffix(".cost.json")
    if session.artifact(recipe) is not None and note.exists():
        return load(AppliedStep, note)
    progress.stage(f"applying {steps[-1]}")
    before, started = bill.meter.read(), time.monotonic()
    made = session.make(recipe, progress.part, workshop=workshop)
    applied = AppliedStep(
        step=steps[-1],
        size_bytes=made.size_bytes,
        cost_j=bill.interval(before, bill.meter.read()),
        seconds=time.monotonic() - started,
    )
    dump(applied, note)
    return applied


def _run_of(artifact: Artifact, session: Session) -> RunSettings:
    """Return how an artifact is run with one thread on the runtime that its format is for."""
    if artifact.format == "onnx":
        return session.anchor.run
    settings: RunSettings = RUNTIMES.load(artifact.format)().lossless(session.host.logical_cpus)[0]
    return settings


def _break_even(applied: Sequence[AppliedStep], claim: Claim) -> Interval | None:
    """Return after how many items the saving has paid the steps; the sensor's band cancels."""
    before = claim.measurements["baseline"].net_j_per_item
    if before is None or before.central == 0 or claim.ratio.high >= 1:
        return None
    cost_j = sum(step.cost_j.central for step in applied)
    low, central, high = (
        cost_j / (before.central * (1 - ratio))
        for ratio in (claim.ratio.low, claim.ratio.value, claim.ratio.high)
    )
    return Interval(low=low, central=central, high=high)


def _folder_of(found: Compressed, session: Session) -> Path:
    """Return a folder with the model and its record, as it will be moved to its place."""
    folder = session.folder / "compressed"
    shutil.rmtree(folder, ignore_errors=True)
    source = session.artifact_folder(found.recipe)
    for name in found.artifact.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)
    dump(found, folder / RECORD)
    return folder
