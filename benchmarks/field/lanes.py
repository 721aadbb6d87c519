"""Run commands side by side, each on CPUs of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

__all__ = ["cpus", "run_at_once"]


def cpus() -> tuple[int, ...]:
    """Return the CPUs that this process may use; none where the system does not give them out."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def run_at_once(commands: Sequence[Sequence[str]], count: int) -> bool:
    """Run commands, `count` at a time, until all have ended.

    Args:
        commands: with their arguments.
        count: how many share the CPUs, at the most as many as there are.

    Returns:
        Whether all of them ended with exit code 0.
    """
    shares: SimpleQueue[Sequence[int]] = SimpleQueue()
    for number in range(count):
        shares.put(cpus()[number::count])

    def settle() -> None:
        os.sched_setaffinity(0, shares.get())  # of this thread, and of what it starts

    def run(command: Sequence[str]) -> bool:
        return subprocess.run(command, check=False).returncode == 0

    pool = ThreadPoolExecutor(count, initializer=settle)
    try:
        return all(list(pool.map(run, commands)))
    finally:
        pool.shutdown(cancel_futures=True)
