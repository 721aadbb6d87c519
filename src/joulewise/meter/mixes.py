"""Keep one CPU busy with one instruction mix: what the child processes of a load staircase do.

The mixes lie far apart on purpose, as their spread stands for that of all programs: branches and
pointers (python, sort, zlib), integer units (hash), vector units (matmul, exp), the memory bus
(stream) and its latency (gather). Each runs in one thread until it is told to stop.

A module of its own, as child processes load nothing else: ``python -m joulewise.meter.mixes``.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from joulewise.core.child import serve

__all__ = ["MIXES", "Worker"]

Iterate = Callable[[], object]
"""One piece of work, of milliseconds."""

SMALL_BYTES = 1 << 18
"""Size of what stays in a core's own caches, bytes."""

STOP_S = 30.0
"""Longest time that the last piece of work may take, s."""


def _python(_array_bytes: int) -> Iterate:
    """Interpret branches and small integers: the lengths of Collatz sequences."""

    def iterate() -> int:
        steps = 0
        for start in range(1, 200):
            number = start
            while number != 1:
                number = 3 * number + 1 if number % 2 else number // 2
                steps += 1
        return steps

    return iterate


def _matmul(_array_bytes: int) -> Iterate:
    """Multiply float32 matrices that fit into the second-level cache, in one thread of BLAS."""
    random = np.random.default_rng(0)
    left, right = random.random((2, 256, 256), dtype=np.float32)
    out = np.empty_like(left)
    return lambda: np.matmul(left, right, out=out)


def _stream(array_bytes: int) -> Iterate:
    """Add two arrays into a third, which together are far larger than the last-level cache."""
    left, right, out = (np.ones(array_bytes // 8) for _ in range(3))
    return lambda: np.add(left, right, out=out)


def _hash(_array_bytes: int) -> Iterate:
    """Digest bytes."""
    data = np.random.default_rng(0).bytes(SMALL_BYTES)
    return lambda: hashlib.sha256(data).digest()


def _gather(array_bytes: int) -> Iterate:
    """Pick values from all over an array: each waits for memory."""
    table = np.ones(array_bytes // 8)
    places = np.random.default_rng(0).integers(len(table), size=SMALL_BYTES // 8)
    out = np.empty(len(places))
    return lambda: np.take(table, places, out=out, mode="clip")


def _exp(_array_bytes: int) -> Iterate:
    """Compute exponentials of float64 values in the first-level cache."""
    values = np.random.default_rng(0).random(SMALL_BYTES // 64)
    out = np.empty_like(values)
    return lambda: np.exp(values, out=out)


def _zlib(_array_bytes: int) -> Iterate:
    """Compress text."""
    letters = np.random.default_rng(0).integers(97, 105, SMALL_BYTES // 8, dtype=np.uint8)
    text = letters.tobytes()
    return lambda: zlib.compress(text, 6)


def _sort(_array_bytes: int) -> Iterate:
    """Sort a list of Python's integers."""
    numbers = np.random.default_rng(0).integers(1 << 40, size=20_000).tolist()
    return lambda: sorted(numbers)


MIXES: Mapping[str, Callable[[int], Iterate]] = {
    "python": _python,
    "matmul": _matmul,
    "stream": _stream,
    "hash": _hash,
    "gather": _gather,
    "exp": _exp,
    "zlib": _zlib,
    "sort": _sort,
}
"""Name -> what prepares it, given the bytes of a large array. Any first few lie far apart."""


class Worker:
    """Work on one mix at a time in a thread of this process."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, mix: str, array_bytes: int) -> None:
        """Begin to work; returns once all is prepared.

        Args:
            mix: name in MIXES.
            array_bytes: size of each large array, bytes.
        """
        self.stop()
        iterate = MIXES[mix](array_bytes)
        self._stopped.clear()
        self._thread = threading.Thread(target=self._work, args=(iterate,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the work, if there is any."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_S)
            self._thread = None

    def _work(self, iterate: Iterate) -> None:
        while not self._stopped.is_set():
            iterate()


if __name__ == "__main__":
    worker = Worker()
    serve({"start": worker.start, "stop": worker.stop})
