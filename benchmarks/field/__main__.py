"""Compare optimisers on a model: `python -m benchmarks.field demo -o records/field-demo.json`."""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import warnings
from pathlib import Path

from benchmarks.field.run import Record, measure
from benchmarks.field.table import PEERS, WORKLOADS
from joulewise.core.errors import JoulewiseError
from joulewise.core.records import dump


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


def main(arguments: list[str] | None = None) -> None:
    """Print a line per optimiser, and write the record where that is asked for."""
    parser = argparse.ArgumentParser(prog="field", description="Model optimisers side by side.")
    parser.add_argument("workload", choices=list(WORKLOADS))
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--folder", type=Path, help="keep models there, and go on from there")
    parser.add_argument("-o", "--output", type=Path, help="write the record to this file")
    asked = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    peers = {name: PEERS[name] for name in asked.peers}
    try:
        with tempfile.TemporaryDirectory() as temporary:
            record = measure(
                asked.workload, WORKLOADS[asked.workload], peers, asked.folder or Path(temporary),
                lambda line: print(line, file=sys.stderr, flush=True),
            )  # fmt: skip
    except JoulewiseError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")
    if asked.output is not None:
        dump(record, asked.output)
    print("\n".join(lines_of(record)))


if __name__ == "__main__":
    main()
