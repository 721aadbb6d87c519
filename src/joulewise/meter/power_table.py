"""Watts per logical CPU of server processors, with the source on every row.

The table answers one question of the grade-D estimate: how many watts above idle does each busy
logical CPU account for on a server whose load is unknown? It is computed by
``scripts/make_power_table.py`` from published SPECpower_ssj2008 results, the largest public set of
wall-meter readings at idle and at ten loads. With n(L) = (W at load L - W at active idle) /
(L x logical CPUs), the watts above idle per busy logical CPU at L = 100, 90, ..., 10 % load, a row
holds

- low: the 5th percentile over servers of the server's smallest n(L);
- central: the median over servers of (n(100 %) + n(10 %)) / 2;
- high: the 95th percentile over servers of the server's largest n(L).

All ten loads count because neither end of the range is always the extreme: the medians over servers
of n(10 %) / n(100 %) are 2.2 to 2.9 on EPYC, 1.2 to 1.9 on Intel servers and 0.9 to 1.2 on Intel
clients, and on all Intel rows but Sandy Bridge client the median n(L) is smallest between 40 % and
70 % load. As a server's smallest n(L) <= the mean of two <= its largest, a band is in order by
construction.

What the bands do not hold: (1) SPECpower runs tuned Java servers, on machines that their vendors
chose and tuned. (2) A load is a share of the server's own largest throughput, taken here as the
share of its logical CPUs that are busy. 99 % of these servers have two hardware threads a core, and
a thread that has a core to itself gets more done than one that shares it, so at light load fewer
CPUs may be busy than counted, each costing more. (3) No load is below 10 %, which is 26 busy CPUs
of 256: a program that is alone on a large idle server wakes it all by itself and may cost more than
`high`. (4) n is an equal share of the watts above idle for each busy CPU, not the cost of one
more, which at middle loads is below `low` on several rows. A ratio of two programs on one machine
that use as many threads is not touched by any of these.

Invariants: low <= central <= high; every row has a source; rows do not share a CPUID.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from joulewise.core.energy import Interval
from joulewise.core.host import Host

__all__ = [
    "INSTRUCTION_MIX_SPREAD_RATIO",
    "LOADS_PERCENT",
    "POWER_TABLE",
    "SPECPOWER",
    "UNKNOWN_CPU",
    "PowerRow",
    "ServerResult",
    "idle_w_per_cpu",
    "net_w_per_cpu",
    "power_of",
]

INSTRUCTION_MIX_SPREAD_RATIO = 1.22
"""Largest ratio of power between two programs that each keep one core busy.

Source: Pereira et al. 2017, SLE, doi:10.1145/3136014.3136031; computed from the raw RAPL files
(C.csv, C++.csv, Rust.csv) of github.com/greensoftwarelab/Energy-Languages: package power of the
single-threaded programs n-body and pidigits on one Intel Haswell desktop, medians 17.8, 18.6,
18.7, 21.0, 21.1 and 21.8 W; 21.8 / 17.8 = 1.22. differs: package power includes idle; one machine.
"""

LOW_PERCENTILE, HIGH_PERCENTILE = 5, 95

LOADS_PERCENT = tuple(range(100, 0, -10))
"""The loads of a SPECpower_ssj2008 result, highest first, in percent of its own throughput.

differs: the nominal load is used; the actual one is within 1.4 % of it in 98 % of the readings.
"""

SPECPOWER = (
    "SPECpower_ssj2008 published results (spec.org/power_ssj2008), wall power of whole single-node "
    "servers at idle and at ten loads, as tabled in "
    "github.com/green-coding-solutions/cloud-energy (MIT, commit 6a25a2b, results to 2022); "
    "watts above idle per busy logical CPU: 5th percentile over servers of the lowest of ten "
    "loads, median of the mean of 10 % and 100 % load, 95th percentile of the highest of ten "
    "loads; differs: tuned Java servers, busy CPUs taken as the load's share of all, no load "
    "below 10 %"
)


@dataclass(frozen=True, kw_only=True)
class ServerResult:
    """One server in the SPECpower results.

    Args:
        threads: hardware threads of the server.
        idle_w: mean wall power at active idle, W.
        load_w: mean wall power at each of LOADS_PERCENT, W.

    Raises:
        ValueError: there is not one wall power for each of LOADS_PERCENT.
    """

    threads: int
    idle_w: float
    load_w: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.load_w) != len(LOADS_PERCENT):
            raise ValueError(f"{len(self.load_w)} loads in a result, expected {LOADS_PERCENT}")

    @property
    def net_w_per_busy_cpu(self) -> tuple[float, ...]:
        """Wall power above idle per busy logical CPU at each of LOADS_PERCENT, W."""
        return tuple(
            (watts - self.idle_w) / (self.threads * percent / 100)
            for percent, watts in zip(LOADS_PERCENT, self.load_w, strict=True)
        )


@dataclass(frozen=True, kw_only=True)
class PowerRow:
    """Watts per logical CPU of one microarchitecture.

    Args:
        name: the microarchitecture.
        vendor: CPUID vendor.
        cpuids: CPUID (family, model) pairs of the row.
        idle_w: wall power of the idle server per logical CPU, W; 5th percentile, median and 95th
            percentile over servers.
        net_w: wall power above idle per busy logical CPU at an unknown load, W; see net_w_per_cpu.
        servers: number of servers behind the figures.
        source: where the figures come from, how they were computed and where they differ from
            what is asked.

    Raises:
        ValueError: the row has no source, or a band is not low <= central <= high.
    """

    name: str
    vendor: str
    cpuids: tuple[tuple[int, int], ...]
    idle_w: Interval
    net_w: Interval
    servers: int
    source: str

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise ValueError(f"the power row {self.name!r} has no source")
        for band in (self.idle_w, self.net_w):
            if not 0 < band.low <= band.central <= band.high:
                raise ValueError(f"the power row {self.name!r} has a band out of order")


def power_of(host: Host) -> PowerRow:
    """Return the row of a host's CPU, or UNKNOWN_CPU with its wide band.

    Args:
        host: the machine; matched by CPUID vendor, family and model.
    """
    for row in POWER_TABLE:
        if row.vendor == host.vendor and (host.family, host.model) in row.cpuids:
            return row
    return UNKNOWN_CPU


def net_w_per_cpu(results: Sequence[ServerResult]) -> Interval:
    """Compute the band of wall power above idle per busy logical CPU at an unknown load, W.

    The low end is a low percentile of the servers' smallest value over their loads, the high end a
    high percentile of the largest, the centre the median of the mean of full and lightest load.

    Args:
        results: servers of one microarchitecture, at least one.
    """
    import numpy as np  # late: the table itself does without NumPy

    nets = [result.net_w_per_busy_cpu for result in results]
    return Interval(
        low=float(np.percentile([min(net) for net in nets], LOW_PERCENTILE)),
        central=float(np.median([(net[0] + net[-1]) / 2 for net in nets])),
        high=float(np.percentile([max(net) for net in nets], HIGH_PERCENTILE)),
    )


def idle_w_per_cpu(results: Sequence[ServerResult]) -> Interval:
    """Compute the band of idle wall power per logical CPU, W.

    Args:
        results: servers of one microarchitecture, at least one.
    """
    import numpy as np

    low, central, high = np.percentile(
        [result.idle_w / result.threads for result in results],
        [LOW_PERCENTILE, 50, HIGH_PERCENTILE],
    )
    return Interval(low=float(low), central=float(central), high=float(high))


def _band(low: float, central: float, high: float) -> Interval:
    return Interval(low=low, central=central, high=high)


def _hull(bands: Sequence[Interval]) -> Interval:
    """Return the lowest low, the geometric mean of the centrals and the highest high."""
    return Interval(
        low=min(band.low for band in bands),
        central=math.exp(sum(math.log(band.central) for band in bands) / len(bands)),
        high=max(band.high for band in bands),
    )


POWER_TABLE = (
    PowerRow(
        name="Zen 1 EPYC",
        vendor="AuthenticAMD",
        cpuids=((23, 1),),
        idle_w=_band(0.62, 0.74, 1.32),
        net_w=_band(1.46, 2.94, 7.80),
        servers=10,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Zen 2 EPYC",
        vendor="AuthenticAMD",
        cpuids=((23, 49),),
        idle_w=_band(0.32, 0.43, 0.62),
        net_w=_band(1.12, 2.43, 4.44),
        servers=29,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Zen 3 EPYC",
        vendor="AuthenticAMD",
        cpuids=((25, 1),),
        idle_w=_band(0.31, 0.42, 0.70),
        net_w=_band(0.82, 2.47, 4.42),
        servers=22,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Sandy Bridge client",
        vendor="GenuineIntel",
        cpuids=((6, 42),),
        idle_w=_band(1.96, 2.67, 5.24),
        net_w=_band(3.85, 8.21, 16.90),
        servers=9,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Sandy Bridge-EP",
        vendor="GenuineIntel",
        cpuids=((6, 45),),
        idle_w=_band(1.56, 1.75, 3.69),
        net_w=_band(3.15, 6.57, 13.84),
        servers=98,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Ivy Bridge client",
        vendor="GenuineIntel",
        cpuids=((6, 58),),
        idle_w=_band(1.82, 2.39, 8.12),
        net_w=_band(3.41, 4.90, 8.23),
        servers=7,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Haswell client",
        vendor="GenuineIntel",
        cpuids=((6, 60),),
        idle_w=_band(1.74, 2.11, 16.19),
        net_w=_band(3.34, 5.97, 12.84),
        servers=6,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Haswell-EP",
        vendor="GenuineIntel",
        cpuids=((6, 63),),
        idle_w=_band(0.55, 0.65, 0.86),
        net_w=_band(2.69, 4.44, 6.30),
        servers=13,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Broadwell-EP",
        vendor="GenuineIntel",
        cpuids=((6, 79),),
        idle_w=_band(0.47, 0.51, 0.55),
        net_w=_band(1.99, 3.59, 5.41),
        servers=12,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Kaby Lake and Coffee Lake",
        vendor="GenuineIntel",
        cpuids=((6, 158),),
        idle_w=_band(0.91, 1.12, 1.65),
        net_w=_band(1.43, 4.47, 5.97),
        servers=12,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Skylake-SP, Cascade Lake and Cooper Lake",
        vendor="GenuineIntel",
        cpuids=((6, 85),),
        idle_w=_band(0.38, 0.50, 1.64),
        net_w=_band(2.22, 4.69, 7.39),
        servers=102,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Ice Lake-SP",
        vendor="GenuineIntel",
        cpuids=((6, 106),),
        idle_w=_band(0.69, 0.82, 1.80),
        net_w=_band(1.60, 3.53, 5.76),
        servers=23,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Rocket Lake",
        vendor="GenuineIntel",
        cpuids=((6, 167),),
        idle_w=_band(0.97, 1.27, 1.42),
        net_w=_band(1.95, 3.58, 4.10),
        servers=14,
        source=SPECPOWER,
    ),
)
"""One row per CPUID model; a model that CPUID does not tell apart (85) is one merged row.

Written by ``scripts/make_power_table.py``; every server has all ten loads, so no row is filled in
from another.

differs: absent are CPUs with fewer than five published servers in the source (Ivy Bridge-EP 2,
Skylake client 4) or none (Zen 4 and Zen 5 EPYC, Sapphire Rapids, all laptops and Arm).
"""

UNKNOWN_CPU = PowerRow(
    name="unknown CPU",
    vendor="",
    cpuids=(),
    idle_w=_hull([row.idle_w for row in POWER_TABLE]),
    net_w=_hull([row.net_w for row in POWER_TABLE]),
    servers=sum(row.servers for row in POWER_TABLE),
    source=f"widest band over {len(POWER_TABLE)} microarchitectures of {SPECPOWER}",
)
"""What a CPU without a row gets: the hull of all bands, the geometric mean in the middle."""
