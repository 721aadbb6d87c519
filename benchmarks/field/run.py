"""One model, all optimisers: each makes its version, one judge and one meter compare them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from joulewise.core.claim import Difference, Quality, Ratio, Trial
from joulewise.core.energy import Interval, Measurement, Sensor
from joulewise.core.errors import InputError, ProgramError
from joulewise.core.host import read_host
from joulewise.core.recipe import Recipe, RunSettings
from joulewise.core.records import Bundle, dump, load
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

__all__ = ["OURS", "Entry", "Record", "Spent", "make", "measure", "spent_until"]

SCHEMA = "joulewise/record/field/1"

OURS = "joulewise"

PLAN = Plan(rounds=12, block_s=0.25)

LONGEST_S = 1200.0
"""What another optimiser may take, s; none on the page took as long."""

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
        made_cpus: CPUs that joulewise had while it searched, and others while they made their
            versions; None in older records: all of the host's.
        entries: joulewise first.
        trials: of joulewise's search, without their blocks and profiles.
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
    made_cpus: int | None = None
    entries: tuple[Entry, ...]
    trials: tuple[Trial, ...]
    conditions: Conditions


@dataclass(frozen=True, kw_only=True)
class _Version:
    """A model that can be run, and in which environment."""

    path: Path
    run: RunSettings
    python: Path | None = None


@dataclass(frozen=True, kw_only=True)
class _Kept:
    """What an optimiser made, to go on from where a run was cut off."""

    asked: Asked
    made: Made
    entry: Entry


@dataclass(frozen=True, kw_only=True)
class _All:
    """What all have made of a model: by name, "" for the strongest lossless way to run it."""

    bundle: Bundle
    hold_out: Store
    entries: Mapping[str, Entry]
    versions: Mapping[str, _Version]


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
        folder: for what is made; what is there already is used again.
        say: told of every step.
        plan: how long is measured.
        python: gives the interpreter of an environment.

    Raises:
        JoulewiseError: joulewise itself fails, or the data cannot be read.
    """
    load_before, open_meter = os.getloadavg(), meter_opener(workload.settings.meter, read_host())
    made = make(workload, peers, folder, say, python)
    bundle, entries = made.bundle, dict(made.entries)
    say("answering")
    with ExitStack() as stack:
        programs, answers, found = _answered(made, folder, stack)
        entries |= {name: _failed(entries[name], reason) for name, reason in found.items()}
        entries = _judged(entries, answers, bundle, made.hold_out)
        say("taking turns")
        kept = {name: x for name, x in programs.items() if not name or entries[name].quality}
        taken = interleave(kept, open_meter, plan)
    entries = _measured(entries, taken, bundle)
    baseline = taken[""]
    return Record(
        workload=name, title=workload.title, margin=workload.settings.margin,
        batch_items=workload.batch_items,
        items=sum(split.items for split in bundle.workload.splits.values()),
        held_out=made.hold_out.items, baseline=bundle.baseline,
        baseline_item_j=baseline.net_j_per_item, size_bytes=_size(made.versions[""].path),
        sensor=baseline.sensor, recipe=bundle.recipe, taught=workload.train is not None,
        made_cpus=bundle.host.logical_cpus, entries=tuple(entries.values()),
        trials=trials_of(bundle), conditions=conditions_since(load_before),
    )  # fmt: skip


def make(
    workload: Workload,
    peers: Mapping[str, Peer],
    folder: Path,
    say: Callable[[str], None],
    python: PythonOf = python_of,
) -> _All:
    """Have all optimisers make their versions of a model.

    What was made in `folder` before, of the same items and terms, is not made again; what failed
    is tried again.

    Args:
        workload: the model and its items.
        peers: by name.
        folder: for what is made.
        say: told of every step.
        python: gives the interpreter of an environment.

    Raises:
        JoulewiseError: joulewise itself fails, or the data cannot be read.
    """
    settings, model = workload.settings, workload.model()
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
    bill = Bill(meter_opener(settings.meter, read_host())([os.getpid()]))
    for peer, known in peers.items():
        say(peer)
        asked = _asked(opened, bundle.workload.metric, settings, folder / peer)
        entries[peer], made = _made(peer, known, asked, bill, python)
        if made is None:
            say(f"{peer} failed: {entries[peer].reason}")
        else:
            versions[peer] = made
    return _All(bundle=bundle, hold_out=hold_out, entries=entries, versions=versions)


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
    """Have an optimiser make its version, in its own environment, unless it has done so before."""
    notes = Path(f"{asked.output}.json")
    try:
        interpreter = python(peer.environment, ENVIRONMENTS[peer.environment])
        kept = load(_Kept, notes) if notes.exists() else None
        if kept is None or kept.asked != asked:
            kept = _made_anew(name, peer, asked, bill, interpreter)
            dump(kept, notes)
    except (EnvironmentFailedError, ProgramError, TimeoutError) as error:
        entry = Entry(peer=name, title=peer.title, state="measured", versions={})
        return _failed(entry, error), None
    entry = replace(kept.entry, title=peer.title)
    run = RunSettings(runtime=kept.made.runtime, threads=1)
    return entry, _Version(path=Path(kept.made.main), run=run, python=interpreter)


def _made_anew(name: str, peer: Peer, asked: Asked, bill: Bill, interpreter: Path) -> _Kept:
    shutil.rmtree(asked.output, ignore_errors=True)
    Path(asked.output).mkdir(parents=True)
    with bill.stage(name):
        answer = _answer(interpreter, peer, asked)
    made = msgspec.convert(answer, Made)
    entry = Entry(
        peer=name,
        title=peer.title,
        state="measured",
        versions=made.versions,
        run=RunSettings(runtime=made.runtime, threads=1),
        size_bytes=_size(Path(made.main)),
        cost_j=bill.stages_j[name],
        seconds=bill.seconds[name],
    )
    return _Kept(asked=asked, made=made, entry=entry)


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
    made: _All, folder: Path, stack: ExitStack
) -> tuple[dict[str, ProgramProcess], dict[str, Outputs], dict[str, ProgramError]]:
    """Open all versions and have them answer; return those that can, their answers, and why not.

    As many answer at once as there are CPUs, as nothing is measured meanwhile. All are opened by
    this thread: a program ends with the thread that started it.
    """
    programs: dict[str, ProgramProcess] = {}
    answers: dict[str, Outputs] = {}
    failures: dict[str, ProgramError] = {}
    for name, version in made.versions.items():
        try:
            programs[name] = stack.enter_context(_opened(version, made.hold_out, made.bundle))
        except ProgramError as error:
            failures[name] = error

    def predict(name: str) -> Outputs | ProgramError:
        try:
            return programs[name].predict(made.hold_out, folder / f"answers-{name}")
        except ProgramError as error:
            return error

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for name, found in zip(list(programs), pool.map(predict, list(programs)), strict=True):
            if isinstance(found, ProgramError):
                failures[name] = found
                del programs[name]
            else:
                answers[name] = found
    for name in ("", OURS):
        if name in failures:
            raise failures[name]
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


def trials_of(bundle: Bundle) -> tuple[Trial, ...]:
    """Return what a search tried, without blocks and profiles, which would fill a record."""
    return tuple(replace(trial, measurement=None, profile=None) for trial in bundle.trials)


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
