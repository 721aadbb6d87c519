"""What measuring itself costs: joulewise, CodeCarbon and Zeus side by side on this machine.

Each tool gets an environment of its own, and `bare` one without any::

    for tool in bare joulewise codecarbon zeus; do python -m venv environments/$tool; done
    environments/joulewise/bin/pip install .
    environments/codecarbon/bin/pip install codecarbon
    environments/zeus/bin/pip install zeus
    python -m benchmarks.meter_overhead environments -o records/meter-overhead.json

Every task is done by every tool in each of several rounds, all in random order, each in a fresh
process (`meter_guest.py`) whose CPU time and peak memory the kernel tells (`meter_launcher.py`).
What a tool adds is told against the bare run of the same round:

- `start_cpu_s`, `start_wall_s`, `wrap_cpu_s`: one window opened and closed; a command wrapped.
- `outside_ratio`: CPU time outside a loop in a window (start, end, other threads, children), less
  that of the bare run, over all CPU time of the bare run. The loop's clock is that of its thread,
  so that this hardly feels neighbours, nor whether the tool slows the loop itself.
- `whole_ratio`: CPU time of everything over the bare run's, less 1. It holds that too, and all that
  neighbours did to both.
- `pair_cpu_s`, `pair_wall_s`: one more window inside the first.

Figures are medians over the rounds, with the distribution-free interval of a median.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import msgspec
from scipy import stats

from benchmarks.conditions import Conditions, conditions_since
from joulewise.core.energy import Interval
from joulewise.core.errors import InputError, JoulewiseError, ProgramError, UsageError
from joulewise.core.records import dump

SCHEMA = "joulewise/record/meter-overhead/1"

CONFIDENCE = 0.95
"""Of every interval, two-sided."""

FEWEST_ROUNDS = 6
"""That the interval of a median needs: two of 2^6 outcomes have all rounds on one side of it."""

LIMIT_RATIO, LIMIT_START_S = 0.01, 0.15
"""What joulewise may add: share of a program's CPU time, and CPU time of a start in s."""

PAIRS_S = 0.2
"""How long windows are opened and closed again, s."""

TIMEOUT_S = 300.0
"""After which a run is given up, s."""

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
LAUNCHER, GUEST = str(HERE / "meter_launcher.py"), str(HERE / "meter_guest.py")

BARE = "bare"
WRAPPERS: Mapping[str, tuple[str, ...]] = {
    BARE: (),
    "joulewise": ("joulewise", "measure", "--"),
    "codecarbon": (
        "codecarbon", "monitor", "--offline", "--country-iso-code", "USA",
        "--log-level", "critical", "--",
    ),
}  # fmt: skip
"""Commands that take another as their arguments; Zeus has none."""

TOOLS = (BARE, "joulewise", "codecarbon", "zeus")
TASKS = ("start", "loop", "pairs", "wrap")

BUSY = "import time\nwhile time.process_time() < {seconds}: pass"
"""A program that uses so much CPU time."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process.

    Args:
        round: its number, from 0.
        tool: in whose environment it ran.
        task: one of TASKS.
        wall_s: from start to end, s.
        cpu_s: user and system time of it and all its children, s.
        peak_bytes: peak memory of the largest of them.
        answer: what the guest itself counted.
    """

    round: int
    tool: str
    task: str
    wall_s: float
    cpu_s: float
    peak_bytes: int
    answer: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a tool says of a command.

    Args:
        version: of its package, None where there is none.
        joules: by name, None where it has none.
        method: how it says it found them.
    """

    version: str | None
    joules: Mapping[str, float | None]
    method: str


@dataclass(frozen=True, kw_only=True)
class Overhead:
    """What a tool adds to the bare run of the same round; the module says how each is counted.

    `peak_bytes` is what a window adds to the peak memory. Pairs are counted on their own, and the
    figures of wrapped commands are None where a tool wraps none.
    """

    tool: str
    start_cpu_s: Interval
    start_wall_s: Interval
    peak_bytes: Interval
    outside_ratio: Interval
    whole_ratio: Interval
    pair_cpu_s: Interval
    pair_wall_s: Interval
    wrap_cpu_s: Interval | None
    wrap_wall_s: Interval | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was found, with all runs behind it.

    Args:
        conditions: under which.
        loop_cpu_s: CPU time of the bare program with the loop, median over the rounds, s.
        command_cpu_s: CPU time of the command that every tool tells the joules of, s.
        told: by tool, what it says of that command.
        overheads: one per tool.
        runs: in the order in which they ran.
        confidence: of every interval.
    """

    conditions: Conditions
    loop_cpu_s: float
    command_cpu_s: float
    told: Mapping[str, Told]
    overheads: tuple[Overhead, ...]
    runs: tuple[Run, ...]
    confidence: float = CONFIDENCE
    schema: str = SCHEMA


@dataclass(frozen=True, kw_only=True)
class Launched:
    """What the launcher printed of a process, and the last line that this printed itself."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    last_line: str = ""


class Bench:
    """Runs tools in their environments.

    Args:
        environments: a folder with a virtual environment per tool, called like it.
        tools: those to run, `bare` among them.
        folder: in which they run, as some leave files.

    Raises:
        InputError: an environment is missing.
        UsageError: there is no such tool, or `bare` is not among them.
    """

    def __init__(self, environments: Path, tools: Sequence[str], folder: Path) -> None:
        if unknown := set(tools) - set(TOOLS):
            raise UsageError(f"no tool {min(unknown)!r}; there are: {', '.join(TOOLS)}")
        if BARE not in tools:
            raise UsageError(f"{BARE!r} must be among the tools: the others are told against it")
        self._environments, self._folder = environments.absolute(), folder
        for tool in tools:
            if not self._program(tool, "python").exists():
                raise InputError(
                    f"{environments / tool} is no environment; make it with: python -m venv "
                    f"{environments / tool}, and install {tool} into it"
                )

    def guest(self, tool: str, *arguments: str) -> Launched:
        """Run the guest in the environment of a tool."""
        python = str(self._program(tool, "python"))
        return self._launch([python, "-I", GUEST, tool, *arguments])

    def wrapped(self, tool: str, argv: Sequence[str]) -> Launched:
        """Run a command with the wrapper of a tool around it."""
        wrapper = WRAPPERS[tool]
        start = [str(self._program(tool, wrapper[0])), *wrapper[1:]] if wrapper else []
        return self._launch([*start, *argv])

    def told(self, tool: str, argv: Sequence[str]) -> Told:
        """Return what a tool says of a command."""
        line = self.guest(tool, "tell", json.dumps(argv)).last_line
        return _decoded(line, Told)

    def run(self, number: int, tool: str, task: str, times: int, pairs_s: float) -> Run:
        """Do a task."""
        if task == "wrap":
            done = self.wrapped(tool, _python("pass"))
        else:
            more = {"start": (), "loop": (str(times),), "pairs": (str(pairs_s),)}[task]
            done = self.guest(tool, task, *more)
        answers = task in {"loop", "pairs"}
        return Run(
            round=number,
            tool=tool,
            task=task,
            wall_s=done.wall_s,
            cpu_s=done.cpu_s,
            peak_bytes=done.peak_bytes,
            answer=_decoded(done.last_line, dict[str, float]) if answers else {},
        )

    def _program(self, tool: str, name: str) -> Path:
        return self._environments / tool / "bin" / name

    def _launch(self, argv: Sequence[str]) -> Launched:
        launched = [sys.executable, "-I", "-S", LAUNCHER, *argv]
        try:
            done = subprocess.run(
                launched, cwd=self._folder, stdin=subprocess.DEVNULL, capture_output=True,
                text=True, timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ProgramError(
                f"{argv[0]} did not end within {TIMEOUT_S:g} s; run it by hand to see why"
            ) from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise ProgramError(f"{' '.join(argv[:5])} failed: {last}; is it installed there?")
        *said, used = done.stdout.splitlines()
        return replace(_decoded(used, Launched), last_line=said[-1] if said else "")


def take(
    bench: Bench,
    tools: Sequence[str],
    *,
    rounds: int,
    loop_s: float,
    seed: int,
    say: Callable[[str], None],
) -> list[Run]:
    """Return the runs of all rounds, after one uncounted that warms files and caches.

    Args:
        bench: where they run.
        tools: those to run.
        rounds: how many.
        loop_s: how much CPU time the loop of the bare run should take, s.
        seed: of the order.
        say: told of every round.
    """
    pending = [(tool, task) for tool in tools for task in TASKS if can_do(tool, task)]
    say("warming up")
    first = 100_000
    warm = [bench.run(-1, tool, task, first, 0.01) for tool, task in pending]
    per_time_s = next(run.answer["loop_cpu_s"] for run in warm if run.task == "loop") / first
    times = max(1, round(loop_s / per_time_s))
    order, runs = random.Random(seed), []  # noqa: S311  (an order is no secret)
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        order.shuffle(pending)
        runs += [bench.run(number, tool, task, times, PAIRS_S) for tool, task in pending]
    return runs


def can_do(tool: str, task: str) -> bool:
    """Tell whether there is such a run: no tool opens no windows, and Zeus wraps no commands."""
    return {"pairs": tool != BARE, "wrap": tool in WRAPPERS}.get(task, True)


def overhead(tool: str, runs: Iterable[Run]) -> Overhead:
    """Return what a tool adds to the bare runs of the same rounds."""
    found = {(run.tool, run.task, run.round): run for run in runs}
    rounds = sorted({number for _, _, number in found})

    def added(task: str, figure: Callable[[Run], float]) -> Interval:
        return median(
            [
                figure(found[tool, task, number]) - figure(found[BARE, task, number])
                for number in rounds
            ]
        )

    def ratio(figure: Callable[[Run], float]) -> Interval:
        bare = [found[BARE, "loop", number] for number in rounds]
        own = [found[tool, "loop", number] for number in rounds]
        return median([(figure(a) - figure(b)) / b.cpu_s for a, b in zip(own, bare, strict=True)])

    def pair(name: str) -> Interval:
        return median([found[tool, "pairs", number].answer[name] for number in rounds])

    wraps = can_do(tool, "wrap")
    return Overhead(
        tool=tool,
        start_cpu_s=added("start", lambda run: run.cpu_s),
        start_wall_s=added("start", lambda run: run.wall_s),
        peak_bytes=added("start", lambda run: run.peak_bytes),
        outside_ratio=ratio(lambda run: run.cpu_s - run.answer["loop_cpu_s"]),
        whole_ratio=ratio(lambda run: run.cpu_s),
        pair_cpu_s=pair("pair_cpu_s"),
        pair_wall_s=pair("pair_wall_s"),
        wrap_cpu_s=added("wrap", lambda run: run.cpu_s) if wraps else None,
        wrap_wall_s=added("wrap", lambda run: run.wall_s) if wraps else None,
    )


def median(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Return the median and its distribution-free interval, two of the values.

    Args:
        values: at least FEWEST_ROUNDS for a confidence of 0.95.
        confidence: two-sided, in (0, 1).

    Raises:
        UsageError: there are too few values.

    Source: order statistics, David and Nagaraja 2003, Order Statistics, sec. 7.1.
    """
    beyond = int(stats.binom.ppf((1 - confidence) / 2, len(values), 0.5))
    if not beyond:
        raise UsageError(f"{len(values)} rounds are too few; use {FEWEST_ROUNDS} or more")
    ordered = sorted(values)
    return Interval(
        low=ordered[beyond - 1], central=statistics.median(ordered), high=ordered[-beyond]
    )


def bench_all(
    environments: Path,
    tools: Sequence[str],
    *,
    rounds: int,
    loop_s: float,
    seed: int = 0,
    say: Callable[[str], None] = lambda _text: None,
) -> Record:
    """Return what every tool adds on this machine.

    Args:
        environments: a folder with a virtual environment per tool.
        tools: those to run, `bare` among them.
        rounds: FEWEST_ROUNDS or more.
        loop_s: CPU time of the bare loop, s.
        seed: of the order.
        say: told of every stage.

    Raises:
        JoulewiseError: see Bench and median.
    """
    median([0.0] * rounds)
    load_before = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="joulewise-") as folder:
        bench = Bench(environments, tools, Path(folder))
        runs = take(bench, tools, rounds=rounds, loop_s=loop_s, seed=seed, say=say)
        busy = _python(BUSY.format(seconds=loop_s / 4))
        say("what they say of the same command")
        told = {tool: bench.told(tool, busy) for tool in tools}
        command_cpu_s = bench.wrapped(BARE, busy).cpu_s
    bare = [run.cpu_s for run in runs if (run.tool, run.task) == (BARE, "loop")]
    return Record(
        conditions=conditions_since(load_before),
        loop_cpu_s=statistics.median(bare),
        command_cpu_s=command_cpu_s,
        told=told,
        overheads=tuple(overhead(tool, runs) for tool in tools if tool != BARE),
        runs=tuple(runs),
    )


def line(found: Overhead) -> str:
    """Return the figures of a tool in one line."""
    wrapped = "" if found.wrap_cpu_s is None else f", a command {_ms(found.wrap_cpu_s)}"
    return (
        f"{found.tool:11} start {_ms(found.start_cpu_s)}{wrapped}; CPU time outside the loop "
        f"{_percent(found.outside_ratio)}, of everything {_percent(found.whole_ratio)}; a further "
        f"window {1e6 * found.pair_cpu_s.central:.1f} us; memory "
        f"{found.peak_bytes.central / 1e6:.0f} MB"
    )


def _python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def _decoded(line: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.DecodeError as error:
        raise ProgramError(f"a tool's last line is no answer: {line[:80]!r}; {error}") from error


def _ms(seconds: Interval) -> str:
    low, central, high = (1e3 * each for each in (seconds.low, seconds.central, seconds.high))
    return f"{central:.0f} ms ({low:.0f} to {high:.0f})"


def _percent(ratio: Interval) -> str:
    low, central, high = (100 * each for each in (ratio.low, ratio.central, ratio.high))
    return f"{central:+.2f} % ({low:+.2f} to {high:+.2f})"


def main(arguments: list[str] | None = None) -> None:
    """Print a line per tool, and write the record where that is asked for."""
    parser = argparse.ArgumentParser(description="What joulewise, CodeCarbon and Zeus add.")
    parser.add_argument("environments", type=Path, help="folder with an environment per tool")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    parser.add_argument("--tools", nargs="+", default=TOOLS, metavar="TOOL")
    parser.add_argument("--rounds", type=int, default=FEWEST_ROUNDS)
    parser.add_argument("--loop-s", type=float, default=10.0, help="CPU time of the loop, s")
    asked = parser.parse_args(arguments)
    try:
        found = bench_all(
            asked.environments,
            asked.tools,
            rounds=asked.rounds,
            loop_s=asked.loop_s,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )
        if asked.output is not None:
            dump(found, asked.output)
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    print("\n".join(line(each) for each in found.overheads))


if __name__ == "__main__":
    main()
