"""One model, all optimisers: each makes its version, one judge and one meter compare them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from benchmarks.conditions import ROOT, Conditions, conditions_since
from benchmarks.field.contract import Asked, Made
from benchmarks.field.environments import EnvironmentFailedError, python_of
from benchmarks.field.table import ENVIRONMENTS, Peer, Workload
from joulewise.bundle import open_bundle
from joulewise.compress.process import ENVIRONMENT
from joulewise.core.child import Child
from joulewise.core.claim import Difference, Quality, Ratio
from joulewise.core.energy import Interval, Measurement, Sensor
from joulewise.core.errors import InputError, ProgramError
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.records import Bundle
from joulewise.core.settings import Settings, Usage
from joulewise.core.statistics import quotient
from joulewise.export.process import ProgramProcess
from joulewise.meter.bill import Bill
from joulewise.meter.interleave import Plan, interleave, ratio_of
from joulewise.meter.table import meter_opener
from joulewise.pipeline import optimize
from joulewise.workload.judge import judge_of
from joulewise.workload.store import Store
from joulewise.workload.task import Outputs, task_of
from joulewise.workload.workload import Workload as Opened
from joulewise.workload.workload import open_workload

__all__ = ["OURS", "Entry", "Record", "Spent", "measure", "spent_until"]

SCHEMA = "joulewise/record/field/1"

OURS = "joulewise"

PLAN = Plan(rounds=20, block_s=0.25)

LONGEST_S = 3600.0
"""What an optimiser may take, s."""

PythonOf = Callable[[str, Sequence[str]], Path]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """What a search had cost at some time.

    Args:
        cost_j: joules, net of idle.
        seconds: the same as time.
    """

    cost_j: Interval
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What an optimiser has come to.

    Args:
        peer: its name.
        title: the same for people.
        state: "measured", or "failed" with the reason.
        reason: why it failed.
        versions: of the packages that made it.
        run: how its model is run.
        size_bytes: of its files.
        quality: on the held-out items.
        difference: to the original, on the same items.
        item_j: joules per item, net of idle, with the sensor's band.
        ratio: joules over those of the strongest lossless way to run the original.
        ours_ratio: joules of joulewise's version over those of this one; None for its own.
        cost_j: what making it took; of joulewise the whole run with its proof.
        seconds: the same as time.
        reached: what joulewise's search had cost when it first had tried something as good, before
            its proof; None where it never had, or the quality is not kept.
    """

    peer: str
    title: str
    state: Literal["measured", "failed"]
    reason: str | None = None
    versions: Mapping[str, str]
    run: RunSettings | None = None
    size_bytes: int | None = None
    quality: Quality | None = None
    difference: Difference | None = None
    item_j: Interval | None = None
    ratio: Ratio | None = None
    ours_ratio: Ratio | None = None
    cost_j: Interval | None = None
    seconds: float | None = None
    reached: Spent | None = None

    def keeps(self, margin: float) -> bool:
        """Return whether the quality is certainly within the margin."""
        return self.difference is not None and self.difference.lower > -margin

    def harms(self, margin: float) -> bool:
        """Return whether it is worse than what went in: more joules, or quality not kept."""
        dearer = self.ratio is not None and self.ratio.low > 1
        return self.state == "measured" and (dearer or not self.keeps(margin))


@dataclass(frozen=True, kw_only=True)
class Record:
    """All optimisers on one model.

    Args:
        workload: its name.
        title: the same for people.
        margin: largest acceptable loss of quality, as a fraction.
        batch_items: items per inference call.
        items: that there were, to calibrate, search and judge with.
        held_out: those of them that all answered.
        baseline: the strongest lossless way, which all ratios are to.
        baseline_item_j: its joules per item, net of idle.
        size_bytes: of the original.
        sensor: what gave the joules.
        recipe: what joulewise chose.
        taught: whether joulewise had items to learn from.
        entries: joulewise first.
        conditions: machine, versions, load.
    """

    schema: str = SCHEMA
    workload: str
    title: str
    margin: float
    batch_items: int
    items: int
    held_out: int
    baseline: Recipe
    baseline_item_j: Interval | None
    size_bytes: int
    sensor: Sensor
    recipe: Recipe
    taught: bool
    entries: tuple[Entry, ...]
    conditions: Conditions


@dataclass(frozen=True, kw_only=True)
class _Version:
    """A model that can be run, and in which environment."""

    path: Path
    run: RunSettings
    python: Path | None = None


def measure(
    name: str,
    workload: Workload,
    peers: Mapping[str, Peer],
    folder: Path,
    say: Callable[[str], None],
    plan: Plan = PLAN,
    python: PythonOf = python_of,
) -> Record:
    """Have all optimisers make their versions of a model, and compare these.

    Args:
        name: of the workload.
        workload: the model and its items.
        peers: by name.
        folder: for what is made; joulewise's bundle is used again where it is there.
        say: told of every step.
        plan: how long is measured.
        python: gives the interpreter of an environment.

    Raises:
        JoulewiseError: joulewise itself fails, or the data cannot be read.
    """
    load_before, settings, model = os.getloadavg(), workload.settings, workload.model()
    open_meter = meter_opener(settings.meter, read_host())
    say("joulewise")
    bundle = _bundle(workload, model, folder / OURS)
    usage = Usage(batch_items=workload.batch_items)
    opened = open_workload(model, workload.data, usage, settings, folder / "data", workload.train)
    hold_out = opened.hold_out
    if bundle.workload.splits["hold-out"].digest != hold_out.digest():
        raise InputError(f"{folder / OURS} is of other items; delete it to begin anew")
    versions = {
        "": _Version(path=model, run=bundle.baseline.run),
        OURS: _Version(path=folder / OURS / bundle.artifact.main, run=bundle.recipe.run),
    }
    entries = {OURS: _of_ours(bundle)}
    bill = Bill(open_meter([os.getpid()]))
    for peer, known in peers.items():
        say(peer)
        asked = _asked(opened, bundle.workload.metric, settings, folder / peer)
        entries[peer], made = _made(peer, known, asked, bill, python)
        if made is not None:
            versions[peer] = made
    say("answering")
    with ExitStack() as stack:
        programs, answers, found = _answered(versions, bundle, hold_out, folder, stack)
        entries |= {name: _failed(entries[name], reason) for name, reason in found.items()}
        entries = _judged(entries, answers, bundle, hold_out)
        say("taking turns")
        kept = {name: x for name, x in programs.items() if not name or entries[name].quality}
        taken = interleave(kept, open_meter, plan)
    entries = _measured(entries, taken, bundle)
    baseline = taken[""]
    return Record(
        workload=name, title=workload.title, margin=settings.margin,
        batch_items=workload.batch_items,
        items=sum(split.items for split in bundle.workload.splits.values()),
        held_out=hold_out.items, baseline=bundle.baseline,
        baseline_item_j=baseline.net_j_per_item, size_bytes=_size(model), sensor=baseline.sensor,
        recipe=bundle.recipe, taught=workload.train is not None, entries=tuple(entries.values()),
        conditions=conditions_since(load_before),
    )  # fmt: skip


def _bundle(workload: Workload, model: Path, folder: Path) -> Bundle:
    if folder.exists():
        return open_bundle(folder)
    resume = folder.with_name(f"{folder.name}.work").exists()
    return optimize(
        model, workload.data, folder, train=workload.train,
        usage=Usage(batch_items=workload.batch_items), settings=workload.settings, resume=resume,
    )  # fmt: skip


def _of_ours(bundle: Bundle) -> Entry:
    return Entry(
        peer=OURS,
        title=OURS,
        state="measured",
        versions=bundle.packages,
        run=bundle.recipe.run,
        size_bytes=bundle.artifact.size_bytes,
        cost_j=bundle.ledger.total_j,
        seconds=sum(bundle.ledger.seconds.values()),
    )


def _asked(opened: Opened, metric: str, settings: Settings, output: Path) -> Asked:
    return Asked(
        model=str(opened.model.path.absolute()),
        calibrate=str(opened.calibrate.folder.absolute()),
        validate=str(opened.search.folder.absolute()),
        output=str(output.absolute()),
        batch_items=opened.usage.batch_items,
        metric=metric,
        margin=settings.margin,
        train=None if opened.train is None else str(opened.train.folder.absolute()),
        epochs=settings.epochs,
    )


def _made(
    name: str, peer: Peer, asked: Asked, bill: Bill, python: PythonOf
) -> tuple[Entry, _Version | None]:
    """Have an optimiser make its version, in its own environment."""
    shutil.rmtree(asked.output, ignore_errors=True)
    Path(asked.output).mkdir(parents=True)
    entry = Entry(peer=name, title=peer.title, state="measured", versions={})
    try:
        interpreter = python(peer.environment, ENVIRONMENTS[peer.environment])
        with bill.stage(name):
            answer = _answer(interpreter, peer, asked)
    except (EnvironmentFailedError, ProgramError, TimeoutError) as error:
        return _failed(entry, error), None
    made = msgspec.convert(answer, Made)
    run = RunSettings(runtime=made.runtime, threads=1)
    entry = replace(
        entry, versions=made.versions, run=run, size_bytes=_size(Path(made.main)),
        cost_j=bill.stages_j[name], seconds=bill.seconds[name],
    )  # fmt: skip
    return entry, _Version(path=Path(made.main), run=run, python=interpreter)


def _answer(python: Path, peer: Peer, asked: Asked) -> object:
    environment = {**ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    with Child("benchmarks.field.peer", environment, python) as child:
        return child.ask(
            "optimize", timeout_s=LONGEST_S, limit_s=LONGEST_S, module=peer.module,
            packages=peer.packages, asked=asdict(asked),
        )  # fmt: skip


def _failed(entry: Entry, error: Exception) -> Entry:
    return replace(entry, state="failed", reason=_plain(error))


def _plain(error: Exception) -> str:
    """Return what went wrong, without the folders of this machine."""
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", str(error))


def _size(main: Path) -> int:
    """Return the bytes of a model's files, weights beside it included."""
    files = {*main.parent.glob(f"{main.name}*"), *main.parent.glob(f"{main.stem}.bin")}
    return sum(path.stat().st_size for path in files)


def _answered(
    versions: Mapping[str, _Version],
    bundle: Bundle,
    hold_out: Store,
    folder: Path,
    stack: ExitStack,
) -> tuple[dict[str, ProgramProcess], dict[str, Outputs], dict[str, ProgramError]]:
    """Open all versions and have them answer; return those that can, their answers, and why not."""
    programs: dict[str, ProgramProcess] = {}
    answers: dict[str, Outputs] = {}
    failures: dict[str, ProgramError] = {}
    for number, (name, version) in enumerate(versions.items()):
        try:
            program = stack.enter_context(_opened(version, hold_out, bundle))
            answers[name] = program.predict(hold_out, folder / f"answers-{number}")
        except ProgramError as error:
            if name in ("", OURS):
                raise
            failures[name] = error
        else:
            programs[name] = program
    return programs, answers, failures


def _judged(
    entries: Mapping[str, Entry], answers: Mapping[str, Outputs], bundle: Bundle, hold_out: Store
) -> dict[str, Entry]:
    """Add the quality of all versions; those whose answers are none have failed."""
    task = task_of(bundle.workload.metric, bundle.workload.tolerance)
    judge = judge_of(
        hold_out, answers[""], task, classes=bundle.workload.classes, slice_names=(),
        confidence=bundle.confidence, slice_margin=None,
    )  # fmt: skip
    found = dict(entries)
    for name, outputs in answers.items():
        if not name:
            continue
        try:
            quality, difference = judge.compare(outputs)
        except InputError as error:
            found[name] = _failed(found[name], error)
        else:
            found[name] = replace(found[name], quality=quality, difference=difference)
    return found


def _measured(
    entries: Mapping[str, Entry], taken: Mapping[str, Measurement], bundle: Bundle
) -> dict[str, Entry]:
    """Add joules and their ratios, and when joulewise had as good."""
    baseline, ours, found = taken[""], taken[OURS], dict(entries)
    for name, measurement in taken.items():
        if not name:
            continue
        entry, ratio = found[name], ratio_of(baseline, measurement, bundle.confidence)
        found[name] = replace(entry, item_j=measurement.net_j_per_item, ratio=ratio)
        if name != OURS:
            over = ratio_of(measurement, ours, bundle.confidence)
            kept = ratio is not None and entry.keeps(bundle.margin)
            reached = spent_until(bundle, ratio.sampling_high) if kept and ratio else None
            found[name] = replace(found[name], ours_ratio=over, reached=reached)
    return found


def spent_until(bundle: Bundle, ratio: float) -> Spent | None:
    """Return what a search had cost when it had tried what needs no more joules; None if never.

    Args:
        bundle: of the search.
        ratio: joules over those of the strongest lossless way.
    """
    (baseline,) = (trial.ratio for trial in bundle.trials if trial.recipe == bundle.baseline)
    spent_j = [j for cause, j in bundle.ledger.stages_j.items() if cause == "preparation"]
    seconds = bundle.ledger.seconds.get("preparation", 0.0)
    for trial in bundle.trials:
        spent_j += [] if trial.cost_j is None else [trial.cost_j]
        seconds += trial.seconds or 0.0
        found = trial.ratio if trial.state == "measured" else None
        if found and baseline and quotient(found, baseline).value <= ratio:
            low, central, high = (
                sum(getattr(each, name) for each in spent_j) for name in ("low", "central", "high")
            )
            return Spent(cost_j=Interval(low=low, central=central, high=high), seconds=seconds)
    return None


def _opened(version: _Version, hold_out: Store, bundle: Bundle) -> ProgramProcess:
    items = bundle.workload.batch_items
    return ProgramProcess(version.path, version.run, hold_out, items, version.python)
