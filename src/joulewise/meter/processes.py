"""Read the exact CPU time of processes and all that they started (Linux).

Live processes are read from their POSIX CPU clock (nanoseconds, all threads, ended ones too), and
children that were waited for from their parent's ``cutime + cstime`` (clock ticks). A parent is
read before its children, so that a child which ends in between is missed once, never counted twice.

Invariant: a reading never falls. What a child ran is known to the nanosecond while it lives and to
two clock ticks afterwards, so a running maximum per root hides the rounding.

Not seen: a process that detached itself from its parent, and children of a parent that ignores
SIGCHLD (the kernel discards their times).
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from joulewise.core.errors import SensorError

__all__ = ["PROC", "ProcessTree", "process_cpu_s"]

PROC = Path("/proc")

# Positions in /proc/<pid>/stat after the command name, whose own field may hold spaces.
# Source: proc_pid_stat(5); field n there is index n - 3 here.
PARENT, CUTIME, CSTIME, START_TIME = 1, 13, 14, 19

Children = Callable[[int], Sequence[int]]


def process_cpu_s(pid: int) -> float:
    """Read the CPU time of all threads of a process, s.

    Args:
        pid: a live process or a zombie.

    Raises:
        OSError: the process does not exist.

    Source: MAKE_PROCESS_CPUCLOCK in linux/include/linux/posix-timers_types.h; the number of the
    clock is ~pid shifted by 3, with 2 for CPUCLOCK_SCHED.
    """
    return time.clock_gettime(((~pid) << 3) | 2)


@dataclass(frozen=True)
class _Stat:
    """What is needed of /proc/<pid>/stat; times in clock ticks."""

    parent: int
    reaped_ticks: int
    start_ticks: int


class ProcessTree:
    """Add up the CPU time of processes and of everything that they started.

    Args:
        pids: the roots; a root inside another root's tree is counted there.
        proc: where the proc file system is; another folder in tests.
        clock: reads the CPU time of one process, s; raises OSError where it is gone.

    Raises:
        SensorError: a root does not exist, or its CPU time may not be read.
    """

    def __init__(
        self,
        pids: Sequence[int],
        *,
        proc: Path = PROC,
        clock: Callable[[int], float] = process_cpu_s,
    ) -> None:
        self._proc = proc
        self._clock = clock
        self._tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
        self._started = {pid: self._root_start(pid) for pid in _outermost(pids, proc)}
        self._most_s = dict.fromkeys(self._started, 0.0)
        self.cpu_s()  # a root that ends before the first reading keeps this one

    def cpu_s(self) -> float:
        """Return the CPU time since the roots started, s; a root that ended keeps its last one.

        Raises:
            SensorError: the CPU time of a process may not be read.
        """
        children = _children_of(self._proc)
        for pid, start_ticks in self._started.items():
            stat = _read_stat(self._proc, pid)
            if stat is not None and stat.start_ticks == start_ticks:
                self._most_s[pid] = max(self._most_s[pid], self._tree_s(pid, children))
        return sum(self._most_s.values())

    def _tree_s(self, root: int, children: Children) -> float:
        return sum(self._process_s(pid) for pid in _walk(root, children))

    def _process_s(self, pid: int) -> float:
        """Return own and reaped time of one process, 0 once it has vanished."""
        stat = _read_stat(self._proc, pid)
        try:
            own_s = self._clock(pid)
        except PermissionError as error:
            raise SensorError(
                f"may not read the CPU time of process {pid}; run as its user or as root"
            ) from error
        except OSError:
            return 0.0
        return own_s + (stat.reaped_ticks * self._tick_s if stat is not None else 0.0)

    def _root_start(self, pid: int) -> int:
        stat = _read_stat(self._proc, pid)
        if stat is None:
            raise SensorError(f"process {pid} does not exist; give the id of a running process")
        return stat.start_ticks


def _outermost(pids: Sequence[int], proc: Path) -> tuple[int, ...]:
    """Return the distinct roots that are not inside another root's tree."""
    children = _children_of(proc)
    trees = {pid: set(_walk(pid, children)) for pid in pids}
    return tuple(
        pid for pid in trees if not any(pid in tree for root, tree in trees.items() if root != pid)
    )


def _walk(root: int, children: Children) -> Iterator[int]:
    """Yield a process and its descendants, each parent before its children are asked for."""
    waiting, seen = [root], {root}
    while waiting:
        pid = waiting.pop()
        yield pid
        fresh = [child for child in children(pid) if child not in seen]
        seen.update(fresh)
        waiting.extend(fresh)


def _children_of(proc: Path) -> Children:
    """Return how to find the children of a process: the kernel's lists, else a scan of all."""
    own = proc / str(os.getpid())
    if own.exists():
        listed = (own / "task" / own.name / "children").exists()
    else:
        listed = any(proc.glob("[0-9]*/task/*/children"))
    if listed:
        return lambda pid: _listed_children(proc, pid)
    table = _scanned_children(proc)
    return lambda pid: table.get(pid, ())


def _listed_children(proc: Path, pid: int) -> tuple[int, ...]:
    """Read the children of every thread of a process; none once it has vanished.

    Without pathlib, as this is most of what a reading of a program with many threads costs.
    """
    found: list[int] = []
    tasks = f"{proc}/{pid}/task"
    try:
        threads = os.listdir(tasks)  # noqa: PTH208
    except OSError:
        return ()
    for thread in threads:
        try:
            with open(f"{tasks}/{thread}/children", "rb", buffering=0) as stream:  # noqa: PTH123
                found.extend(map(int, stream.read().split()))
        except OSError:
            continue
    return tuple(found)


def _scanned_children(proc: Path) -> Mapping[int, Sequence[int]]:
    """Return parent -> children over all processes, for kernels without CONFIG_PROC_CHILDREN."""
    table: dict[int, list[int]] = defaultdict(list)
    for entry in proc.glob("[0-9]*"):
        stat = _read_stat(proc, int(entry.name))
        if stat is not None:
            table[stat.parent].append(int(entry.name))
    return table


def _read_stat(proc: Path, pid: int) -> _Stat | None:
    """Read one process's stat file, None once it has vanished."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    if len(fields) <= START_TIME:
        return None
    return _Stat(
        parent=int(fields[PARENT]),
        reaped_ticks=int(fields[CUTIME]) + int(fields[CSTIME]),
        start_ticks=int(fields[START_TIME]),
    )
