"""Watts per logical CPU of server processors, with the source on every row.

The table answers one question of the grade-D estimate: how much wall power does a machine draw
above idle for each CPU that is busy? It is computed from published SPECpower_ssj2008 results, the
largest public set of wall-meter readings at idle and at full load, by
``scripts/make_power_table.py``; bands are the 5th and 95th percentile over servers.

What the bands do not hold: (1) SPECpower runs tuned Java servers; (2) at full load both hardware
threads of a core share its power, so a lone thread on an otherwise idle machine draws more than its
share: in the same results the watts above idle per busy thread at 10 % load are 1 to 2 times those
at full load on Intel servers and 2.2 to 2.9 times on EPYC (medians). A ratio of two programs on one
machine that use as many threads is not touched by either.

Invariants: low <= central <= high; every row has a source; rows do not share a CPUID.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from joulewise.core.energy import Interval
from joulewise.core.host import Host

__all__ = [
    "INSTRUCTION_MIX_SPREAD_RATIO",
    "POWER_TABLE",
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

SPECPOWER = (
    "SPECpower_ssj2008 published results (spec.org/power_ssj2008), wall power of whole single-node "
    "servers, as tabled in github.com/cloud-carbon-footprint/cloud-carbon-coefficients "
    "(Apache-2.0, commit dda7621) and "
    "github.com/green-coding-solutions/cloud-energy (MIT, commit 6a25a2b, results to 2022)"
)


@dataclass(frozen=True, kw_only=True)
class ServerResult:
    """One server in the SPECpower results.

    Args:
        threads: hardware threads of the server.
        full_w: mean wall power at 100 % load, W.
        idle_w: mean wall power at active idle, W.
    """

    threads: int
    full_w: float
    idle_w: float


@dataclass(frozen=True, kw_only=True)
class PowerRow:
    """Watts per logical CPU of one microarchitecture.

    Args:
        name: the microarchitecture.
        vendor: CPUID vendor.
        cpuids: CPUID (family, model) pairs of the row.
        idle_w: wall power of the idle server per logical CPU, W.
        net_w: wall power above idle at full load per logical CPU, W.
        servers: number of servers behind the figures.
        source: where the figures come from.

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
    """Compute the band of wall power above idle per logical CPU at full load, W.

    Args:
        results: servers of one microarchitecture, at least one.
    """
    return _percentiles((result.full_w - result.idle_w) / result.threads for result in results)


def idle_w_per_cpu(results: Sequence[ServerResult]) -> Interval:
    """Compute the band of idle wall power per logical CPU, W.

    Args:
        results: servers of one microarchitecture, at least one.
    """
    return _percentiles(result.idle_w / result.threads for result in results)


def _percentiles(watts: Iterable[float]) -> Interval:
    low, central, high = np.percentile(
        np.fromiter(watts, float), [LOW_PERCENTILE, 50, HIGH_PERCENTILE]
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
        net_w=_band(1.52, 1.60, 2.34),
        servers=10,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Zen 2 EPYC",
        vendor="AuthenticAMD",
        cpuids=((23, 49),),
        idle_w=_band(0.32, 0.43, 0.63),
        net_w=_band(1.15, 1.23, 1.45),
        servers=30,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Zen 3 EPYC",
        vendor="AuthenticAMD",
        cpuids=((25, 1),),
        idle_w=_band(0.31, 0.42, 0.70),
        net_w=_band(1.12, 1.43, 1.69),
        servers=22,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Sandy Bridge client",
        vendor="GenuineIntel",
        cpuids=((6, 42),),
        idle_w=_band(1.96, 2.67, 5.24),
        net_w=_band(4.58, 9.28, 14.59),
        servers=9,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Sandy Bridge-EP",
        vendor="GenuineIntel",
        cpuids=((6, 45),),
        idle_w=_band(1.56, 1.75, 3.71),
        net_w=_band(4.33, 6.12, 9.40),
        servers=97,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Ivy Bridge client",
        vendor="GenuineIntel",
        cpuids=((6, 58),),
        idle_w=_band(1.82, 2.39, 8.12),
        net_w=_band(4.70, 6.00, 7.98),
        servers=7,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Haswell client",
        vendor="GenuineIntel",
        cpuids=((6, 60),),
        idle_w=_band(1.74, 2.11, 16.19),
        net_w=_band(3.97, 5.91, 10.59),
        servers=6,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Haswell-EP",
        vendor="GenuineIntel",
        cpuids=((6, 63),),
        idle_w=_band(0.55, 0.65, 0.86),
        net_w=_band(3.02, 3.14, 3.31),
        servers=13,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Broadwell-EP",
        vendor="GenuineIntel",
        cpuids=((6, 79),),
        idle_w=_band(0.47, 0.51, 0.55),
        net_w=_band(2.26, 2.43, 3.09),
        servers=12,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Kaby Lake and Coffee Lake",
        vendor="GenuineIntel",
        cpuids=((6, 158),),
        idle_w=_band(0.91, 1.12, 1.65),
        net_w=_band(2.41, 4.97, 5.97),
        servers=12,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Skylake-SP, Cascade Lake and Cooper Lake",
        vendor="GenuineIntel",
        cpuids=((6, 85),),
        idle_w=_band(0.38, 0.50, 1.64),
        net_w=_band(2.52, 3.45, 4.04),
        servers=102,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Ice Lake-SP",
        vendor="GenuineIntel",
        cpuids=((6, 106),),
        idle_w=_band(0.69, 0.83, 1.82),
        net_w=_band(2.59, 3.12, 4.06),
        servers=22,
        source=SPECPOWER,
    ),
    PowerRow(
        name="Rocket Lake",
        vendor="GenuineIntel",
        cpuids=((6, 167),),
        idle_w=_band(0.97, 1.27, 1.42),
        net_w=_band(3.10, 3.61, 3.87),
        servers=14,
        source=SPECPOWER,
    ),
)
"""One row per CPUID model; a model that CPUID does not tell apart (85) is one merged row.

differs: absent are CPUs with fewer than five published servers in these tables (Ivy Bridge-EP 2,
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
