r"""Print the rows of ``joulewise/meter/power_table.py`` from published SPECpower results.

Takes one table of SPECpower_ssj2008 results with the wall power at every load::

    git clone https://github.com/green-coding-solutions/cloud-energy   # MIT
    python scripts/make_power_table.py cloud-energy/data/spec_data.csv

differs: cloud-carbon-coefficients (Apache-2.0) tables the same results with full load and idle
only, and has no server of these rows that this table lacks.

Only published single-node results count, and only CPUs whose product name decides the
microarchitecture. Product names are Intel's and AMD's own numbering (differs:
cloud-carbon-coefficients matches lists of names and puts client and server parts of one generation
together; their CPUID models differ, so they are kept apart here). A row with fewer than MIN_SERVERS
servers is not printed: two servers make no band, and the wide band of an unknown CPU is the honest
answer. What is printed is what POWER_TABLE holds, character by character.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from joulewise.core.energy import Interval
from joulewise.meter.power_table import (
    LOADS_PERCENT,
    SPECPOWER,
    PowerRow,
    ServerResult,
    idle_w_per_cpu,
    net_w_per_cpu,
)

PRODUCTS = (
    ("Zen 1 EPYC", "AuthenticAMD", (23, 1), r"EPYC 7\d\d1P?\b"),
    ("Zen 2 EPYC", "AuthenticAMD", (23, 49), r"EPYC 7(\d|F|H|R|V)\d2P?\b"),
    ("Zen 3 EPYC", "AuthenticAMD", (25, 1), r"EPYC 7(\d|F)\d3[PX]?\b"),
    ("Sandy Bridge client", "GenuineIntel", (6, 42), r"E3-12\d\d(?!\d|L? ?v\d)"),
    ("Sandy Bridge-EP", "GenuineIntel", (6, 45), r"E5-[124][46]\d\d(?!\d|[LW]? ?v\d)"),
    ("Ivy Bridge client", "GenuineIntel", (6, 58), r"E3-12\d\dL? ?v2"),
    ("Ivy Bridge-EP", "GenuineIntel", (6, 62), r"E[57]-\d{4}L?W? ?v2"),
    ("Haswell client", "GenuineIntel", (6, 60), r"E3-12\d\dL? ?v3|Core i[357]-4\d{3}\b"),
    ("Haswell-EP", "GenuineIntel", (6, 63), r"E[57]-\d{4}L?W? ?v3"),
    ("Broadwell-EP", "GenuineIntel", (6, 79), r"E[57]-\d{4}L?W? ?v4"),
    ("Skylake client", "GenuineIntel", (6, 94), r"E3-12\d\dL? ?v5"),
    ("Kaby Lake and Coffee Lake", "GenuineIntel", (6, 158), r"E3-12\d\dL? ?v6|E-2[12]\d\dG?"),
    (
        "Skylake-SP, Cascade Lake and Cooper Lake",
        "GenuineIntel",
        (6, 85),
        r"(Platinum|Gold|Silver|Bronze) (\d[12]\d\d|83\d\dHL?)",
    ),
    ("Ice Lake-SP", "GenuineIntel", (6, 106), r"(Platinum|Gold|Silver) \d3\d\d(?!H)"),
    ("Rocket Lake", "GenuineIntel", (6, 167), r"E-23\d\dG?"),
)
"""Row, CPUID vendor, CPUID (family, model) and what the CPU's product name looks like.

The first that fits decides.
"""

MIN_SERVERS = 5


def architecture(cpu: str) -> str | None:
    """Return the row that a CPU's product name belongs to, None if no row takes it."""
    for name, _, _, pattern in PRODUCTS:
        if re.search(pattern, cpu, re.IGNORECASE):
            return name
    return None


def read_results(path: Path) -> Iterator[tuple[str, ServerResult]]:
    """Read (CPU name, result) of every published single-node row of a table."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for row in csv.DictReader(lines, delimiter="|", quoting=csv.QUOTE_NONE):
        if row["Test_Method"] == "Single Node" and row["Publication"] != "Unpublished":
            result = parse_result(
                row["HW_HardwareThreads"],
                row["ActiveIdle"],
                [row[f"{percent}_AvgPower"] for percent in LOADS_PERCENT],
            )
            if result is not None:
                yield row["HW_CPUName"], result


def parse_result(threads: str, idle: str, loads: Sequence[str]) -> ServerResult | None:
    """Read the numbers of a result, "224 (2 / core)" or "1,024" too; None where one is blank."""
    try:
        return ServerResult(
            threads=int(threads.split(maxsplit=1)[0].replace(",", "")),
            idle_w=float(idle.replace(",", "")),
            load_w=tuple(float(load.replace(",", "")) for load in loads),
        )
    except (ValueError, IndexError):
        return None


def grouped(path: Path) -> dict[str, list[ServerResult]]:
    """Return the distinct results of a table per row, where there are enough."""
    found: dict[str, set[ServerResult]] = defaultdict(set)
    for cpu, result in read_results(path):
        name = architecture(cpu)
        if name is not None:
            found[name].add(result)
    return {
        name: sorted(results, key=lambda result: (result.threads, result.load_w, result.idle_w))
        for name, results in found.items()
        if len(results) >= MIN_SERVERS
    }


def power_rows(results: Mapping[str, Sequence[ServerResult]]) -> Iterator[PowerRow]:
    """Compute the rows of the power table, in the order of PRODUCTS."""
    for name, vendor, cpuid, _ in PRODUCTS:
        if name in results:
            yield PowerRow(
                name=name,
                vendor=vendor,
                cpuids=(cpuid,),
                idle_w=idle_w_per_cpu(results[name]),
                net_w=net_w_per_cpu(results[name]),
                servers=len(results[name]),
                source=SPECPOWER,
            )


def written(row: PowerRow) -> str:
    """Write a row as it stands in the power table."""
    return f"""    PowerRow(
        name="{row.name}",
        vendor="{row.vendor}",
        cpuids={row.cpuids},
        idle_w={band(row.idle_w)},
        net_w={band(row.net_w)},
        servers={row.servers},
        source=SPECPOWER,
    ),
"""


def band(interval: Interval) -> str:
    return f"_band({interval.low:.2f}, {interval.central:.2f}, {interval.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("table", type=Path, help="SPECpower results, spec_data.csv")
    for row in power_rows(grouped(parser.parse_args().table)):
        print(written(row), end="")


if __name__ == "__main__":
    main()
