r"""Print the rows of ``joulewise/measure/power_table.py`` from published SPECpower results.

Takes one or more tables of SPECpower_ssj2008 results, in either of two public layouts (a result
that is in both counts once)::

    git clone https://github.com/cloud-carbon-footprint/cloud-carbon-coefficients   # Apache-2.0
    git clone https://github.com/green-coding-solutions/cloud-energy                # MIT
    python scripts/make_power_table.py \
        cloud-carbon-coefficients/data/SPECpower-full-results.csv cloud-energy/data/spec_data.csv

Only single-node results count, and only CPUs whose product name decides the microarchitecture.
Product names are Intel's and AMD's own numbering (differs: cloud-carbon-coefficients matches lists
of names and puts client and server parts of one generation together; their CPUID models differ, so
they are kept apart here). A row with fewer than MIN_SERVERS servers is not printed: two servers
make no band, and the wide band of an unknown CPU is the honest answer.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from joulewise.core.energy import Interval
from joulewise.measure.power_table import ServerResult, idle_w_per_cpu, net_w_per_cpu

PRODUCTS = (
    ("Zen 1 EPYC", r"EPYC 7\d\d1P?\b"),
    ("Zen 2 EPYC", r"EPYC 7(\d|F|H|R|V)\d2P?\b"),
    ("Zen 3 EPYC", r"EPYC 7(\d|F)\d3[PX]?\b"),
    ("Sandy Bridge client", r"E3-12\d\d(?!\d|L? ?v\d)"),
    ("Sandy Bridge-EP", r"E5-[124][46]\d\d(?!\d|[LW]? ?v\d)"),
    ("Ivy Bridge client", r"E3-12\d\dL? ?v2"),
    ("Ivy Bridge-EP", r"E[57]-\d{4}L?W? ?v2"),
    ("Haswell client", r"E3-12\d\dL? ?v3|Core i[357]-4\d{3}\b"),
    ("Haswell-EP", r"E[57]-\d{4}L?W? ?v3"),
    ("Broadwell-EP", r"E[57]-\d{4}L?W? ?v4"),
    ("Skylake client", r"E3-12\d\dL? ?v5"),
    ("Kaby Lake and Coffee Lake", r"E3-12\d\dL? ?v6|E-2[12]\d\dG?"),
    (
        "Skylake-SP, Cascade Lake and Cooper Lake",
        r"(Platinum|Gold|Silver|Bronze) (\d[12]\d\d|83\d\dHL?)",
    ),
    ("Ice Lake-SP", r"(Platinum|Gold|Silver) \d3\d\d(?!H)"),
    ("Rocket Lake", r"E-23\d\dG?"),
)
"""Row -> what the CPU's product name looks like; the first that fits decides."""

MIN_SERVERS = 5


def architecture(cpu: str) -> str | None:
    """Return the row that a CPU's product name belongs to, None if no row takes it."""
    for name, pattern in PRODUCTS:
        if re.search(pattern, cpu, re.IGNORECASE):
            return name
    return None


def read_results(path: Path) -> Iterator[tuple[str, ServerResult]]:
    """Read (CPU name, result) of every usable single-node row of one table."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if "HW_CPUName" in lines[0]:
        rows: Iterable[Mapping[str, str]] = csv.DictReader(
            lines, delimiter="|", quoting=csv.QUOTE_NONE
        )
        columns = ("HW_CPUName", "HW_HardwareThreads", "100_AvgPower", "ActiveIdle")
        single = ("Test_Method", "Single Node")
    else:
        rows = csv.DictReader(lines)
        columns = (
            "CPU Description", "Total Threads", "avg. watts @ 100%", "avg. watts @ active idle",
        )  # fmt: skip
        single = ("Nodes", "1")
    for row in rows:
        if row[single[0]] == single[1]:
            cpu, threads, full, idle = (row[column] or "" for column in columns)
            result = parse_result(threads, full, idle)
            if result is not None:
                yield cpu, result


def parse_result(threads: str, full: str, idle: str) -> ServerResult | None:
    """Read the three numbers of a result, "224 (2 / core)" or "1,024" too; None where blank."""
    try:
        return ServerResult(
            threads=int(threads.split(maxsplit=1)[0].replace(",", "")),
            full_w=float(full.replace(",", "")),
            idle_w=float(idle.replace(",", "")),
        )
    except (ValueError, IndexError):
        return None


def grouped(paths: Iterable[Path]) -> dict[str, list[ServerResult]]:
    """Return the distinct results of all tables per row, in the order of PRODUCTS."""
    found: dict[str, set[ServerResult]] = defaultdict(set)
    for path in paths:
        for cpu, result in read_results(path):
            name = architecture(cpu)
            if name is not None:
                found[name].add(result)
    return {
        name: sorted(found[name], key=lambda result: (result.threads, result.full_w))
        for name, _ in PRODUCTS
        if len(found[name]) >= MIN_SERVERS
    }


def band(interval: Interval) -> str:
    return f"_band({interval.low:.2f}, {interval.central:.2f}, {interval.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("tables", type=Path, nargs="+", help="SPECpower tables, CSV")
    for name, results in grouped(parser.parse_args().tables).items():
        print(
            f"    # {name}\n    idle_w={band(idle_w_per_cpu(results))},\n"
            f"    net_w={band(net_w_per_cpu(results))},\n    servers={len(results)},"
        )


if __name__ == "__main__":
    main()
