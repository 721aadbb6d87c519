"""Was the machine quiet? CPU time that others took, or that the hypervisor withheld."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Load", "read_load", "warnings_of"]

NEIGHBOUR_LIMIT = 0.10
"""Share of the machine's CPU time above which other work spoils a measurement (judgement)."""

STEAL_LIMIT = 0.02
"""Share of CPU time withheld by the hypervisor above which it is said (judgement)."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Cumulative CPU seconds of the whole machine since it started."""

    busy_s: float
    idle_s: float
    steal_s: float


def read_load(proc: Path = Path("/proc")) -> Load | None:
    """Return the machine's CPU seconds, or None where the kernel does not tell.

    Source: proc(5), /proc/stat: user nice system idle iowait irq softirq steal, in clock ticks.
    """
    try:
        first = (proc / "stat").read_text().splitlines()[0].split()
        seconds = [int(field) / os.sysconf("SC_CLK_TCK") for field in first[1:9]]
        user, nice, system, idle, iowait, irq, softirq, steal = seconds
    except (OSError, ValueError, IndexError):
        return None
    return Load(busy_s=user + nice + system + irq + softirq, idle_s=idle + iowait, steal_s=steal)


def warnings_of(before: Load | None, after: Load | None, own_s: float) -> tuple[str, ...]:
    """Return what spoilt the time between two readings, each with its remedy.

    Args:
        before: the first reading.
        after: the second one.
        own_s: CPU seconds of the programs under test between them.
    """
    if before is None or after is None:
        return ()
    busy_s, steal_s = after.busy_s - before.busy_s, after.steal_s - before.steal_s
    total_s = busy_s + steal_s + after.idle_s - before.idle_s
    if total_s <= 0:
        return ()
    found = []
    others = max(0.0, busy_s - own_s) / total_s
    if others > NEIGHBOUR_LIMIT:
        found.append(
            f"other processes used {others:.0%} of the CPUs while measuring; "
            "stop them and run again for a narrower interval"
        )
    if steal_s / total_s > STEAL_LIMIT:
        found.append(
            f"the hypervisor withheld {steal_s / total_s:.0%} of the CPU time while measuring; "
            "use a dedicated machine or a quieter hour"
        )
    return tuple(found)
