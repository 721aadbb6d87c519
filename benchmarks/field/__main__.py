"""Compare optimisers: `python -m benchmarks.field demo -o records`, or without a name on all."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks.field.environments import EnvironmentFailedError, python_of
from benchmarks.field.lanes import cpus, run_at_once
from benchmarks.field.run import PLAN, Record, make, measure
from benchmarks.field.table import (
    ENVIRONMENTS,
    PEERS,
    SCALING,
    SCALING_PEERS,
    SHORT,
    WORKLOADS,
    Workload,
)
from joulewise.core.errors import JoulewiseError
from joulewise.core.records import dump
from joulewise.meter.interleave import Plan

SHORT_PLAN = Plan(rounds=6, block_s=0.15, warm_up_s=0.3)


def lines_of(record: Record) -> list[str]:
    """Return a line per optimiser for the terminal."""
    lines = [f"{record.title}: {record.held_out:,} held-out items; joules over {record.baseline}"]
    for each in record.entries:
        if each.ratio is None or each.difference is None:
            lines.append(f"{each.title:32} failed: {each.reason}")
            continue
        ratio, difference = each.ratio, each.difference
        word = "worse than what went in" if each.harms(record.margin) else ""
        lines.append(
            f"{each.title:32} {ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f}); "
            f"{100 * difference.value:+.2f} points (bound {100 * difference.lower:+.2f}) {word}"
        )
    return lines


def short(workload: Workload) -> Workload:
    """Return a workload on which joulewise only tries what takes seconds."""
    return replace(workload, train=None, settings=replace(workload.settings, proposals=0))


def main(arguments: list[str] | None = None) -> None:
    """Print a line per optimiser, and write the records where that is asked for."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    table = SCALING if asked.scaling else WORKLOADS
    names = asked.workloads or (SHORT if asked.short else list(table))
    peers = list(asked.peers or (SCALING_PEERS if asked.scaling else PEERS))
    if asked.make and asked.folder is None:
        parser.error("--make needs a --folder to keep the models in")
    unknown = [name for name in names if name not in table]
    if unknown:
        parser.error(f"there is no workload {unknown[0]!r}; choose from: {', '.join(table)}")
    if not 1 <= asked.at_once <= max(1, len(cpus())):
        parser.error(f"--at-once may be 1 to {max(1, len(cpus()))}: each workload needs a CPU")
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    if asked.output is not None:
        asked.output.mkdir(parents=True, exist_ok=True)
    if asked.at_once > 1:
        _make_environments(peers)
        commands = [_command(name, peers, asked) for name in names]
        sys.exit(not run_at_once(commands, asked.at_once))
    went_well = [_compared(name, table[name], peers, asked) for name in names]
    if not all(went_well):
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="field", description="Model optimisers side by side.")
    parser.add_argument("workloads", nargs="*", metavar="workload", help=", ".join(WORKLOADS))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), help="all, if not given")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--short", action="store_true", help="two small ones, nothing learns")
    size.add_argument("--scaling", action="store_true", help="one model after the other grows")
    parser.add_argument("--folder", type=Path, help="keep models there, and go on from there")
    parser.add_argument(
        "--make", action="store_true", help="only make the models, in --folder, to measure later"
    )
    parser.add_argument("-o", "--output", type=Path, help="write the records to this folder")
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="workloads, each on CPUs of its own"
    )
    return parser


def _compared(name: str, known: Workload, peers: Sequence[str], asked: argparse.Namespace) -> bool:
    """Make or compare the versions of one model; return whether that went well."""
    workload = short(known) if asked.short else known
    chosen, say = {peer: PEERS[peer] for peer in peers}, partial(_say, name)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = (asked.folder or Path(temporary)) / name
            if asked.make:
                make(workload, chosen, folder, say)
                return True
            plan = SHORT_PLAN if asked.short else PLAN
            record = measure(name, workload, chosen, folder, say, plan)
    except (JoulewiseError, OSError) as error:
        say(str(error))
        return False
    if asked.output is not None:
        dump(record, asked.output / f"{'scaling' if asked.scaling else 'field'}-{name}.json")
    print("\n".join(lines_of(record)), flush=True)
    return True


def _command(name: str, peers: Sequence[str], asked: argparse.Namespace) -> list[str]:
    """Return what runs one of the workloads by itself, and is asked for the same otherwise."""
    options = [f"--{each}" for each in ("short", "scaling", "make") if getattr(asked, each)]
    given = {"folder": asked.folder, "output": asked.output}
    options += [f"--{each}={path}" for each, path in given.items() if path is not None]
    return [sys.executable, "-m", "benchmarks.field", name, *options, "--peers", *peers]


def _make_environments(peers: Sequence[str]) -> None:
    """Make what those that run at once would make at the same time."""
    for environment in {PEERS[peer].environment for peer in peers}:
        with suppress(EnvironmentFailedError):  # those that need it say so
            python_of(environment, ENVIRONMENTS[environment])


def _say(name: str, line: str) -> None:
    print(f"{name}: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
