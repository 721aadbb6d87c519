"""What `measure` and `compare` say on this machine where the answer is known beforehand.

::

    python -m benchmarks.meter_real -o records/meter-real.json

- *bills*: who sleeps uses nearly nothing above idle, and joules grow with CPU time, whichever
  process of a tree spends it. Each case is billed as a command and in a window around it, in rounds
  of random order. Its CPU time is what it tells of itself and its children (getrusage), so that
  the two ways of counting check each other and neighbours on the machine change both alike.
- *twins*: the same command twice. Whoever is called a winner there is a false alarm, of which a
  confidence of 95 % allows 5 %.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
from scipy import stats

import joulewise
from benchmarks.conditions import Conditions, conditions_since
from joulewise.comparison import Compared
from joulewise.core.claim import Ratio
from joulewise.core.energy import Interval, Part
from joulewise.core.errors import JoulewiseError, ProgramError, SensorError, UsageError
from joulewise.core.records import dump

SCHEMA = "joulewise/record/meter-real/1"

BilledAs = Literal["command", "window"]

SLEEP = "sleep"

CASES = {
    "itself": (0, 1.0),
    "1 child": (1, 1.0),
    "2 children, half each": (2, 0.5),
    "2 children": (2, 1.0),
}
"""Case -> how many children work at the same time, and how much each; without any, it works
itself."""

WORK = """
import json, os, resource, sys
children, times = map(int, sys.argv[1:])
def work():
    total = 0
    for number in range(times):
        total += number * number % 7
for _ in range(children):
    if os.fork() == 0:
        work()
        os._exit(0)
for _ in range(children):
    os.wait()
if not children:
    work()
used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(json.dumps(sum(each.ru_utime + each.ru_stime for each in used)))
"""
"""Prints the CPU time that it and its children used, s."""

JOULEWISE = (sys.executable, "-m", "joulewise")

FALSE_ALARMS = 0.05
"""Rate that a confidence of 95 % allows."""

TIMEOUT_S = 600.0
"""After which a command is given up, s."""


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What a command was billed.

    Args:
        round: its number, from 0.
        case: SLEEP or one of CASES.
        billed_as: a command of its own, or within a window around it.
        told_cpu_s: CPU time that it told of itself and its children, s; None where it tells none.
        seconds: how long it took, s.
        net_j: net of idle.
        gross_j: with the idle power of the whole machine; None where that is unknown.
        idle_left_out_j: what net leaves out, J; None where that is unknown.
    """

    round: int
    case: str
    billed_as: BilledAs
    told_cpu_s: float | None
    seconds: float
    net_j: Interval
    gross_j: Interval | None
    idle_left_out_j: float | None


@dataclass(frozen=True, kw_only=True)
class Twin:
    """A comparison of a command with itself.

    Args:
        seed: of the order.
        rounds: runs of each that were taken.
        ended_by: why no more were.
        verdict: "no difference", or a false alarm.
        ratio: of the joules, which is 1 in truth.
    """

    seed: int
    rounds: int
    ended_by: str
    verdict: str
    ratio: Ratio


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What follows from bills and twins.

    Args:
        sleep_net_w: largest power net of idle that a sleeper was billed, W.
        sleep_idle_ratio: smallest share of its gross joules that was left out as idle.
        w_per_cpu: net joules over the told CPU time, extremes and median over all working runs, W.
        children_ratio: joules of 2 children over those of 1 in the same round, extremes and median.
        children_cpu_ratio: the same of their told CPU times.
        called: comparisons of twins in which a winner was called.
        allowed: of how many chance alone explains with a probability of 95 %, where 5 % are meant.
    """

    sleep_net_w: float
    sleep_idle_ratio: float | None
    w_per_cpu: Interval
    children_ratio: Interval
    children_cpu_ratio: Interval
    called: int
    allowed: int


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is done.

    Args:
        rounds: of bills.
        twins: comparisons of a command with itself.
        work_times: turns of the loop that is billed.
        twin_times: of that which is compared.
        sleep_s: how long the sleeper sleeps, s.
        max_rounds: of a comparison.
        seed: of the order of bills; that of comparisons counts from it.

    Raises:
        UsageError: there is nothing to do.
    """

    rounds: int = 3
    twins: int = 20
    work_times: int = 40_000_000
    twin_times: int = 4_000_000
    sleep_s: float = 10.0
    max_rounds: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.twins < 1:
            raise UsageError("nothing would be measured; use 1 round and 1 comparison or more")

    def scaled(self, factor: float) -> Effort:
        """Return as many runs that are shorter or longer by a factor, > 0."""
        if not factor > 0:
            raise UsageError(f"a scale of {factor:g} is none; use e.g. 0.1")
        return replace(
            self,
            work_times=round(factor * self.work_times),
            twin_times=round(factor * self.twin_times),
            sleep_s=factor * self.sleep_s,
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was found, with all that is behind it."""

    conditions: Conditions
    effort: Effort
    findings: Findings
    bills: tuple[Bill, ...]
    twins: tuple[Twin, ...]
    schema: str = SCHEMA


class _Told(msgspec.Struct):
    """What is read of ``joulewise measure --json``."""

    measurement: Part


class _Compared(msgspec.Struct):
    """What is read of ``joulewise compare --json``."""

    rounds: int
    ended_by: str
    programs: list[Compared]


def bill_all(effort: Effort, say: Callable[[str], None]) -> list[Bill]:
    """Return the bills of all cases in all rounds.

    Args:
        effort: how much is done.
        say: told of every round.

    Raises:
        ProgramError: a command failed.
        SensorError: no meter works here.
    """
    ways: tuple[BilledAs, ...] = ("command", "window")
    pending = [(case, way) for case in (SLEEP, *CASES) for way in ways]
    order, bills = random.Random(effort.seed), []  # noqa: S311  (an order is no secret)
    for number in range(effort.rounds):
        say(f"bills, round {number + 1} of {effort.rounds}")
        order.shuffle(pending)
        bills += [bill(number, case, way, effort) for case, way in pending]
    return bills


def bill(number: int, case: str, way: BilledAs, effort: Effort) -> Bill:
    """Run a case and return what it was billed."""
    argv = ["sleep", f"{effort.sleep_s:g}"]
    if case != SLEEP:
        children, share = CASES[case]
        argv = python(WORK, children, round(share * effort.work_times))
    if way == "command":
        said = output([*JOULEWISE, "measure", "--json", "--", *argv])
        told, record = ("", said) if case == SLEEP else said.split("\n", 1)
        part = msgspec.json.decode(record, type=_Told).measurement
    else:
        with joulewise.measure(case) as window:
            told = output(argv)
        part = window.result.parts[0]
    if part.net_j is None:
        raise SensorError(
            f"{part.sensor.name} does not know idle power; take this record without counters"
        )
    return Bill(
        round=number,
        case=case,
        billed_as=way,
        told_cpu_s=float(told) if told else None,
        seconds=sum(block.seconds for block in part.blocks),
        net_j=part.net_j,
        gross_j=part.gross_j,
        idle_left_out_j=part.idle_j,
    )


def compare_twins(effort: Effort, say: Callable[[str], None]) -> list[Twin]:
    """Return comparisons of a command with itself, with their false alarms.

    Args:
        effort: how much is done.
        say: told of every comparison.

    Raises:
        ProgramError: a command failed.
    """
    command = shlex.join(python(WORK, 0, effort.twin_times))
    twins = []
    for seed in range(effort.seed, effort.seed + effort.twins):
        options = ["--json", "--quiet", f"--seed={seed}", f"--max-rounds={effort.max_rounds}"]
        said = output([*JOULEWISE, "compare", *options, command, command])
        found = msgspec.json.decode(said, type=_Compared)
        other = found.programs[1]
        if other.ratio is None:
            raise ProgramError("compare gave no ratio; run it by hand to see why")
        say(f"twins {seed}: {other.verdict}, {other.ratio.low:.3f} to {other.ratio.high:.3f}")
        twins.append(
            Twin(
                seed=seed,
                rounds=found.rounds,
                ended_by=found.ended_by,
                verdict=other.verdict,
                ratio=other.ratio,
            )
        )
    return twins


def findings(bills: Sequence[Bill], twins: Sequence[Twin]) -> Findings:
    """Return what follows from bills and twins."""
    found = {(each.case, each.billed_as, each.round): each for each in bills}
    sleepers = [each for each in bills if each.case == SLEEP]
    left_out = [
        each.idle_left_out_j / each.gross_j.central
        for each in sleepers
        if each.idle_left_out_j is not None and each.gross_j is not None
    ]
    pairs = [
        (found["1 child", way, number], each)
        for (case, way, number), each in found.items()
        if case == "2 children"
    ]
    return Findings(
        sleep_net_w=max(each.net_j.central / each.seconds for each in sleepers),
        sleep_idle_ratio=min(left_out, default=None),
        w_per_cpu=extremes(
            each.net_j.central / each.told_cpu_s for each in bills if each.told_cpu_s is not None
        ),
        children_ratio=extremes(two.net_j.central / one.net_j.central for one, two in pairs),
        children_cpu_ratio=extremes(
            two.told_cpu_s / one.told_cpu_s
            for one, two in pairs
            if one.told_cpu_s is not None and two.told_cpu_s is not None
        ),
        called=sum(each.verdict != "no difference" for each in twins),
        allowed=int(stats.binom.ppf(0.95, len(twins), FALSE_ALARMS)),
    )


def extremes(values: Iterable[float]) -> Interval:
    """Return the smallest value, the median and the largest."""
    ordered = sorted(values)
    return Interval(low=ordered[0], central=statistics.median(ordered), high=ordered[-1])


def python(code: str, *arguments: object) -> list[str]:
    """Return the command that runs code in a bare interpreter."""
    return [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]


def output(argv: Sequence[str]) -> str:
    """Return what a command prints; raises ProgramError with its last line where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ProgramError(f"{' '.join(argv[:4])} failed: {last}")
    return done.stdout


def find(effort: Effort, say: Callable[[str], None] = lambda _text: None) -> Record:
    """Return the record of this machine; see bill_all and compare_twins for what is raised."""
    load_before = os.getloadavg()
    bills, twins = bill_all(effort, say), compare_twins(effort, say)
    return Record(
        conditions=conditions_since(load_before),
        effort=effort,
        findings=findings(bills, twins),
        bills=tuple(bills),
        twins=tuple(twins),
    )


def lines(found: Findings, twins: int) -> list[str]:
    """Return the findings in words."""
    watts, joules, cpu = found.w_per_cpu, found.children_ratio, found.children_cpu_ratio
    idle = found.sleep_idle_ratio
    left_out = "" if idle is None else f"; {100 * idle:.2f} % of gross or more is left out as idle"
    return [
        f"sleep     {found.sleep_net_w:.2g} W net of idle at the most{left_out}",
        f"work      {watts.low:.3f} to {watts.high:.3f} J per second of told CPU time",
        f"2 for 1   {joules.central:.3f} times the joules, {cpu.central:.3f} times the CPU time",
        f"twins     a winner in {found.called} of {twins}, {found.allowed} allowed",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print the findings, and write the record where that is asked for."""
    parser = argparse.ArgumentParser(description="measure and compare where the answer is known.")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    parser.add_argument("--rounds", type=int, default=3, help="of bills")
    parser.add_argument("--twins", type=int, default=20, help="comparisons")
    parser.add_argument("--scale", type=float, default=1.0, help="of work and sleep; for a trial")
    asked = parser.parse_args(arguments)
    try:
        effort = Effort(rounds=asked.rounds, twins=asked.twins).scaled(asked.scale)
        found = find(effort, lambda text: print(text, file=sys.stderr, flush=True))
        if asked.output is not None:
            dump(found, asked.output)
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    print("\n".join(lines(found.findings, len(found.twins))))


if __name__ == "__main__":
    main()
