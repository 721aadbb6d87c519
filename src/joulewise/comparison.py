"""Compare commands, or models, by their joules: which needs fewer, and is the difference real?

Why this way: blocks of all programs are interleaved in random order, every second round mirrored,
so that what is slow cancels in the paired ratios. (Without the mirror, five rounds fall in one
order in one of 16 comparisons, and a drift then looks like a difference.) It ends when the ratios
are known well enough (core.sequential). The first program is the reference. A winner is called
only where the whole interval, sensor's band included, lies on one side of 1. The band does not
apply to the same program given twice: its instruction mix is the same, so that comparison checks
the procedure itself.
"""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from joulewise.core.claim import Ratio
from joulewise.core.energy import Block, Measurement, Meter, Timing
from joulewise.core.errors import ProgramError, SensorError, UsageError
from joulewise.core.host import Host, package_versions, read_host
from joulewise.core.recipe import RunSettings
from joulewise.core.sequential import (
    FEWEST_ROUNDS,
    half_width,
    is_narrow,
    look_confidence,
    looks_up_to,
)
from joulewise.core.settings import Settings, Usage
from joulewise.export.process import ProgramProcess
from joulewise.meter.command import Streams, bill_command
from joulewise.meter.interleave import (
    Plan,
    Subject,
    Taken,
    interleave,
    least_block_s,
    ratio_of,
    take_rounds,
)
from joulewise.meter.table import meter_opener
from joulewise.workload.workload import open_workload

__all__ = ["Compared", "Comparison", "Conduct", "Terms", "compare_commands", "compare_models"]

SCHEMA = "joulewise/comparison/1"

MODEL_BLOCK_S = 0.25
"""Length of a model's block, as in the final test of a search."""

Verdict = Literal["reference", "fewer", "more", "no difference"]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """When a comparison ends, and how sure it is.

    Args:
        precision_ratio: half-width of every ratio's run-to-run interval at which it ends, as a
            fraction.
        max_rounds: it ends after so many rounds anyway.
        max_s: it ends after so much time anyway, but never before FEWEST_ROUNDS, s; None for no
            limit.
        confidence: that all intervals hold together, however early it ended, in (0.5, 0.999].
        seed: of the order within each round.

    Raises:
        UsageError: a value cannot be meant.
    """

    precision_ratio: float = 0.02
    max_rounds: int = 30
    max_s: float | None = None
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.precision_ratio < 1:
            raise UsageError(f"a precision of {100 * self.precision_ratio:g} % is none; use e.g. 2")
        if self.max_rounds < FEWEST_ROUNDS:
            raise UsageError(
                f"{self.max_rounds} rounds are too few for an interval; use {FEWEST_ROUNDS} or more"
            )
        if self.max_s is not None and not self.max_s > 0:
            raise UsageError("the most minutes must be above 0; leave the option out for no limit")
        Settings(confidence=self.confidence, seed=self.seed)

    @property
    def looks(self) -> int:
        """At how many times it may end; the limit of time is one of them."""
        return len(looks_up_to(self.max_rounds)) + (self.max_s is not None)


@dataclass(frozen=True, kw_only=True)
class Conduct:
    """How commands are run.

    Args:
        warm_up_runs: uncounted runs of each command.
        ignore_failure: go on where a command ends with an exit code other than 0.
        show_output: let the commands' output through, to stderr.

    Raises:
        UsageError: a value cannot be meant.
    """

    warm_up_runs: int = 1
    ignore_failure: bool = False
    show_output: bool = False

    def __post_init__(self) -> None:
        if self.warm_up_runs < 0:
            raise UsageError(f"{self.warm_up_runs} warm-up runs are none; use 0 or more")


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was found about one program.

    Args:
        name: the command, or the model's path, as it was given.
        digests: file -> sha256 of a model; empty for a command.
        same: True where it is the same program as the reference.
        measurement: its blocks; an item is one run of a command.
        ratio: its joules over the reference's, None for the reference itself. The confidence is
            that of all ratios together at whichever look it ended.
        verdict: "fewer" or "more" joules than the reference with the whole interval, or neither.
    """

    name: str
    digests: Mapping[str, str]
    same: bool
    measurement: Measurement
    ratio: Ratio | None
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Programs against the first of them.

    Args:
        created: UTC time, ISO 8601.
        kind: what was compared.
        host: the machine.
        packages: versions.
        terms: declared beforehand.
        looks: at how many times it might have ended; the error is divided among them.
        rounds: blocks of each program that were taken.
        ended_by: "precision", or the limit that came first.
        programs: in the order in which they were given; the first is the reference.
        warnings: each with its remedy.
    """

    created: str
    kind: Literal["commands", "models"]
    host: Host
    packages: Mapping[str, str]
    terms: Terms
    looks: int
    rounds: int
    ended_by: Literal["precision", "rounds", "time"]
    programs: tuple[Compared, ...]
    warnings: tuple[str, ...] = ()
    schema: str = field(default=SCHEMA)


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A program before it is measured; see Compared."""

    name: str
    digests: Mapping[str, str] = field(default_factory=dict)
    same: bool


def compare_commands(
    commands: Sequence[str],
    *,
    terms: Terms | None = None,
    conduct: Conduct | None = None,
    meter: str | None = None,
    say: Say | None = None,
) -> Comparison:
    """Compare the joules of one run of each command; the first is the reference.

    Args:
        commands: at least two, written as for a shell; no shell is involved.
        terms: when it ends.
        conduct: how the commands are run.
        meter: name of the meter, None for the best that works here.
        say: told of every stage.

    Raises:
        UsageError: fewer than two commands, or one that cannot be run.
        ProgramError: a command failed.
        SensorError: the meter failed, or a command gave no joules.
    """
    conduct, host = conduct or Conduct(), read_host()
    argvs = [_split(command) for command in commands]
    _check_count(argvs)
    contenders = [Contender(name=shlex.join(argv), same=argv == argvs[0]) for argv in argvs]
    with closing(meter_opener(meter, host)([os.getpid()])) as opened:
        runs = [_CommandRuns(argv, opened, conduct) for argv in argvs]
        referee = Referee(contenders, terms or Terms(), say)
        referee.say("warming up")
        for each in runs:
            each.warm_up(conduct.warm_up_runs)
        subjects = {
            name: Subject(meter=opened, take=each.take)
            for name, each in zip(referee.names, runs, strict=True)
        }
        found = take_rounds(subjects, referee.plan, referee.is_over)
    failures = tuple(warning for each in runs for warning in each.failures())
    return referee.record("commands", found, host, failures)


def compare_models(
    models: Sequence[str | Path],
    data: str,
    *,
    usage: Usage | None = None,
    run: RunSettings | None = None,
    terms: Terms | None = None,
    meter: str | None = None,
    say: Say | None = None,
) -> Comparison:
    """Compare the joules per item of models on the same data; the first is the reference.

    Args:
        models: at least two ONNX files.
        data: inputs of all of them: a ``.npz`` file, a folder of images, or
            ``package.module:function``.
        usage: how they are used; one item at a time by default.
        run: runtime and its settings; ONNX Runtime as it comes by default.
        terms: when it ends.
        meter: name of the meter, None for the best that works here.
        say: told of every stage.

    Raises:
        JoulewiseError: see joulewise.core.errors.
    """
    usage, run, host = usage or Usage(), run or RunSettings(runtime="onnxruntime"), read_host()
    _check_count(models)
    open_meter = meter_opener(meter, host)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="joulewise-")))
        workloads = [
            open_workload(Path(model), data, usage, Settings(), folder / str(number))
            for number, model in enumerate(models)
        ]
        digests = [workload.model.artifact.files for workload in workloads]
        contenders = [
            Contender(name=str(model), digests=files, same=_equal_content(files, digests[0]))
            for model, files in zip(models, digests, strict=True)
        ]
        referee = Referee(contenders, terms or Terms(), say)
        referee.say("opening the models and warming up")
        programs = {
            name: stack.enter_context(
                ProgramProcess(each.model.path, run, each.hold_out, usage.batch_items)
            )
            for name, each in zip(referee.names, workloads, strict=True)
        }
        found = interleave(programs, open_meter, referee.plan, referee.is_over)
    return referee.record("models", found, host)


class Referee:
    """Decides when it is over, and what is called.

    Args:
        contenders: the first is the reference.
        terms: when it ends.
        say: told of every look.
        clock: tells the time, s.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        terms: Terms,
        say: Say | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._contenders = {f"{number:04}": each for number, each in enumerate(contenders, start=1)}
        self._terms = terms
        self._looks = looks_up_to(terms.max_rounds)
        self._level = look_confidence(terms.confidence, terms.looks, len(contenders) - 1)
        self._clock = clock
        self._started_s = clock()
        self.say: Say = say or (lambda _text: None)

    @property
    def names(self) -> tuple[str, ...]:
        """A unique name for each contender, in their order."""
        return tuple(self._contenders)

    @property
    def plan(self) -> Plan:
        """How much to measure at the most."""
        return Plan(
            rounds=self._terms.max_rounds,
            block_s=MODEL_BLOCK_S,
            seed=self._terms.seed,
            mirrored=True,
        )

    def is_over(self, found: Mapping[str, Measurement]) -> bool:
        """Tell whether the rounds so far suffice."""
        rounds = _rounds(found)
        late = self._is_late() and rounds >= FEWEST_ROUNDS
        if rounds not in self._looks and not late:
            return False
        ratios = self.ratios(found)
        widest = 100 * max(half_width(ratio) for ratio in ratios.values())
        self.say(f"{rounds} rounds: ratios known to {widest:.2g} %")
        return late or is_narrow(ratios.values(), self._terms.precision_ratio)

    def ratios(self, found: Mapping[str, Measurement]) -> dict[str, Ratio]:
        """Return the ratio of every contender but the reference, widened for all looks."""
        first, *others = self._contenders
        return {name: self._ratio(found[first], found[name], name) for name in others}

    def record(
        self,
        kind: Literal["commands", "models"],
        found: Mapping[str, Measurement],
        host: Host,
        warnings: tuple[str, ...] = (),
    ) -> Comparison:
        """Return what was found, once it is over."""
        ratios, rounds = self.ratios(found), _rounds(found)
        narrow = is_narrow(ratios.values(), self._terms.precision_ratio)
        by_rounds = rounds == self._terms.max_rounds
        noise = found[self.names[0]].warnings
        return Comparison(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            kind=kind,
            host=host,
            packages=package_versions(),
            terms=self._terms,
            looks=self._terms.looks,
            rounds=rounds,
            ended_by="precision" if narrow else "rounds" if by_rounds else "time",
            programs=tuple(
                Compared(
                    name=each.name,
                    digests=each.digests,
                    same=each.same,
                    measurement=found[name],
                    ratio=ratios.get(name),
                    verdict=verdict_of(ratios.get(name)),
                )
                for name, each in self._contenders.items()
            ),
            warnings=(*noise, *(() if narrow else (self._too_wide(ratios, by_rounds),)), *warnings),
        )

    def _ratio(self, reference: Measurement, other: Measurement, name: str) -> Ratio:
        if self._contenders[name].same:
            reference, other = _without_pair_band(reference), _without_pair_band(other)
        ratio = ratio_of(reference, other, self._level)
        return replace(ratio, confidence=self._terms.confidence)

    def _is_late(self) -> bool:
        limit_s = self._terms.max_s
        return limit_s is not None and self._clock() - self._started_s >= limit_s

    def _too_wide(self, ratios: Mapping[str, Ratio], by_rounds: bool) -> str:
        widest = 100 * max(half_width(ratio) for ratio in ratios.values())
        limit = "--max-rounds" if by_rounds else "--max-minutes"
        return (
            f"ratios are known to {widest:.2g} % only, not to "
            f"{100 * self._terms.precision_ratio:g} %; raise {limit}, give the programs more work "
            "per run, or use a quieter machine"
        )


def verdict_of(ratio: Ratio | None) -> Verdict:
    """Return on which side of 1 the whole interval lies, sensor's band included."""
    if ratio is None:
        return "reference"
    if ratio.high < 1:
        return "fewer"
    return "more" if ratio.low > 1 else "no difference"


class _CommandRuns:
    """Runs one command again and again."""

    def __init__(self, argv: Sequence[str], meter: Meter, conduct: Conduct) -> None:
        self._argv = argv
        self._meter = meter
        self._ignore_failure = conduct.ignore_failure
        self._streams = Streams.STDERR if conduct.show_output else Streams.NOWHERE
        self._exit_codes: Counter[int] = Counter()

    def warm_up(self, runs: int) -> None:
        """Run so many times uncounted."""
        for _ in range(runs):
            self._run()

    def take(self) -> Taken:
        """Run once, or as often as fills the shortest block that the sensor can tell."""
        least_s = least_block_s(self._meter.sensor)
        runs = [self._run()]
        while sum(run.seconds for run in runs) < least_s:
            runs.append(self._run())
        seconds = [run.seconds for run in runs]
        cpu_s = sum(run.cpu_s or 0.0 for run in runs)
        block = Block(
            items=len(runs),
            seconds=sum(seconds),
            reading_j=sum(run.reading_j for run in runs),
            cpu_s=cpu_s,
        )
        p50_s, p95_s = np.quantile(seconds, [0.5, 0.95])
        return block, Timing(
            items=block.items,
            seconds=block.seconds,
            cpu_s=cpu_s,
            p50_s=float(p50_s),
            p95_s=float(p95_s),
        )

    def failures(self) -> tuple[str, ...]:
        """Return a warning where runs failed and that was to be ignored."""
        failed = {code: runs for code, runs in self._exit_codes.items() if code}
        if not failed:
            return ()
        codes = ", ".join(str(code) for code in sorted(failed))
        warning = (
            f"{shlex.join(self._argv)!r} failed in {sum(failed.values())} of "
            f"{self._exit_codes.total()} runs (exit code {codes}); its joules may be those of a "
            "job half done"
        )
        return (warning,)

    def _run(self) -> Block:
        run = bill_command(self._argv, self._meter, self._streams)
        self._exit_codes[run.exit_code] += 1
        if run.exit_code and not self._ignore_failure:
            raise ProgramError(
                f"{shlex.join(self._argv)!r} ended with exit code {run.exit_code}; see why with "
                "--show-output, or go on all the same with --ignore-failure"
            )
        if not self._meter.sensor.includes_idle and run.block.reading_j <= 0:
            raise SensorError(
                f"{shlex.join(self._argv)!r} used less CPU time than can be told; give it more work"
            )
        return run.block


def _split(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"cannot read the command {command!r}: {error}") from error
    if not argv:
        raise UsageError("an empty command was given; write each command in quotes")
    return argv


def _check_count(programs: Sequence[object]) -> None:
    if len(programs) < 2:
        raise UsageError("a comparison needs two programs; give the same one twice to check itself")


def _equal_content(files: Mapping[str, str], others: Mapping[str, str]) -> bool:
    """Tell whether two models have the same bytes, whatever their files are called."""
    return list(files.values()) == list(others.values())


def _without_pair_band(measurement: Measurement) -> Measurement:
    return replace(measurement, sensor=replace(measurement.sensor, pair_ratio=1.0, load_ratio=1.0))


def _rounds(found: Mapping[str, Measurement]) -> int:
    return len(next(iter(found.values())).blocks)
