"""Do runs with different seeds agree? The demo and two other jobs, each optimized three times.

A seed decides which items calibrate, which are searched on and which are held out, and in which
order programs are measured. So every run has data and a time of its own, and is a repetition of
the whole chain. Runs agree where the intervals of what they won overlap, pair by pair: joules over
those of the model as found, which is the same for all, and the difference of quality::

    python -m benchmarks.agreement -o records/agreement.json

A run that keeps the original has won nothing, exactly: it agrees with what may be nothing. What the
runs chose is told too, but need not be the same: where two ways cost nearly as much, either may
win.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from benchmarks.conditions import Conditions, conditions_since
from joulewise.core.claim import Difference, Ratio
from joulewise.core.energy import Interval
from joulewise.core.errors import JoulewiseError
from joulewise.core.recipe import Recipe
from joulewise.core.records import Bundle, dump
from joulewise.core.settings import Settings
from joulewise.demo import DATA, MODEL
from joulewise.pipeline import optimize

SCHEMA = "joulewise/record/agreement/1"

SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is optimized.

    Args:
        model: gives the path of the model; called when it is needed, as it may be trained first.
        data: as `joulewise.optimize` takes it.
        settings: what is declared; every run has another seed.
    """

    model: Callable[[], Path]
    data: str
    settings: Settings = field(default_factory=Settings)


def _appliances() -> Path:
    from tests.workloads import time_series

    return time_series.model(time_series.APPLIANCES)


def _text_angle() -> Path:
    from tests.workloads import text_angle

    return text_angle.model()


JOBS: Mapping[str, Job] = {
    "demo": Job(model=lambda: MODEL, data=str(DATA)),
    "appliances": Job(model=_appliances, data="tests.workloads.time_series:appliances"),
    "text angle": Job(model=_text_angle, data="tests.workloads.text_angle:items"),
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run has come to.

    Args:
        seed: of the splits and of interleaving.
        verdict: as in a bundle.
        recipe: of the winner.
        baseline: the strongest lossless way to run the original.
        ratio: joules of the winner over those of the baseline, or of the model as found where the
            winner is the baseline; None where the original is kept.
        ratio_as_found: the same over those of the model as found.
        difference: of quality; None where the original is kept.
    """

    seed: int
    verdict: str
    recipe: Recipe
    baseline: Recipe
    ratio: Ratio | None
    ratio_as_found: Ratio | None
    difference: Difference | None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Whether two runs agree.

    Args:
        seeds: of both.
        energy: the intervals of their ratios over the model as found overlap.
        quality: those of their differences of quality do.
    """

    seeds: tuple[int, int]
    energy: bool
    quality: bool

    @property
    def agrees(self) -> bool:
        """True where both overlap."""
        return self.energy and self.quality


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """The runs of one job, and all pairs of them."""

    job: str
    runs: tuple[Run, ...]
    pairs: tuple[Pair, ...]

    @property
    def agrees(self) -> bool:
        """True where all pairs agree."""
        return all(pair.agrees for pair in self.pairs)


@dataclass(frozen=True, kw_only=True)
class Record:
    """All jobs."""

    schema: str = SCHEMA
    agreements: tuple[Agreement, ...]
    conditions: Conditions


def measure(jobs: Mapping[str, Job], seeds: Sequence[int], say: Callable[[str], None]) -> Record:
    """Optimize every job with every seed.

    Args:
        jobs: by name.
        seeds: at least two.
        say: told of every run once it is over.

    Raises:
        JoulewiseError: see joulewise.core.errors.
    """
    load_before, agreements = os.getloadavg(), []
    for name, job in jobs.items():
        runs: list[Run] = []
        for seed in seeds:
            runs.append(_optimized(job, seed))
            say(f"{name}, {line_of(runs[-1])}")
        agreements.append(agreement_of(name, runs))
    return Record(agreements=tuple(agreements), conditions=conditions_since(load_before))


def _optimized(job: Job, seed: int) -> Run:
    settings = replace(job.settings, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        return run_of(optimize(job.model(), job.data, Path(folder) / "out", settings=settings))


def run_of(bundle: Bundle) -> Run:
    """Return what a bundle says, without its blocks."""
    claim = bundle.claim
    return Run(
        seed=bundle.seed,
        verdict=bundle.verdict,
        recipe=bundle.recipe,
        baseline=bundle.baseline,
        ratio=None if claim is None else claim.ratio,
        ratio_as_found=None if claim is None else claim.ratio_as_found,
        difference=None if claim is None else claim.difference,
    )


def agreement_of(job: str, runs: Sequence[Run]) -> Agreement:
    """Return which runs of a job agree."""
    pairs = tuple(_pair(one, other) for one, other in combinations(runs, 2))
    return Agreement(job=job, runs=tuple(runs), pairs=pairs)


def _pair(one: Run, other: Run) -> Pair:
    return Pair(
        seeds=(one.seed, other.seed),
        energy=_overlap(*(_of_ratio(run.ratio_as_found) for run in (one, other))),
        quality=_overlap(*(_of_difference(run.difference) for run in (one, other))),
    )


def _of_ratio(ratio: Ratio | None) -> Interval:
    if ratio is None:
        return Interval(low=1.0, central=1.0, high=1.0)
    return Interval(low=ratio.low, central=ratio.value, high=ratio.high)


def _of_difference(found: Difference | None) -> Interval:
    if found is None:
        return Interval(low=0.0, central=0.0, high=0.0)
    return Interval(low=found.lower, central=found.value, high=found.upper)


def _overlap(one: Interval, other: Interval) -> bool:
    return one.low <= other.high and other.low <= one.high


def line_of(run: Run) -> str:
    """Return a run in one line."""
    ratio, found = run.ratio_as_found, run.difference
    if ratio is None or found is None:
        return f"seed {run.seed}: the original is kept"
    return (
        f"seed {run.seed}: {run.recipe}; joules over those as found "
        f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}), grade {ratio.grade}; quality "
        f"{100 * found.value:+.2f} points ({100 * found.lower:+.2f} to {100 * found.upper:+.2f})"
    )


def lines_of(record: Record) -> list[str]:
    """Return a line per job for the terminal."""
    return [
        f"{each.job}: {sum(pair.agrees for pair in each.pairs)} of {len(each.pairs)} pairs agree"
        for each in record.agreements
    ]


def main(arguments: list[str] | None = None) -> None:
    """Print a line per job, and write the record where that is asked for; exit 3 for discord."""
    parser = argparse.ArgumentParser(description="Agreement of runs with different seeds.")
    parser.add_argument("jobs", nargs="*", metavar="job", help=f"of {', '.join(JOBS)}; all if none")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="at least two")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    asked = parser.parse_args(arguments)
    if unknown := sorted({*asked.jobs} - {*JOBS}):
        parser.error(f"there is no job {unknown[0]!r}; choose of {', '.join(JOBS)}")
    if len({*asked.seeds}) < 2:
        parser.error("one seed agrees with itself; give two or more")
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    jobs = {name: JOBS[name] for name in asked.jobs or JOBS}
    try:
        record = measure(jobs, asked.seeds, lambda line: print(line, file=sys.stderr, flush=True))
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    if asked.output is not None:
        dump(record, asked.output)
    print("\n".join(lines_of(record)))
    if not all(each.agrees for each in record.agreements):
        parser.exit(3)


if __name__ == "__main__":
    main()
