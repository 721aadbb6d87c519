"""Measure every recipe of a space once, so that samplers can be compared on it afterwards.

    python -m benchmarks.spaces MODEL --data DATA -o records/space-NAME.json

Every recipe after training that the search may propose for the model is made, judged on the search
split and measured, whatever it costs: joules relative to the original on one thread. `replay` then
lets a sampler choose from the record what it would have tried, as often as one likes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from joulewise.core.claim import Trial
from joulewise.core.errors import JoulewiseError
from joulewise.core.host import Host, read_host
from joulewise.core.profile import Profile
from joulewise.core.records import dump
from joulewise.core.settings import Settings, Usage
from joulewise.export.process import ProgramProcess
from joulewise.meter.bill import Bill
from joulewise.meter.table import meter_opener
from joulewise.pipeline import judge_of_original, usable_runtimes
from joulewise.search.bench import Bench
from joulewise.search.choose import best_runs
from joulewise.search.sampling import Sampler, point_of, points_of
from joulewise.search.session import Session
from joulewise.search.space import changed_recipes, lossless_recipes
from joulewise.workload.workload import open_workload


@dataclass(frozen=True, kw_only=True)
class Space:
    """All recipes of a space, measured.

    Args:
        data: where the items come from.
        margin: largest acceptable loss of quality, as a fraction.
        hold_out_items: for which the quality was foreseen.
        host: the machine.
        tried: how many of `trials` are tried in any case, the first ones.
        trials: of all recipes, those of the lossless ways first; without their blocks.
        originals: runtime -> where the time of the original's calls goes.
    """

    data: str
    margin: float
    hold_out_items: int
    host: Host
    tried: int
    trials: tuple[Trial, ...]
    originals: Mapping[str, Profile]


def measure(model: Path, data: str, margin: float, batch_items: int, folder: Path) -> Space:
    """Return the space of a model, measured; trials that are done are told on stderr."""
    settings, host = Settings(margin=margin), read_host()
    usage, (runtimes, _) = Usage(batch_items=batch_items), usable_runtimes(None)
    open_meter = meter_opener(None, host)
    workload = open_workload(model, data, usage, settings, folder / "data")
    judge = judge_of_original(workload, runtimes, settings, folder / "original")
    session = Session(
        workload=workload, judge=judge, settings=settings, runtimes=runtimes, host=host,
        open_meter=open_meter, folder=folder,
    )  # fmt: skip
    bill = Bill(open_meter([os.getpid()]))
    with ProgramProcess(
        workload.model.path, session.anchor.run, workload.search, batch_items
    ) as anchor:
        bench = Bench(session, anchor)
        lossless = lossless_recipes(runtimes, host.logical_cpus)
        trials = [bench.try_recipe(recipe, None, bill) for recipe in lossless]
        inputs = [tensor.name for tensor in workload.model.inputs]
        best = best_runs(trials)
        usual = changed_recipes(workload.model.operators, best, host, inputs)
        originals = {name: bench.profile_of_original(run) for name, run in best.items()}
        trials += [bench.try_recipe(recipe, None, bill) for recipe in usual]
        tried = len(trials)
        known = {point_of(trial.recipe).name for trial in trials}
        others = [point.recipe for point in points_of(usual) if point.name not in known]
        order = np.random.default_rng(0).permutation(len(others))  # drift falls on no value
        for number, place in enumerate(order):
            trials.append(bench.try_recipe(others[place], None, bill))
            print(f"{number + 1} of {len(others)}: {_words(trials[-1])}", file=sys.stderr)
    return Space(
        data=data, margin=margin, hold_out_items=workload.hold_out.items, host=host, tried=tried,
        trials=tuple(replace(trial, measurement=None, profile=None) for trial in trials),
        originals={name: profile for name, profile in originals.items() if profile is not None},
    )  # fmt: skip


def _words(trial: Trial) -> str:
    found = "–" if trial.ratio is None else f"{trial.ratio.value:.3f}"
    return f"{found} {trial.state} {trial.recipe} {trial.reason or ''}"


def replay(space: Space, sampler: Sampler, tries: int, seed: int) -> list[float]:
    """Return the cheapest ratio to the original that keeps the quality, after 0, 1, ... `tries`.

    It begins with one recipe of each way, drawn by the seed: what a search tries in any case is
    good already, and would leave little to find.

    Args:
        space: the record.
        sampler: which picks from it.
        tries: how many recipes it may pick.
        seed: of the beginning and of the sampler.
    """
    trials = [trial for trial in space.trials if not trial.recipe.lossless]
    known = {(point := point_of(trial.recipe)).name: (point, trial) for trial in trials}
    random = np.random.default_rng(seed)
    pairs = [list(known.values())[place] for place in random.permutation(len(known))]
    tried = list({point.way.key: (point, trial) for point, trial in pairs}.values())
    begun = {point.name for point, _ in tried}
    untried = [point for name, (point, _) in known.items() if name not in begun]
    found = [_best(trial for _, trial in tried)]
    for number in range(min(tries, len(untried))):
        picked = sampler(untried, tried, space.margin, seed * tries + number)
        if picked is None:
            break
        untried.remove(picked)
        tried.append(known[picked.name])
        found.append(min(found[-1], _best([tried[-1][1]])))
    return found + found[-1:] * (1 + tries - len(found))


def _best(trials: Iterable[Trial]) -> float:
    kept = (trial.ratio for trial in trials if trial.state == "measured")
    return min((ratio.value for ratio in kept if ratio is not None), default=1.0)


def main(arguments: list[str] | None = None) -> None:
    """Write the record of a space."""
    parser = argparse.ArgumentParser(description="Measure every recipe of a space.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--margin", type=float, default=0.5, help="percentage points")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            margin = asked.margin / 100
            space = measure(asked.model, asked.data, margin, asked.batch, Path(folder))
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    dump(space, asked.output)


if __name__ == "__main__":
    main()
