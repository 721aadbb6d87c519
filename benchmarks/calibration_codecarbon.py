"""How far a two-parameter calibration brings CodeCarbon's estimate to a wall meter, on public data.

Raphael Fischer measured 318 runs of vision and language models on one machine (Core i9-13900K, RTX
4090) with CodeCarbon and, at the same time, with a kWh meter at the wall (Fischer 2025,
arXiv:2509.22092). The raw results are public but carry no licence, so they are read where they lie
and only figures computed from them are kept::

    git clone https://github.com/raphischer/ai-energy-validation
    python benchmarks/calibration_codecarbon.py ai-energy-validation/results -o \
records/calibration-codecarbon.json

For each workload the line of joulewise's own calibration is fitted to mean powers: wall = a x
CodeCarbon + b. The error that is told beside CodeCarbon's own is that of a model none of whose runs
were in the fit. differs: joulewise fits its own estimate to a load staircase; here the fit, the
intervals and the leaving-out are the same and the estimate is CodeCarbon's.

What limits it: the wall meter has steps of 1 Wh, about a tenth of a run of two minutes, and it is
one machine.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from joulewise.core.errors import InputError, JoulewiseError
from joulewise.core.records import dump
from joulewise.meter.calibration import Line
from joulewise.meter.fit import fit_line

SCHEMA = "joulewise/record/calibration-codecarbon/1"
SOURCE = "github.com/raphischer/ai-energy-validation, results/*.csv; Fischer 2025, arXiv:2509.22092"
KWH_J = 3.6e6

PICTURE = re.compile(r"([0-9a-f]{32})_capture_(start|stop)")
"""Name of a picture of the wall meter: the run and whether it was taken before or after it."""

READINGS = "_image_analysis.csv"
"""How the file with the readings of all pictures ends; the runs are in the file without that."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of one model.

    Args:
        workload: "vision, GPU", "vision, CPU", "LLM, GPU".
        model: its name.
        seconds: its length, s.
        codecarbon_j: what CodeCarbon estimated, J.
        wall_j: what the meter counted, J.
    """

    workload: str
    model: str
    seconds: float
    codecarbon_j: float
    wall_j: float


@dataclass(frozen=True, kw_only=True)
class Workload:
    """CodeCarbon against the wall meter over all runs of one workload.

    Args:
        name: the workload.
        runs: number of runs.
        models: number of models.
        raw_bias_ratio: mean of CodeCarbon / wall - 1.
        raw_error_ratio: mean of its absolute value (MAPE).
        calibrated_error_ratio: the same after calibration, each model left out of its own fit.
        line: wall over CodeCarbon, W.
    """

    name: str
    runs: int
    models: int
    raw_bias_ratio: float
    raw_error_ratio: float
    calibrated_error_ratio: float
    line: Line


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was found, and in which data."""

    source: str
    commit: str | None
    workloads: tuple[Workload, ...]
    schema: str = SCHEMA


def read_runs(folder: Path) -> Iterator[Run]:
    """Yield every run that has two readings of the wall meter.

    Args:
        folder: the ``results`` folder of the repository.

    Raises:
        InputError: it has no such files, or one is not as expected.
    """
    readings = sorted(folder.glob(f"*{READINGS}"))
    if not readings:
        raise InputError(f"{folder} has no *{READINGS}; give the results folder of {SOURCE}")
    for path in readings:
        runs = path.with_name(path.name.removesuffix(READINGS) + ".csv")
        try:
            yield from _runs(runs, _wall_j(path))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{runs} and {path.name} are not as expected: {error!r}") from error


def _runs(path: Path, wall_j: Mapping[str, float]) -> Iterator[Run]:
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["run_id"] in wall_j:
                kind = "LLM" if "LLM" in row["params.dataset"] else "vision"
                unit = "GPU" if "NVIDIA" in row["params.architecture"] else "CPU"
                yield Run(
                    workload=f"{kind}, {unit}",
                    model=row["params.model"],
                    seconds=float(row["metrics.running_time_total"]),
                    codecarbon_j=float(row["metrics.power_draw_total"]),
                    wall_j=wall_j[row["run_id"]],
                )


def _wall_j(path: Path) -> dict[str, float]:
    """Return the joules of each run between the meter's pictures before and after it."""
    values: dict[str, dict[str, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            picture = PICTURE.search(row[""])
            if picture is not None:
                values.setdefault(picture[1], {})[picture[2]] = float(row["value"])
    return {
        run: (both["stop"] - both["start"]) * KWH_J
        for run, both in values.items()
        if len(both) == len(("start", "stop"))
    }


def analyse(name: str, runs: list[Run]) -> Workload:
    """Compare CodeCarbon with the wall meter over the runs of one workload, before and after."""
    seconds = np.array([run.seconds for run in runs])
    estimate_w = np.array([run.codecarbon_j for run in runs]) / seconds
    wall_w = np.array([run.wall_j for run in runs]) / seconds
    models = [run.model for run in runs]
    line = fit_line(list(estimate_w), list(wall_w), models)
    return Workload(
        name=name,
        runs=len(runs),
        models=len(set(models)),
        raw_bias_ratio=float(np.mean(estimate_w / wall_w - 1)),
        raw_error_ratio=float(np.mean(np.abs(estimate_w / wall_w - 1))),
        calibrated_error_ratio=line.left_out_error_ratio,
        line=line,
    )


def find_commit(folder: Path) -> str | None:
    """Return the commit of the repository that a folder is checked out from, None where unknown."""
    asked = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def main(arguments: list[str] | None = None) -> None:
    """Print a line per workload, and write the record where that is asked for."""
    parser = argparse.ArgumentParser(description="CodeCarbon against a wall meter, calibrated.")
    parser.add_argument("folder", type=Path, help="the results folder of ai-energy-validation")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    parser.add_argument("--commit", help="of the data; default: that of the checkout")
    asked = parser.parse_args(arguments)
    try:
        runs = list(read_runs(asked.folder))
        found = [
            analyse(name, [run for run in runs if run.workload == name])
            for name in sorted({run.workload for run in runs})
        ]
        if asked.output is not None:
            commit = asked.commit or find_commit(asked.folder)
            dump(Record(source=SOURCE, commit=commit, workloads=tuple(found)), asked.output)
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    for each in found:
        a, b_w = each.line.a, each.line.b_w
        print(
            f"{each.name:12} {each.runs:4} runs of {each.models:3} models: error "
            f"{100 * each.raw_error_ratio:.1f} % -> {100 * each.calibrated_error_ratio:.1f} %; "
            f"wall = {a.central:.3f} ({a.low:.3f} to {a.high:.3f}) x CodeCarbon + "
            f"{b_w.central:.1f} W ({b_w.low:.1f} to {b_w.high:.1f}), r2 {each.line.r2:.3f}"
        )


if __name__ == "__main__":
    main()
