"""A proc folder that tests fill with processes of their own, each with a CPU clock.

Shows what a kernel shows: a parent's ``children`` lists, times of ended children in whole clock
ticks of their parent once they were waited for, and the machine's CPU times in ``/proc/stat``.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["TICK_S", "FakeProc"]

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass
class _Process:
    """A live process; `reaped_s` is the CPU time of children that ended and theirs."""

    parent: int
    started: int
    cpu_s: float = 0.0
    reaped_s: float = 0.0
    children: list[int] = field(default_factory=list)


class FakeProc:
    """Write a proc tree and move its clocks.

    Args:
        root: an empty folder; give it to ProcessTree or CpuTimeMeter as `proc`.
        lists: False for a kernel without lists of children (CONFIG_PROC_CHILDREN).
    """

    def __init__(self, root: Path, *, lists: bool = True) -> None:
        self.root = root
        self.lists = lists
        self._live: dict[int, _Process] = {}
        self._forbidden: set[int] = set()

    def start(self, pid: int, *, parent: int = 1, started: int = 100) -> None:
        """Start a process.

        Args:
            pid: its id, not in use.
            parent: id of the process that started it; 1 where that is outside the tree.
            started: its start time, clock ticks since the machine started.
        """
        (self.root / str(pid) / "task" / str(pid)).mkdir(parents=True)
        self._live[pid] = _Process(parent=parent, started=started)
        self._write(pid)
        if parent in self._live:
            self._live[parent].children.append(pid)
            self._write(parent)

    def end(self, pid: int) -> None:
        """End a process that its parent waits for; its own children go to process 1."""
        ended = self._live.pop(pid)
        shutil.rmtree(self.root / str(pid))
        for child in ended.children:
            self._live[child].parent = 1
            self._write(child)
        if ended.parent in self._live:
            parent = self._live[ended.parent]
            parent.children.remove(pid)
            parent.reaped_s += ended.cpu_s + ended.reaped_s
            self._write(ended.parent)

    def burn(self, pid: int, cpu_s: float) -> None:
        """Let a process use so much CPU time, s."""
        self._live[pid].cpu_s += cpu_s

    def clock(self, pid: int) -> float:
        """Return the CPU time of one process, s; give it to a meter as `clock`.

        Raises:
            ProcessLookupError: it is gone.
            PermissionError: it is forbidden.
        """
        if pid in self._forbidden:
            raise PermissionError(errno.EACCES, "Permission denied", str(pid))
        if pid not in self._live:
            raise ProcessLookupError(pid)
        return self._live[pid].cpu_s

    def forbid(self, pid: int) -> None:
        """Take away the permission to read a process's CPU time."""
        self._forbidden.add(pid)

    def write_load(self, busy_s: float, idle_s: float, steal_s: float = 0.0) -> None:
        """Write the CPU times of the whole machine into ``/proc/stat``, in whole ticks."""
        busy, idle, steal = (int(seconds / TICK_S) for seconds in (busy_s, idle_s, steal_s))
        (self.root / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 {steal} 0 0\n")

    def _write(self, pid: int) -> None:
        process = self._live[pid]
        fields = ["S", str(process.parent), *["0"] * 50]
        fields[13] = str(int(process.reaped_s / TICK_S))
        fields[19] = str(process.started)
        folder = self.root / str(pid)
        (folder / "stat").write_text(f"{pid} (a) b (c)) {' '.join(fields)}\n")
        if self.lists:
            children = " ".join(map(str, process.children))
            (folder / "task" / str(pid) / "children").write_text(children)
